// Reading on a task page: plain text or Markdown, guidelines open or not; both are remembered.

import { remember, remembered } from "./kept.js";

export function reading() {
  const plain = document.querySelector("#plain");
  const show = () => {
    const on = plain.getAttribute("aria-pressed") === "true";
    for (const text of document.querySelectorAll(".rendered")) text.hidden = on;
    for (const text of document.querySelectorAll(".plain")) text.hidden = !on;
  };
  plain.setAttribute("aria-pressed", remembered("plain", "false"));
  plain.addEventListener("click", () => {
    const on = plain.getAttribute("aria-pressed") !== "true";
    plain.setAttribute("aria-pressed", String(on));
    remember("plain", String(on));
    show();
  });
  show();
  document.querySelector("#help").addEventListener("click", () => document.querySelector("#help-dialog").showModal());
  const guidelines = document.querySelector("#guidelines");
  const name = `guidelines-${document.querySelector("#task").dataset.kind}`; // wanted beside the writing, in the way of ranks
  const beside = matchMedia("(min-width: 60rem)").matches; // in a narrow window they would stand before the work
  guidelines.open = remembered(name, beside ? guidelines.dataset.first : "closed") === "open";
  guidelines.addEventListener("toggle", () => remember(name, guidelines.open ? "open" : "closed"));
}

/** Texts that are cut, so that the beginnings of all are on one screen, get a button that shows the whole. */
export function folding() {
  for (const button of document.querySelectorAll(".unfold")) {
    const holder = button.closest("[data-open]");
    const texts = [...holder.querySelectorAll(":scope > .rendered, :scope > .plain")];
    const look = () => {
      const open = holder.dataset.open === "true";
      const cut = texts.some((text) => text.scrollHeight > text.clientHeight + 1);
      holder.dataset.cut = String(cut);
      button.hidden = !open && !cut;
      button.textContent = open ? "Less" : "More";
      button.setAttribute("aria-expanded", String(open));
    };
    button.addEventListener("click", () => {
      holder.dataset.open = String(holder.dataset.open !== "true");
      look();
    });
    const watch = new ResizeObserver(look);
    for (const text of texts) watch.observe(text);
  }
}

export const everywhere = (task) => [
  { keys: ["Ctrl+Enter"], does: "Submit", run: () => task.submit() },
  { keys: ["m"], does: "Plain text or Markdown", run: () => document.querySelector("#plain").click() },
  { keys: ["g"], does: "Guidelines", run: () => document.querySelector("#guidelines summary").click() },
  { keys: ["x"], does: "Skip this task, with a reason", run: () => document.querySelector("#skip").click() },
  { keys: ["b"], does: "Put this task aside", twice: "put this task aside", run: () => document.querySelector("#postpone").click() },
  { keys: ["?"], does: "These shortcuts", run: () => document.querySelector("#help").click() },
];
