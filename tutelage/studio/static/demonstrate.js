// Writing a response: the field, its preview, and the further pairs of a few-shot prompt.

import { call } from "./calls.js";
import { Keys } from "./keys.js";
import { everywhere, reading } from "./reading.js";
import { Task } from "./task.js";

const PREVIEW = 250; // milliseconds without an input before the preview follows
const $ = (selector) => document.querySelector(selector);
const field = $("#response");
const pairs = $("#pairs");

const page = {
  collect: () => ({ response: field.value, ...(pairs ? { rows: rows() } : {}) }),
  restore(body) {
    field.value = text(body?.response);
    if (pairs) {
      pairs.replaceChildren();
      const given = Array.isArray(body?.rows) ? body.rows : [];
      for (const row of given) addPair(text(row?.query), text(row?.response));
      while (pairs.children.length < 3) addPair();
    }
    count();
    preview();
  },
  answer: () => page.collect(),
  early: () => (field.value.trim() ? page.collect() : null),
  missing() {
    if (!field.value.trim()) return { text: "Write a response first.", go: () => field.focus() };
    for (const row of pairs?.querySelectorAll(".pair") ?? []) {
      const [query, response] = row.querySelectorAll("textarea");
      const empty = !query.value.trim() ? query : !response.value.trim() ? response : null;
      if (empty && (query.value + response.value).trim())
        return { text: "One pair has only one side. Fill both sides, or neither.", go: () => empty.focus() };
    }
    return null;
  },
};
const task = new Task(page);

function text(value) {
  return typeof value === "string" ? value : "";
}

function rows() {
  return Array.from(pairs.querySelectorAll(".pair"), (pair) => {
    const [query, response] = pair.querySelectorAll("textarea");
    return { query: query.value, response: response.value };
  });
}

function addPair(query = "", response = "") {
  const pair = $("#pair").content.cloneNode(true).firstElementChild;
  const [one, other] = pair.querySelectorAll("textarea");
  [one.value, other.value] = [query, response];
  const remove = pair.querySelector("button");
  remove.addEventListener("click", () => {
    const sure = !(one.value + other.value).trim() || remove.dataset.sure;
    if (!sure) {
      remove.dataset.sure = "yes";
      remove.textContent = "Really remove?";
      return;
    }
    pair.remove();
    number();
    task.changed();
  });
  remove.addEventListener("blur", () => {
    delete remove.dataset.sure;
    remove.textContent = "Remove";
  });
  pairs.append(pair);
  number();
  return one;
}

function number() {
  for (const [n, pair] of [...pairs.children].entries()) pair.querySelector("legend").textContent = `Pair ${n + 1}`;
}

function count() {
  const words = field.value.trim().split(/\s+/).filter(Boolean).length;
  $("#words").textContent = `${words} ${words === 1 ? "word" : "words"}`;
}

let waiting, asked = 0;

/** The studio renders; while it does not answer, the text stands as it is. */
async function preview() {
  const mine = ++asked;
  const shown = field.value;
  const box = $("#preview");
  const reply = shown.trim() ? await call("POST", "/api/preview", { text: shown }) : { ok: true, data: { html: "" } };
  if (mine !== asked) return;
  if (reply.ok) box.innerHTML = reply.data.html; // made safe by the studio: no script, no attribute, no address
  else box.textContent = shown;
  box.classList.toggle("as-typed", !reply.ok);
  box.dataset.empty = String(!shown.trim());
}

field.addEventListener("input", () => {
  count();
  clearTimeout(waiting);
  waiting = setTimeout(preview, PREVIEW);
});
$("#work").addEventListener("input", () => task.changed());
$("#add-pair")?.addEventListener("click", () => {
  addPair().focus();
  task.changed();
});

reading();
new Keys(
  [
    { keys: ["w"], does: "Write", run: () => field.focus() },
    { keys: ["Escape"], does: "Leave the field", run: () => {} },
    ...everywhere(task),
  ],
  { step: () => "write", say: (words) => task.say(words) },
);
task.open();
