// Whose values: while a group's reward model is being trained, look now and then, and show the page anew when it is done.

import { call } from "./calls.js";

const EVERY = 3000; // milliseconds
const line = document.getElementById("training");

async function look() {
  const reply = await call("GET", "/api/values/training");
  if (reply.ok && reply.data.group !== line.dataset.group) location.reload();
  else setTimeout(look, EVERY);
}

if (line) setTimeout(look, EVERY);
