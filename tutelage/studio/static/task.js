// What every task page does: take the task up, keep what is typed, submit it once, say honestly where it is.
//
// A page module gives the four things only it knows:
//   collect()      the draft's body, as it stands
//   restore(body)  put a body back on the page
//   answer()       the body to submit
//   missing()      what is not there yet, as {text, go()}, or null
//   early()        what was typed before the studio answered, or null; a page without it starts empty

import { base, call, freshKey, passing, problemOf } from "./calls.js";
import * as kept from "./kept.js";
import { Stopwatch } from "./stopwatch.js";

const SOON = 1200; // milliseconds from an input to its draft's being sent: with the call's own time under two seconds
const LONGEST_WAIT = 30_000;
const $ = (selector) => document.querySelector(selector);
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");

export class Task {
  constructor(page) {
    const root = $("#task");
    this.page = page;
    this.id = root.dataset.id;
    this.kind = root.dataset.kind;
    this.home = root.dataset.home;
    this.fence = this.revision = 0;
    this.typed = this.acknowledged = 0; // counts of changes: typed here, held by the studio
    this.failures = 0;
    this.state = "opening"; // opening, open, submitting, gone, done
    this.pending = null;
    this.watch = new Stopwatch((text) => ($("#time").textContent = text));
    this.others = "BroadcastChannel" in window ? new BroadcastChannel(`tutelage:${this.id}`) : null;
  }

  // ---- taking it up ----------------------------------------------------------------------------------------------

  /** Take the task up, with the newer of what the studio and this computer have; resolves when it can be worked on. */
  async open() {
    kept.tidy();
    this.wire();
    await this.takeUp();
  }

  async takeUp() {
    for (let wait = 1000; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      const reply = await call("POST", `/api/task/${this.id}/open`);
      if (reply.ok) return this.begin(reply.data);
      if (!passing(reply)) return this.gone(problemOf(reply));
      this.trouble(reply);
      await this.pause(wait);
    }
  }

  begin(there) {
    const here = kept.read(this.id);
    const again = this.state === "gone"; // "Go on here": what stands on this page wins
    const onPage = again ? this.page.collect() : null;
    this.fence = there.fence;
    this.revision = there.revision;
    this.revising = there.state === "submitted";
    $("#task").dataset.revising = String(this.revising);
    if (here) kept.write(this.id, { ...here, fence: this.fence }); // older tabs see by it that they are older
    this.others?.postMessage({ fence: this.fence });
    this.watch.from(Math.max(there.seconds ?? 0, here?.seconds ?? 0));
    this.state = "open";
    this.notice("");
    if (again) {
      this.page.restore(onPage);
      this.changed();
    } else {
      this.choose(there, here);
    }
    if (!there.held) this.lost();
    if (here?.pending && !again) this.resend(here.pending);
  }

  /** The newer of the two drafts goes on the page, and the page says which; the other one is kept aside. */
  choose(there, here) {
    const body = there.draft?.body ?? null;
    const typedHere = here?.dirty && !same(here.body, body);
    const older = typedHere && body && there.revision > here.revision && (there.draft.at ?? 0) > here.at;
    if (typedHere && !older) {
      this.page.restore(here.body);
      this.said = `Restored what was kept on this computer at ${clock(here.at)}; the studio had ${body ? "an older version" : "nothing"}.`;
      if (body && there.revision > here.revision) this.setAside(body, there.draft.at);
      this.changed(here.at);
    } else if (body) {
      if (older) this.setAside(here.body, here.at);
      this.page.restore(body);
      this.said = `Restored revision ${there.revision}${there.draft.at ? `, of ${clock(there.draft.at)}` : ""}, from the studio.`;
      this.savedAt = there.draft.at ?? Date.now();
      this.keepHere(false);
      this.status();
    } else {
      const early = there.earlier ? null : this.page.early?.();
      this.page.restore(early ?? there.earlier ?? null);
      if (early) this.changed();
      if (there.earlier) this.said = "This is your answer as submitted. What you submit now replaces it; the old one stays on record.";
      this.status();
    }
    this.notice(this.said ?? "");
    this.offerAside();
  }

  setAside(body, at) {
    kept.write(this.id, { body, at: at ?? Date.now() }, "aside");
  }

  offerAside() {
    const aside = kept.read(this.id, "aside");
    $("#aside").hidden = !aside || same(aside.body, this.page.collect());
    if (aside) $("#aside-when").textContent = clock(aside.at);
  }

  // ---- keeping it ------------------------------------------------------------------------------------------------

  /** Something was typed or chosen: keep it here at once, at the studio soon. */
  changed(at = Date.now()) {
    if (this.state === "done" || this.state === "opening") return;
    this.typed += 1;
    this.at = at;
    this.keepHere(true);
    this.status();
    if (this.state === "open" && !this.timer && !this.sending) this.later(SOON);
  }

  keepHere(dirty) {
    const body = this.page.collect();
    const newer = kept.read(this.id);
    if (newer && newer.fence > this.fence && this.state !== "gone") return this.gone("this task was opened in another tab");
    const entry = { fence: this.fence, revision: this.revision, dirty, at: this.at ?? Date.now(), seconds: this.watch.seconds, body };
    if (this.pending) entry.pending = this.pending;
    this.here = kept.write(this.id, entry, this.state === "gone" ? "aside" : "main");
  }

  later(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.push(), wait);
  }

  /** Send the draft; again, ever less often, while the studio does not answer. */
  async push(leaving = false) {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.state !== "open" || this.sending || this.typed === this.acknowledged) return;
    this.sending = true;
    const typed = this.typed;
    const draft = { fence: this.fence, seconds: this.watch.seconds, body: { body: this.page.collect(), at: this.at } };
    const small = leaving && JSON.stringify(draft).length < 60_000; // what a browser sends on while a page goes away
    const reply = await call("PUT", `/api/task/${this.id}/draft`, draft, { keepalive: small });
    this.sending = false;
    if (this.state !== "open") return;
    if (reply.ok) {
      const { revision, fence, held } = reply.data;
      [this.revision, this.fence, this.acknowledged, this.failures] = [revision, fence, typed, 0];
      this.savedAt = Date.now();
      this.keepHere(this.typed !== typed);
      this.calm();
      if (!held) this.lost();
      if (this.typed !== typed) this.later(SOON);
    } else if (reply.status === 409) {
      this.gone(problemOf(reply));
    } else {
      this.trouble(reply);
      if (passing(reply)) this.later(this.wait());
    }
    this.status();
  }

  wait() {
    this.failures += 1;
    return Math.min(1000 * 2 ** this.failures, LONGEST_WAIT);
  }

  /** The network or the tab is back: do at once what waits. */
  nudge() {
    this.wake?.();
    if (this.state === "open" && this.typed !== this.acknowledged) this.push();
  }

  pause(wait) {
    return new Promise((done) => {
      const timer = setTimeout(done, wait);
      this.wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }

  // ---- submitting ------------------------------------------------------------------------------------------------

  /** Submit once. The key is kept until the studio has acknowledged it: the same press never counts twice. */
  async submit() {
    if (this.state !== "open") return;
    const missing = this.page.missing();
    if (missing) {
      this.say(missing.text);
      missing.go?.();
      return;
    }
    await this.resend({ key: freshKey(), body: this.page.answer(), seconds: this.watch.seconds });
  }

  async resend(pending) {
    this.pending = pending;
    this.state = "submitting";
    clearTimeout(this.timer);
    this.timer = null;
    this.keepHere(true);
    $("#submit").disabled = true;
    this.say("Submitting…");
    for (this.failures = 0; this.pending === pending; ) {
      const reply = await call("POST", `/api/task/${this.id}/submit`, { ...pending, fence: this.fence });
      if (this.pending !== pending) return;
      if (reply.ok) return this.finish(reply.data);
      if (!passing(reply)) {
        this.reopen();
        if (reply.status === 409) return this.gone(problemOf(reply));
        return this.notice(`Not submitted: ${problemOf(reply)}`, "problem");
      }
      this.trouble(reply, "Your answer is kept on this computer and is submitted by itself as soon as the studio answers.");
      $("#unsubmit").hidden = false;
      await this.pause(this.wait());
    }
  }

  /** Go on editing what was not submitted yet. */
  reopen() {
    this.pending = null;
    this.state = "open";
    $("#submit").disabled = false;
    $("#unsubmit").hidden = true;
    this.calm();
    this.say("");
    this.changed();
    this.wake?.();
  }

  async finish(receipt) {
    this.state = "done";
    this.pending = null;
    for (const which of ["main", "aside"]) kept.forget(this.id, which);
    this.calm();
    this.notice(receipt.extra ? "Submitted. Others had finished this task meanwhile; yours is kept as an extra." : "Submitted.");
    await this.next(receipt.number > 1 ? this.home : null);
  }

  /** Go where the work goes on: the next task of this kind, else the desk. */
  async next(where) {
    while (!where) {
      const reply = await call("POST", `/api/next/${this.kind}`);
      if (reply.ok || !passing(reply)) where = reply.data.next ?? this.home;
      else {
        this.trouble(reply, "Your answer is booked; the next task comes as soon as the studio answers.");
        await this.pause(this.wait());
      }
    }
    location.assign(base + where);
  }

  // ---- giving it back --------------------------------------------------------------------------------------------

  async giveBack(how, reason = "") {
    if (this.typed !== this.acknowledged) await this.push();
    if (this.state !== "open") return;
    const form = new FormData();
    if (reason) form.set("reason", reason);
    const reply = await call("POST", `/task/${this.id}/${how}`, form);
    if (!reply.ok) return this.notice(`That did not work: ${problemOf(reply)}. Nothing is lost.`, "problem");
    this.state = "done";
    await this.next();
  }

  // ---- saying it -------------------------------------------------------------------------------------------------

  /** Where the words are, in one line that is always there. */
  status() {
    const line = $("#status");
    const soon = this.here && !this.failures && ["open", "submitting"].includes(this.state); // as it goes at every key: no cause to worry
    let text;
    if (this.state === "gone") text = "kept on this computer only";
    else if (this.typed !== this.acknowledged) {
      text = soon ? "saving…" : this.here ? "kept on this computer, not yet on the server" : "not kept yet: this computer's storage is full or off";
    } else if (this.revision && this.savedAt) text = `saved at ${clock(this.savedAt)}, revision ${this.revision}`;
    else text = "nothing to save yet";
    if (line.textContent !== text) line.textContent = text;
    line.dataset.state = this.typed === this.acknowledged ? "saved" : soon ? "saving" : "kept";
  }

  /** A short remark beside the buttons, read out by screen readers; gone after a while. */
  say(text) {
    $("#remark").textContent = text;
    clearTimeout(this.remark);
    if (text && this.state === "open") this.remark = setTimeout(() => ($("#remark").textContent = ""), 6000);
  }

  /** What the page has to tell before anything else; stays. */
  notice(text, kind = "note") {
    const box = $("#notice");
    box.hidden = !text;
    box.className = kind;
    box.querySelector("span").textContent = text;
    $("#here").hidden = this.state !== "gone";
  }

  trouble(reply, more = "") {
    const out = reply.status === 401;
    const words = more || (out || passing(reply) ? "What you write is kept on this computer, and sent as soon as it can be." : "");
    $("#trouble").hidden = false;
    $("#trouble-text").textContent = out
      ? `You are logged out. Log in again in another tab; this page goes on by itself. ${words}`
      : reply.status === 0
        ? `The studio does not answer. ${words}`
        : `The studio could not take this: ${problemOf(reply)}. ${words}`;
    $("#login").hidden = !out;
  }

  calm() {
    $("#trouble").hidden = true;
  }

  lost() {
    this.notice("Your time on this task ran out, and its place went to somebody else. What you write is kept; you may still submit it, as an extra.");
  }

  /** Another tab has this task now, or it is not there any more: nothing from here is sent, nothing here is lost. */
  gone(why) {
    if (this.state === "done") return;
    this.state = "gone";
    clearTimeout(this.timer);
    this.calm();
    if (this.typed !== this.acknowledged) this.keepHere(true);
    this.notice(`${why[0].toUpperCase()}${why.slice(1)}. This page no longer saves to the studio; what stands here is kept on this computer.`, "problem");
    this.status();
  }

  wire() {
    addEventListener("online", () => this.nudge());
    addEventListener("focus", () => this.nudge());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.push(true) : this.nudge()));
    addEventListener("pagehide", () => this.push(true));
    addEventListener("pageshow", (event) => event.persisted && location.reload()); // back: as it stands now
    addEventListener("storage", (event) => event.key?.endsWith(`${this.id}:aside`) && this.state === "open" && this.offerAside());
    this.others?.addEventListener("message", ({ data }) => {
      if (data.fence > this.fence && this.state !== "done") this.gone("this task was opened in another tab");
    });
    $("#submit").addEventListener("click", () => this.submit());
    $("#unsubmit").addEventListener("click", () => this.reopen());
    $("#here").addEventListener("click", () => this.takeUp());
    $("#aside-show").addEventListener("click", () => this.swap());
    $("#aside-forget").addEventListener("click", () => {
      kept.forget(this.id, "aside");
      $("#aside").hidden = true;
    });
    $("#postpone").addEventListener("click", () => this.giveBack("postpone"));
    this.wireSkip();
  }

  wireSkip() {
    const dialog = $("#skip-dialog");
    $("#skip").addEventListener("click", () => dialog.showModal());
    dialog.querySelector("form").addEventListener("submit", (event) => {
      if (event.submitter?.value !== "skip") return;
      const form = new FormData(event.target);
      const reason = [form.get("why"), form.get("words")].map((t) => (t ?? "").trim()).filter(Boolean).join(": ");
      if (reason) return this.giveBack("skip", reason);
      event.preventDefault();
      dialog.querySelector("textarea").focus();
    });
  }

  /** Show the other version that was kept; this one takes its place aside. */
  swap() {
    const aside = kept.read(this.id, "aside");
    if (!aside) return;
    this.setAside(this.page.collect(), this.at);
    this.page.restore(aside.body);
    this.changed();
    this.offerAside();
  }
}

function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}
