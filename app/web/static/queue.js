// Decides which picture is sent next, and when to wait: the only place that waits.

import { announce, fill, texts } from "./language.js";

const AT_ONCE = 3;  // more would only share the same line
const LONGEST_TROUBLE = 60;  // seconds

export class Queue {
  #key;
  #changed;
  #timer = null;
  #running = 0;
  #left = Infinity;  // requests that the rate still allows, those under way counted
  #known = Infinity;  // what is left of the rate by the latest answer
  #answers = 0;
  #knownAt = 0;  // the number of the answer that #known is from
  #until = 0;  // send nothing before this time (of Date.now())
  #reason = "";
  #troubles = 0;  // failures in a row

  constructor(key, changed) {
    this.uploads = [];
    this.#key = key;
    this.#changed = changed;
  }

  /** The text of the one countdown of the page; "" if nothing waits. */
  get pause() {
    const waiting = this.uploads.some((upload) => upload.state === "waiting");
    if (waiting && ["none", "refused"].includes(this.#key.state)) return texts.held;
    if (!waiting || !this.#seconds) return "";
    return `${this.#reason} ${fill(texts.again_in, { seconds: clock(this.#seconds) })}`;
  }

  /** Send as many waiting pictures as may be sent now. */
  next() {
    while (this.#mayStart()) {
      const upload = this.uploads.find((each) => each.state === "waiting");
      if (!upload) break;
      this.#running += 1;
      this.#left -= 1;
      upload.sentAfter = this.#answers;
      upload.send(this.#key.value);
    }
    this.#changed();
  }

  /** Start with a new key, whose limits may be unknown; forget the rate of the key before. */
  begin(limits) {
    this.#left = this.#known = limits?.remaining ?? Infinity;
    this.#knownAt = this.#answers += 1;
    if (this.#left > 0) return this.#go();
    this.#until = 0;
    this.#wait(limits.reset, texts.rate_used_up);
    this.#changed();
  }

  /** An upload has ended, with any result. `rate` is what is left of the key's rate, if known. */
  ended({ sentAfter }, { rate, retryAfter, trouble, reason }) {
    this.#running -= 1;
    this.#answers += 1;
    if (rate) this.#learn(rate.remaining, sentAfter);
    if (!trouble) this.#troubles = 0;
    else if (!this.#seconds) this.#troubles += 1;  // three that fail together count once
    if (retryAfter) this.#wait(retryAfter, reason);
    else if (trouble) this.#wait(Math.min(LONGEST_TROUBLE, 2.5 * 2 ** this.#troubles), texts.trouble);
    else if (rate && rate.remaining <= 0 && !this.#running) this.#wait(rate.reset, texts.rate_used_up);
    this.next();
  }

  /** Someone wants to try again: end a wait after failures, but not a wait for the rate. */
  hurry() {
    if (!this.#troubles) return this.next();
    this.#troubles = 0;
    this.#go();
  }

  /** Answers overtake each other: of requests that ran side by side the smallest number counts. */
  #learn(remaining, sentAfter) {
    const countedLater = sentAfter >= this.#knownAt;
    if (!countedLater && remaining >= this.#known) return;
    this.#known = remaining;
    this.#knownAt = this.#answers;
    // The server may not have counted the requests under way yet: assume that it has not.
    this.#left = remaining - this.#running;
    this.#key.left(remaining);
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

  /** After a wait send one picture: its answer says how many may follow. */
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

/** Format seconds for people: 12 s, 3:05 min. */
function clock(seconds) {
  if (seconds < 100) return `${seconds} s`;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} min`;
}
