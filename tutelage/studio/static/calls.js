// Calls to the studio. Nothing here throws: a network that is gone is an answer too, with status 0.

/** The public path in front of all the studio's addresses: "" at the root of its host. */
export const base = new URL("..", import.meta.url).pathname.replace(/\/$/, "");

const PATIENCE = 20_000; // milliseconds before a call counts as lost

/** Send JSON (or a form); answers {ok, status, data}, data being the answer's JSON or {}. */
export async function call(method, path, body, { keepalive = false } = {}) {
  const form = body instanceof FormData;
  const headers = { accept: "application/json" };
  if (body !== undefined && !form) headers["content-type"] = "application/json";
  try {
    const reply = await fetch(base + path, {
      method,
      headers,
      keepalive,
      body: body === undefined ? undefined : form ? body : JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE),
    });
    const json = (reply.headers.get("content-type") ?? "").includes("json");
    const data = json ? await reply.json() : {};
    return { ok: reply.ok, status: reply.status, data };
  } catch {
    return { ok: false, status: 0, data: {} };
  }
}

/** What went wrong, in the studio's own words where it gave some. */
export function problemOf(reply) {
  if (typeof reply.data.problem === "string") return reply.data.problem;
  if (reply.status === 0) return "the studio does not answer";
  return `the studio answered ${reply.status}`;
}

/** Whether trying again later may help: no network, a restart, a busy database; not a mistake of ours. */
export function passing(reply) {
  return reply.status === 0 || reply.status === 401 || reply.status === 429 || reply.status >= 500;
}

/** A key that no other press of a button has: 32 hexadecimal digits. Works without a secure context. */
export function freshKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
