// Which picture goes next, and when none may: the only place where time is waited for.

import { announce, fill, texts } from "./language.js";

const AT_ONCE = 3;
const LONGEST_TROUBLE = 60;  // seconds

export class Queue {
  #key;
  #changed;
  #timer = null;
  #running = 0;
  #left = Infinity;  // of the rate, as far as answers have said
  #until = 0;
  #reason = "";
  #troubles = 0;

  constructor(key, changed) {
    this.uploads = [];
    this.#key = key;
    this.#changed = changed;
  }

  /** The one countdown of the page, or "". */
  get pause() {
    const waiting = this.uploads.some((upload) => upload.state === "waiting");
    if (waiting && ["none", "refused"].includes(this.#key.state)) return texts.held;
    if (!waiting || !this.#seconds) return "";
    return `${this.#reason} ${fill(texts.again_in, { seconds: clock(this.#seconds) })}`;
  }

  /** Send what may be sent now. */
  next() {
    while (this.#mayStart()) {
      const upload = this.uploads.find((each) => each.state === "waiting");
      if (!upload) break;
      this.#running += 1;
      this.#left -= 1;
      upload.send(this.#key.value);
    }
    this.#changed();
  }

  /** There is a key, and perhaps what it may do: what an earlier key had left does not count. */
  begin(limits) {
    this.#left = limits?.remaining ?? Infinity;
    if (this.#left > 0) return this.#go();
    this.#until = 0;
    this.#wait(limits.reset, texts.rate_used_up);
    this.#changed();
  }

  /** An upload has ended, whichever way; `rate` is what its answer says of the key's rate. */
  ended({ rate, retryAfter, trouble, reason }) {
    this.#running -= 1;
    if (rate) {
      // Those on their way may have been counted or not; assume that they have not.
      this.#left = rate.remaining - this.#running;
      this.#key.left(rate.remaining);
    }
    if (!trouble) this.#troubles = 0;
    else if (!this.#seconds) this.#troubles += 1;  // three that fail together are one trouble
    if (retryAfter) this.#wait(retryAfter, reason);
    else if (trouble) this.#wait(Math.min(LONGEST_TROUBLE, 2.5 * 2 ** this.#troubles), texts.trouble);
    else if (rate && rate.remaining <= 0 && !this.#running) this.#wait(rate.reset, texts.rate_used_up);
    this.next();
  }

  /** Someone wants to try again: trouble may be over, a rate that is used up is not. */
  hurry() {
    if (!this.#troubles) return this.next();
    this.#troubles = 0;
    this.#go();
  }

  get #seconds() { return Math.max(0, Math.ceil((this.#until - Date.now()) / 1000)); }

  #mayStart() {
    const wait = this.#seconds > 0 || (this.#left < 1 && this.#running > 0);
    return this.#key.usable && !wait && this.#running < AT_ONCE;
  }

  #wait(seconds, reason) {
    const until = Date.now() + 1000 * seconds;
    if (until <= this.#until) return;
    this.#until = until;
    this.#reason = reason;
    if (this.pause) announce(this.pause);
    clearInterval(this.#timer);
    this.#timer = setInterval(() => (this.#seconds ? this.#changed() : this.#resume()), 250);
  }

  /** One goes ahead: its answer says how many may follow. */
  #resume() {
    this.#left = Math.max(1, this.#left);
    this.#go();
  }

  #go() {
    clearInterval(this.#timer);
    this.#until = 0;
    this.next();
  }
}

/** Seconds as people read them: 12 s, 3:05 min. */
function clock(seconds) {
  if (seconds < 100) return `${seconds} s`;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} min`;
}
