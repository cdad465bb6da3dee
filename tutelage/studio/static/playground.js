// The playground: asks the models, shows their answers as they stream, and votes. Their text is only ever set as text.

import { base, call, problemOf } from "./calls.js";

const $ = (id) => document.getElementById(id);
const form = $("ask"), list = $("answers"), status = $("status"), trouble = $("trouble");
let sitting = null; // {key, columns, stopper}

$("example")?.addEventListener("change", (event) => {
  if (event.target.value) $("prompt").value = event.target.value;
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
$("stop").addEventListener("click", () => sitting?.stopper.abort());
$("result").addEventListener("click", (event) => {
  const best = event.target.closest("button")?.dataset.best;
  if (best !== undefined) vote(Number(best));
});

function complain(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

function busy(working) {
  $("send").disabled = working;
  $("stop").disabled = !working;
}

async function ask() {
  sitting?.stopper.abort();
  const mine = { key: "", columns: [], stopper: new AbortController(), over: false };
  sitting = mine;
  complain("");
  busy(true);
  status.textContent = "Asking…";
  try {
    const answer = await fetch(base + "/api/playground/answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        prompt: $("prompt").value,
        round: $("round") ? Number($("round").value) : null,
        blind: $("blind")?.checked ?? false,
        temperature: Number($("temperature").value),
      }),
      signal: mine.stopper.signal,
    });
    if (!answer.ok) {
      throw new Error(problemOf({ status: answer.status, data: await answer.json().catch(() => ({})) }));
    }
    for await (const [kind, data] of eventsOf(answer.body)) {
      if (sitting === mine) heard(mine, kind, data);
    }
    if (!mine.over) throw new Error("the studio stopped answering; ask again");
  } catch (error) {
    if (sitting !== mine) return; // a newer question took its place
    status.textContent = mine.stopper.signal.aborted ? "Stopped." : "";
    if (!mine.stopper.signal.aborted) complain(said(error));
  }
  if (sitting === mine) busy(false);
}

const said = (error) => (error instanceof TypeError ? "the studio does not answer" : error.message);

// Server-sent events, read by hand since the question is a POST.
async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const of = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (of("event")) yield [of("event"), JSON.parse(of("data"))];
    }
  }
}

function heard(mine, kind, data) {
  const column = mine.columns[data.place];
  if (kind === "start") {
    mine.key = data.key;
    mine.columns = data.labels.map(newColumn);
    list.replaceChildren(...mine.columns.map((one) => one.item));
    $("result").hidden = false;
    $("vote").hidden = data.labels.length < 2;
    allow(mine, false);
    if (data.ahead) status.textContent = `${data.ahead} before you; the models answer one question at a time.`;
  } else if (kind === "loading") {
    status.textContent = `${column.label}: the model is being loaded…`;
  } else if (kind === "piece") {
    status.textContent = `${column.label} is being written…`;
    column.text.append(data.text);
  } else if (kind === "end") {
    column.text.textContent = data.text || "(nothing: it ended at once)";
    column.text.classList.toggle("empty", !data.text);
    column.whole = true;
    facts(column, data);
  } else if (kind === "problem") {
    if (!column) return complain(data.text);
    column.problem.textContent = data.text;
    column.problem.hidden = false;
  } else if (kind === "done") {
    mine.over = true;
    status.textContent = data.votable ? "Which answer is best?" : "Done.";
    allow(mine, data.votable);
  }
}

function newColumn(label, place) {
  const item = $("answer").content.firstElementChild.cloneNode(true);
  const find = (name) => item.querySelector(`.answer-${name}`);
  item.querySelector("h2").textContent = label;
  find("best").dataset.best = place;
  find("best").setAttribute("aria-label", `${label} is best`);
  find("text").setAttribute("aria-label", label);
  return {
    item, label, whole: false, title: item.querySelector("h2"), text: find("text"), problem: find("problem"),
    score: find("score"), length: find("length"), best: find("best"),
  };
}

function facts(column, data) {
  column.length.textContent = `${data.tokens} tokens${data.ended ? "" : ", cut at the limit"}`;
  showScore(column, data.score);
}

function showScore(column, score) {
  if (typeof score === "number") column.score.textContent = `score ${score.toFixed(2)}`;
}

function allow(mine, votable) {
  for (const button of $("vote").querySelectorAll("button")) button.disabled = !votable;
  for (const column of mine.columns) {
    column.best.hidden = mine.columns.length < 2;
    column.best.disabled = !votable || !column.whole;
  }
}

async function vote(best) {
  const mine = sitting;
  if (!mine) return;
  allow(mine, false);
  complain("");
  const reply = await call("POST", "/api/playground/vote", { key: mine.key, best });
  if (reply.ok) return unveil(mine, reply.data, best);
  complain(problemOf(reply));
  if (sitting === mine) allow(mine, true);
}

function unveil(mine, { answers }, best) {
  for (const row of answers) {
    const column = mine.columns[row.place];
    column.title.textContent = column.label === row.title ? row.title : `${column.label}: ${row.title}`;
    showScore(column, row.score);
    if (row.problem) column.problem.textContent = row.problem;
    if (row.place === best) {
      column.item.classList.add("chosen");
      column.best.textContent = "Your vote";
      column.best.setAttribute("aria-label", `Your vote: ${column.label}`);
    }
  }
  const chosen = { "-1": "a tie", "-2": "all bad" }[best] ?? `${mine.columns[best].title.textContent} is best`;
  status.textContent = `Thank you. Your vote: ${chosen}.`;
  status.tabIndex = -1;
  status.focus();
}
