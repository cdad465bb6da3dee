// What is kept on this computer: one entry for a task, written at every input, so that a crash costs nothing.
//
//   {fence, revision, dirty, at, seconds, body, pending?}
//
// revision: the last one the studio acknowledged; dirty: something was typed since; at: when, milliseconds since 1970;
// pending: {key, body, seconds} of a submit that was not acknowledged yet. A second entry, "aside", holds what lost
// against a newer version: it is offered, never thrown away unasked.

const PREFIX = "tutelage:task:";
const OLDEST = 30 * 24 * 3600 * 1000; // entries of tasks nobody came back to

/** The entry of a task; null where there is none, or none that can be read. */
export function read(id, which = "main") {
  try {
    const entry = JSON.parse(localStorage.getItem(`${PREFIX}${id}:${which}`));
    return entry && typeof entry === "object" && entry.body && typeof entry.body === "object" ? entry : null;
  } catch {
    return null;
  }
}

/** Write an entry; false where this computer will not keep it (its storage is full or switched off). */
export function write(id, entry, which = "main") {
  try {
    localStorage.setItem(`${PREFIX}${id}:${which}`, JSON.stringify(entry));
    return true;
  } catch {
    return false;
  }
}

/** Forget an entry. */
export function forget(id, which = "main") {
  try {
    localStorage.removeItem(`${PREFIX}${id}:${which}`);
  } catch {
    // storage is switched off: there is nothing to forget
  }
}

/** Forget what has lain here for a month. */
export function tidy(now = Date.now()) {
  try {
    for (const name of Object.keys(localStorage).filter((n) => n.startsWith(PREFIX))) {
      const [id, which] = name.slice(PREFIX.length).split(":");
      if (now - (read(id, which)?.at ?? 0) > OLDEST) forget(id, which);
    }
  } catch {
    // storage is switched off
  }
}

/** A remembered choice of this browser, such as whether the guidelines are open. */
export function remembered(name, otherwise) {
  try {
    return localStorage.getItem(`tutelage:choice:${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`tutelage:choice:${name}`, value);
  } catch {
    // a choice that is not remembered is made again
  }
}
