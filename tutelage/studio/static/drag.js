// Dragging names between the rows of the order: an extra on top of the radio buttons, which carry the ranking.
// Pointer events, so that a finger drags as well as a mouse.

const SLACK = 6; // pixels before a press is a drag

/** Let `[data-place]` chips below `board` be dropped on its `[data-rank]` rows; drop(place, rank) tells where. */
export function dragging(board, drop) {
  let chip = null, start = null, moved = false;
  const rowAt = (event) => {
    const under = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-rank]");
    return under && board.contains(under) ? under : null;
  };
  const mark = (row) => {
    for (const each of board.querySelectorAll("[data-rank]")) each.classList.toggle("over", each === row);
  };
  const end = () => {
    chip?.classList.remove("dragged");
    if (chip) chip.style.transform = "";
    mark(null);
    chip = null;
  };
  board.addEventListener("pointerdown", (event) => {
    chip = event.button === 0 ? event.target.closest("[data-place]") : null;
    if (!chip) return;
    [start, moved] = [event, false];
    chip.setPointerCapture(event.pointerId);
  });
  board.addEventListener("pointermove", (event) => {
    if (!chip) return;
    const [x, y] = [event.clientX - start.clientX, event.clientY - start.clientY];
    if (!moved && Math.hypot(x, y) < SLACK) return;
    moved = true;
    chip.classList.add("dragged"); // lets what lies under it be found
    chip.style.transform = `translate(${x}px, ${y}px)`;
    mark(rowAt(event));
  });
  board.addEventListener("pointerup", (event) => {
    if (!chip) return;
    const [place, row] = [Number(chip.dataset.place), moved ? rowAt(event) : null];
    end();
    if (row) drop(place, Number(row.dataset.rank));
  });
  board.addEventListener("pointercancel", end);
  // A press that was a drag is no click on the chip.
  board.addEventListener("click", (event) => moved && event.stopImmediatePropagation(), { capture: true });
}
