// Keeps a round's page up to date while it trains: asks every two seconds, and puts in only what changed.

import { base } from "./calls.js";

const EVERY = 2000; // milliseconds
const live = document.getElementById("live");
const shown = new Map();

async function look() {
  const answer = await fetch(`${base}/api/rounds/${live.dataset.number}`, { headers: { accept: "application/json" } });
  if (answer.status === 401) return location.reload();
  if (!answer.ok) return undefined;
  const { state, parts } = await answer.json();
  if (state !== live.dataset.state) return location.reload(); // other buttons, and in the end the results
  for (const [id, html] of Object.entries(parts)) {
    if (shown.get(id) === html) continue;
    const element = document.getElementById(id);
    const height = element.offsetHeight;
    element.innerHTML = html; // made and escaped by our own templates
    if (id === "live-log") element.scrollTop = element.scrollHeight;
    if (element.offsetHeight < height) element.style.minHeight = `${height}px`; // nothing below jumps up
    shown.set(id, html);
  }
  return undefined;
}

async function keepLooking() {
  for (;;) {
    await new Promise((wake) => setTimeout(wake, EVERY));
    if (document.hidden) continue;
    try {
      await look();
    } catch {
      // The network or the studio is away; the round trains on, and so does the asking.
    }
  }
}

keepLooking();
