// Every shortcut of the labeling pages. The list is frozen by a test: hands remember it.
//
// A shortcut is {keys, does, run, in?}: what to press, in words, what it calls, and on which page ("rate" or "rank") it
// is there. Keys of one letter do nothing while somebody types, while a dialog is open, or when switched off in the
// help (WCAG 2.1.4). `twice` asks for a second press within two seconds.

import { remember, remembered } from "./kept.js";

const TWICE = 2000;

export function typing(target) {
  return target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && /^(text|search|password|number)$/.test(target.type));
}

export class Keys {
  /** step() says which page is shown; say(text) shows a short remark. */
  constructor(shortcuts, { step, say }) {
    this.shortcuts = shortcuts;
    this.step = step;
    this.say = say;
    this.first = { key: "", at: 0 };
    document.addEventListener("keydown", (event) => this.press(event));
    this.fill();
  }

  press(event) {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const whole = (event.ctrlKey || event.metaKey) && event.key === "Enter";
    if (event.key === "Escape" && typing(event.target)) return event.target.blur();
    if (!whole && (event.ctrlKey || event.metaKey || event.altKey || typing(event.target))) return;
    if (!whole && event.key.length === 1 && event.key !== "?" && !this.on()) return;
    const key = whole ? "Ctrl+Enter" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    // Enter and the arrows already mean something on a control that has the focus.
    const control = event.target.closest?.("button, a, summary, select");
    if (key === "Enter" && control) return;
    if (key.startsWith("Arrow") && (control?.matches("select") || event.target.type === "radio")) return;
    const found = this.shortcuts.find((s) => s.keys.includes(key) && (!s.in || s.in === this.step()));
    if (!found) return;
    event.preventDefault();
    if (event.repeat && key.length === 1) return;
    if (found.twice && !(this.first.key === key && Date.now() - this.first.at < TWICE)) {
      this.first = { key, at: Date.now() };
      this.say(`Press ${key} once more to ${found.twice}.`);
      return;
    }
    this.first = { key: "", at: 0 };
    found.run(key);
  }

  /** Whether keys of one letter are on. */
  on() {
    return remembered("keys", "on") === "on";
  }

  /** Write the list into the help. */
  fill() {
    const list = document.querySelector("#keys");
    for (const shortcut of this.shortcuts) {
      const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
      for (const key of shortcut.shown ?? shortcut.keys) {
        const kbd = document.createElement("kbd");
        kbd.textContent = key;
        term.append(kbd, " ");
      }
      detail.textContent = shortcut.does + (shortcut.twice ? " (twice)" : "");
      list.append(term, detail);
    }
    const box = document.querySelector("#keys-on");
    box.checked = this.on();
    box.addEventListener("change", () => remember("keys", box.checked ? "on" : "off"));
  }
}
