// Rating each response alone, then ranking them all. Pages are in the address (#1 ... #K, #rank), so that the back
// button works; everything chosen lives in the form's own controls, and in the ranking beside them.

import { dragging } from "./drag.js";
import { Keys } from "./keys.js";
import { Ranking, proposed } from "./ranks.js";
import { everywhere, folding, reading } from "./reading.js";
import { Task } from "./task.js";

const $ = (selector) => document.querySelector(selector);
const root = $("#task");
const cards = [...document.querySelectorAll(".response")];
const names = cards.map((card) => card.dataset.name);
const texts = cards.map((card) => card.querySelector(".plain").textContent.replace(/\r\n?/g, "\n"));
const ranking = new Ranking(cards.length);
const edit = { field: $("#edited"), from: -1 };
let shown = "";
let asked = false; // whether "is this order meant?" was asked
let revised = false; // whether the order comes from an earlier answer rather than from the ratings

// ---- what is on the page ------------------------------------------------------------------------------------------

const likert = (place) => Number(cards[place].querySelector(".likert input:checked")?.value) || null;
const flagsOf = (card) => Object.fromEntries(Array.from(card.querySelectorAll(".flags input:checked"), (box) => [box.name, true]));
const rating = (card, place) => ({ likert: likert(place), flags: flagsOf(card), note: card.querySelector(".note-field").value });
const edited = () => (edit.from >= 0 && edit.field.value.trim() !== texts[edit.from].trim() ? edit.field.value : "");

const page = {
  collect: () => ({ page: shown, asked, revised, ratings: cards.map(rating), log: ranking.log, edited: edited(), from: edit.from }),
  answer: () => ({ ratings: cards.map(rating), ranks: ranking.ranks, log: ranking.log, touched: ranking.touched, edited: edited() }),
  restore(body) {
    for (const [place, card] of cards.entries()) restoreRating(card, body?.ratings?.[place]);
    ranking.restore(body?.log);
    if (Array.isArray(body?.ranks)) ranking.start(proposed(body.ranks.map((rank) => -rank))); // an answer, to be revised
    revised = Array.isArray(body?.ranks) || body?.revised === true;
    asked = body?.asked === true;
    propose();
    edit.from = -1;
    if (typeof body?.edited === "string" && body.edited) {
      edit.from = cards[body.from] ? body.from : Math.max(ranking.best(), 0);
      edit.field.value = body.edited;
      $("#edit").open = true;
    }
    show();
    go(location.hash.slice(1) || (pages().includes(body?.page) ? body.page : "1"), true);
  },
  missing() {
    const unrated = cards.findIndex((_, place) => !likert(place));
    if (unrated >= 0) return { text: `Response ${names[unrated]} is not rated yet.`, go: () => go(String(unrated + 1)) };
    if (shown !== "rank") return { text: "Rank them, then submit.", go: () => go("rank") };
    if (!ranking.touched && !revised && !asked) return { text: "", go: () => ask() };
    return null;
  },
};
const task = new Task(page);

function restoreRating(card, row) {
  for (const radio of card.querySelectorAll(".likert input")) radio.checked = Number(radio.value) === row?.likert;
  for (const box of card.querySelectorAll(".flags input")) box.checked = row?.flags?.[box.name] === true;
  card.querySelector(".note-field").value = typeof row?.note === "string" ? row.note : "";
}

/** Until something is ranked by hand, the order follows the ratings. */
function propose() {
  const likerts = cards.map((_, place) => likert(place));
  if (!ranking.touched && !revised && !likerts.includes(null)) ranking.start(proposed(likerts));
}

function ask() {
  asked = true;
  const dialog = $("#order-dialog");
  $("#order-words").textContent = ranking.words(names);
  dialog.addEventListener("close", () => dialog.returnValue === "submit" && task.submit(), { once: true });
  dialog.showModal();
  task.changed();
}

// ---- pages --------------------------------------------------------------------------------------------------------

const pages = () => [...cards.map((_, place) => String(place + 1)), "rank"];

function go(to, quietly = false) {
  const known = pages().includes(to) ? to : "1";
  if (location.hash === `#${known}`) return turn(quietly);
  // At once, not when the browser gets to say so: the next key may be on its way.
  history[quietly ? "replaceState" : "pushState"](null, "", `#${known}`);
  turn(quietly);
}

function turn(quietly = false) {
  const to = location.hash.slice(1);
  if (!pages().includes(to)) return;
  const other = shown !== to;
  shown = to;
  const rank = to === "rank";
  root.dataset.step = rank ? "rank" : "rate";
  for (const [place, card] of cards.entries()) card.classList.toggle("current", to === String(place + 1));
  for (const link of document.querySelectorAll("#steps a")) {
    if (link.hash === `#${to}`) link.setAttribute("aria-current", "step");
    else link.removeAttribute("aria-current");
  }
  $("#position").textContent = `page ${pages().indexOf(to) + 1} of ${pages().length}`;
  show();
  if (!other) return;
  if (!quietly) {
    const unranked = rank ? control(cards[0]) : null;
    (unranked ?? (rank ? $("#ranking") : cards[Number(to) - 1].querySelector("h2"))).focus({ preventScroll: true });
    scrollTo({ top: 0 });
    task.changed();
  }
}

function step(by) {
  const to = pages()[pages().indexOf(shown) + by];
  if (to) go(to);
}

// ---- ranking ------------------------------------------------------------------------------------------------------

const control = (card) => card.querySelector(".ranks input:checked") ?? card.querySelector(".ranks input");
const current = () => document.activeElement.closest?.(".response") ?? null;

function setRank(place, rank) {
  if (ranking.set(place, rank)) {
    show();
    fill();
    task.changed();
  }
}

/** Bring what is seen in line with what was chosen. */
function show() {
  const ready = !ranking.ranks.includes(null);
  for (const [place, card] of cards.entries()) {
    for (const radio of card.querySelectorAll(".ranks input")) radio.checked = Number(radio.value) === ranking.ranks[place];
    const mark = likert(place);
    card.querySelector(".own").textContent = mark ? `rated ${mark}` : "not rated";
    document.querySelector(`#steps a[href="#${place + 1}"]`).dataset.done = String(Boolean(mark));
  }
  for (const row of document.querySelectorAll("#order [data-rank]")) {
    const holds = names.map((_, place) => place).filter((place) => ranking.ranks[place] === Number(row.dataset.rank));
    row.querySelector(".chips").replaceChildren(...holds.flatMap(chip));
  }
  $("#order-none").hidden = ready;
  edit.field.disabled = !ready;
  $("#order-now").textContent = ready ? ranking.words(names) : "";
  $("#edit-from").textContent = ready ? names[edit.from >= 0 ? edit.from : ranking.best()] : "…";
  root.dataset.touched = String(ranking.touched);
}

function chip(place, n) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", className: "chip", textContent: names[place], tabIndex: -1, title: `Response ${names[place]}: drag it to another rank` });
  made.dataset.place = place;
  return n ? [" = ", made] : [made];
}

/** Put the cards in the order of their ranks; only when asked, since things that move by themselves are hard to read. */
function sort() {
  const order = ranking.groups().flat();
  $("#responses").append(...order.map((place) => cards[place]));
  task.say("The cards are in the order of your ranks now.");
}

function neighbour(by) {
  const shownCards = [...document.querySelectorAll(".response")];
  const at = shownCards.indexOf(current());
  const to = shownCards[at < 0 ? 0 : at + by];
  if (to) focusCard(to);
}

function focusCard(card) {
  control(card).focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

function digit(key) {
  const value = Number(key);
  if (shown !== "rank") {
    const radio = cards[Number(shown) - 1].querySelector(`.likert input[value="${value}"]`);
    if (radio) radio.click();
    return;
  }
  const card = current() ?? cards[0];
  if (value > cards.length) return;
  setRank(cards.indexOf(card), value);
  const next = card.nextElementSibling;
  focusCard(next ?? card);
}

// ---- the best answer, edited --------------------------------------------------------------------------------------

function fill() {
  // Compared to the letter: "toggle" comes late, and by then a space may be all that was typed.
  const touched = edit.from >= 0 && edit.field.value !== texts[edit.from];
  if (!$("#edit").open || touched || ranking.ranks.includes(null)) return;
  edit.from = ranking.best();
  edit.field.value = texts[edit.from];
  show();
}

// ---- wiring -------------------------------------------------------------------------------------------------------

$("#work").addEventListener("input", (event) => {
  if (event.target.closest(".ranks")) return; // told by "change", with the rank
  if (event.target.closest(".likert")) propose();
  show();
  task.changed();
});
$("#work").addEventListener("change", (event) => {
  if (!event.target.closest(".ranks")) return;
  setRank(cards.indexOf(event.target.closest(".response")), Number(event.target.value));
});
$("#edit").addEventListener("toggle", fill);
$("#unedit").addEventListener("click", () => {
  edit.from = -1;
  $("#edit").open = false;
  edit.field.value = "";
  show();
  task.changed();
});
$("#sort").addEventListener("click", sort);
for (const button of document.querySelectorAll("[data-go]")) button.addEventListener("click", () => step(Number(button.dataset.go)));
$("#order").addEventListener("click", (event) => {
  const place = event.target.closest("[data-place]")?.dataset.place;
  if (place !== undefined) focusCard(cards[Number(place)]);
});
dragging($("#order"), setRank);
addEventListener("hashchange", () => turn());

reading();
folding();
const flag = (key) => cards[Number(shown) - 1].querySelector(`.flags input[data-key="${key}"]`)?.click();
const keysOfFlags = Array.from(cards[0].querySelectorAll(".flags input"), (box) => box.dataset.key);
new Keys(
  [
    { keys: ["1", "2", "3", "4", "5", "6", "7"], shown: ["1", "…", "7"], in: "rate", does: "Overall quality", run: digit },
    { keys: keysOfFlags, shown: ["q", "w", "…"], in: "rate", does: "A flag: the letter beside it", run: flag },
    { keys: ["n"], in: "rate", does: "Note", run: () => cards[Number(shown) - 1].querySelector(".note-field").focus() },
    { keys: ["Enter", "j", "ArrowRight"], shown: ["Enter", "j", "→"], in: "rate", does: "Next page", run: () => step(1) },
    { keys: ["k", "ArrowLeft"], shown: ["k", "←"], in: "rate", does: "Page before", run: () => step(-1) },
    { keys: ["1", "2", "3", "4", "5", "6", "7", "8", "9"], shown: ["1", "…", "9"], in: "rank", does: "Rank this response, go to the next; the same rank twice is a tie", run: digit },
    { keys: ["j"], in: "rank", does: "Next response", run: () => neighbour(1) },
    { keys: ["k"], in: "rank", does: "Response before", run: () => neighbour(-1) },
    { keys: ["r"], in: "rank", does: "Back to the ratings", run: () => step(-1) },
    { keys: ["s"], in: "rank", does: "Put the cards in the order of their ranks", run: sort },
    { keys: ["e"], in: "rank", does: "Edit the best response", run: () => (($("#edit").open = true), fill(), edit.field.focus()) },
    { keys: ["Escape"], does: "Leave a field", run: () => {} },
    ...everywhere(task),
  ],
  { step: () => root.dataset.step, say: (words) => task.say(words) },
);
task.open();
