// Time spent on a task: counted only while the page is visible and somebody uses it.

const IDLE = 60_000; // milliseconds without a key, a click or a move after which nobody is there
const TICK = 1000;

export class Stopwatch {
  /** show(text) is called about once a second while time passes. */
  constructor(show) {
    this.seconds = 0;
    this.show = show;
    this.used = this.last = Date.now();
    for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "input"])
      addEventListener(kind, () => (this.used = Date.now()), { passive: true, capture: true });
    setInterval(() => this.tick(), TICK);
  }

  tick() {
    const now = Date.now();
    const passed = Math.min(Math.max(now - this.last, 0), 2 * TICK); // a computer that slept did not work
    this.last = now;
    if (document.visibilityState === "visible" && now - this.used < IDLE) {
      this.seconds += passed / 1000;
      this.show(minutes(this.seconds));
    }
  }

  /** Go on from what was counted before. */
  from(seconds) {
    this.seconds = Math.max(this.seconds, seconds);
    this.show(minutes(this.seconds));
  }
}

/** 75 seconds are "1:15". */
export function minutes(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
