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
  guidelines.open = remembered(name, guidelines.dataset.first) === "open";
  guidelines.addEventListener("toggle", () => remember(name, guidelines.open ? "open" : "closed"));
}

export const everywhere = (task) => [
  { keys: ["Ctrl+Enter"], does: "Submit", run: () => task.submit() },
  { keys: ["m"], does: "Plain text or Markdown", run: () => document.querySelector("#plain").click() },
  { keys: ["g"], does: "Guidelines", run: () => document.querySelector("#guidelines summary").click() },
  { keys: ["x"], does: "Skip this task, with a reason", run: () => document.querySelector("#skip").click() },
  { keys: ["b"], does: "Put this task aside", twice: "put this task aside", run: () => document.querySelector("#postpone").click() },
  { keys: ["?"], does: "These shortcuts", run: () => document.querySelector("#help").click() },
];
