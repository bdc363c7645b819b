// One picture: its file, its state, and its row.

import { refusal } from "./files.js";
import { forget, preview } from "./preview.js";
import { copy } from "./table.js";
import { element, fill, texts } from "./language.js";

const MOST_TRIES = 5;  // then a person decides
const END = 11;  // the last characters of a name, such as "_1234.jpeg": always shown
const ENDED = ["stored", "refused", "cancelled"];
// Statuses for which the same request gets the same answer: offer no retry.
const HOPELESS = [400, 404, 405, 413, 422];

export class Upload {
  #batch;
  #request = null;
  #tries = 0;
  // The same for all tries: if an earlier try was stored after all, nothing is stored twice.
  #idempotencyKey = randomText();

  /** `batch` has `queue`, `key`, `changed(upload)` and `removed(upload)`. */
  constructor({ file, name }, batch) {
    this.file = file;
    this.name = name || "…";
    this.state = "new";
    this.detail = "";
    this.mayRetry = false;
    this.done = 0;  // share of the file that has been sent, 0 to 1
    this.data = null;
    this.sentAfter = 0;  // how many answers the queue had when it sent this
    this.#batch = batch;
    this.item = element("upload").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.item.querySelector(`.${name}`);
    this.#label();
    this.#listen();
    preview(this.part("preview"), file);
  }

  get active() { return !ENDED.includes(this.state); }

  get needsAttention() { return this.state === "refused"; }

  /** Check the file, then wait for its turn. */
  async begin() {
    this.#tries = 0;
    this.#become("looking");
    const reason = await refusal(this.file, this.#batch.key.largest).catch(() => texts.unreadable_file);
    if (this.state !== "looking") return;  // cancelled meanwhile
    if (reason) this.#refuse(`${texts.not_sent} ${reason}`, reason === texts.unreadable_file);
    else this.#become("waiting");
    this.#batch.queue.next();
  }

  /** Send the file; the queue learns the result. */
  send(key) {
    const request = (this.#request = new XMLHttpRequest());
    const form = new FormData();
    form.append("image", this.file);
    request.open("POST", "/upload/image");
    request.setRequestHeader("x-api-key", key);
    request.setRequestHeader("Idempotency-Key", this.#idempotencyKey);
    request.setRequestHeader("Prefer", "return=representation");
    request.upload.addEventListener("progress", (event) => this.#progress(event));
    request.upload.addEventListener("load", () => this.#become("checking"));
    request.addEventListener("loadend", () => this.#ended(request));
    this.#become("sending");
    request.send(form);
  }

  retry() {
    if (!this.active) this.begin();
    this.#batch.queue.hurry();
  }

  cancel() {
    if (!this.active) return;
    this.#become("cancelled", "", true);
    this.#request?.abort();
    this.#batch.queue.next();
  }

  remove() {
    forget(this.part("preview"));
    this.#batch.removed(this);
  }

  #ended(request) {
    this.#request = null;
    this.#batch.queue.ended(this, this.state === "cancelled" ? {} : this.#answered(request));
  }

  /** Apply the answer to this picture; return what it means for the other pictures. */
  #answered(request) {
    const { status } = request;
    const answer = parse(request.responseText);
    if (status === 200 && answer?.data?.key) {
      this.data = answer.data;
      this.#become("stored");
      return { rate: rateOf(request) };
    }
    if (status === 0) {
      this.#refuse(texts.offline, true);
      return { trouble: true };
    }
    const detail = answer?.detail || fill(texts.unreadable, { status: String(status) });
    if (status === 401 || status === 403) {
      this.#become("waiting");
      this.#batch.key.refuse(status);
      return {};
    }
    const retryAfter = Number(request.getResponseHeader("Retry-After"));
    if ([409, 429, 503].includes(status) && retryAfter > 0 && this.#mayWait(status)) {
      this.#become("waiting");
      // Not the answer's sentence: its number of seconds would not count down.
      const reason = answer?.code === "rate_limited" ? texts.rate_used_up : texts.busy;
      return { rate: rateOf(request), retryAfter, reason };
    }
    this.#refuse(detail, !HOPELESS.includes(status));
    return { rate: rateOf(request), trouble: status >= 500 };
  }

  /** Waiting always helps against a used-up rate; against other answers only a few times. */
  #mayWait(status) { return status === 429 || (this.#tries += 1) <= MOST_TRIES; }

  #refuse(detail, mayRetry) { this.#become("refused", detail, mayRetry); }

  #become(state, detail = "", mayRetry = false) {
    Object.assign(this, { state, detail, mayRetry });
    if (state !== "checking") this.done = 0;
    this.#show();
    this.#batch.changed(this);
  }

  #progress(event) {
    if (!event.lengthComputable || this.state !== "sending") return;
    this.done = event.loaded / event.total;
    this.part("progress").value = 100 * this.done;
    this.#batch.changed(this);
  }

  #show() {
    const { state } = this;
    const looks = { stored: "good", refused: "bad", cancelled: "off", sending: "moving", checking: "moving" };
    this.item.className = `upload ${looks[state] ?? ""}`;
    this.part("mark").firstElementChild.setAttribute("href", `#mark-${looks[state] ?? "waiting"}`);
    this.part("state").textContent = this.detail || stateText(state);
    const bar = this.part("progress");
    bar.hidden = !["sending", "checking"].includes(state);
    if (state === "sending") bar.value = 0;
    if (state === "checking") bar.removeAttribute("value");
    if (this.data) this.#showStored();
    this.#buttons();
  }

  #showStored() {
    const shown = this.part("stored");
    shown.hidden = false;
    shown.textContent = this.data.key;
    shown.removeAttribute("href");
    if (this.data.url) shown.href = this.data.url;
  }

  #buttons() {
    const focused = document.activeElement.closest("button");
    this.part("copy").hidden = !this.data;
    this.part("copy-url").hidden = !this.data?.url;
    this.part("retry").hidden = !this.mayRetry;
    this.part("cancel").hidden = !this.active;
    this.part("remove").hidden = this.active || Boolean(this.data);
    if (focused?.hidden && this.item.contains(focused)) this.item.querySelector("button:not([hidden])")?.focus();
  }

  #label() {
    // Names of one day differ at their end: if space is short, the middle is cut.
    const letters = [...this.name];
    this.part("start").textContent = letters.slice(0, -END).join("");
    this.part("end").textContent = letters.slice(-END).join("");
    this.part("name").title = this.name;
    this.part("name").id = `name-${this.#idempotencyKey}`;
    this.part("progress").setAttribute("aria-label", this.name);
    for (const button of this.item.querySelectorAll("button")) {
      button.setAttribute("aria-describedby", `name-${this.#idempotencyKey}`);
    }
  }

  #listen() {
    const actions = {
      copy: (button) => copy(button, this.data.key),
      "copy-url": (button) => copy(button, this.data.url),
      retry: () => this.retry(),
      cancel: () => this.cancel(),
      remove: () => this.remove(),
    };
    for (const [name, action] of Object.entries(actions)) {
      this.part(name).addEventListener("click", (event) => action(event.currentTarget));
    }
  }
}

function stateText(state) {
  if (state === "stored") return texts.done;
  if (state === "sending") return texts.sending;
  if (state === "checking") return texts.checking;
  return state === "cancelled" ? texts.cancelled : texts.waiting;
}

function parse(text) {
  try { return JSON.parse(text); } catch { return null; }  // a proxy's page, for example
}

/** What is left of the key's rate, by draft-ietf-httpapi-ratelimit-headers-11; or null. */
function rateOf(request) {
  const header = request.getResponseHeader("RateLimit") ?? "";
  const found = /;r=(\d+);t=(\d+)/.exec(header);
  return found && { remaining: Number(found[1]), reset: Math.max(1, Number(found[2])) };
}

function randomText() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
