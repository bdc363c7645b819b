// The API key: it stays in this page's memory. Its limits are asked for as soon as it is entered.

import { mebibytes } from "./files.js";
import { announce, element, fill, texts } from "./language.js";

const ROLE = "uploader";
const DEFAULT_LARGEST = 15 * 1024 * 1024;
const TYPING_PAUSE = 400;  // milliseconds: do not ask about half a key
const field = element("key");
const policies = {
  keep: texts.metadata_keep,
  "no-location": texts.metadata_no_location,
  minimal: texts.metadata_minimal,
};
const periods = {
  second: texts.per_second,
  minute: texts.per_minute,
  hour: texts.per_hour,
  day: texts.per_day,
};

export class Key {
  #changed;
  #timer = null;
  #asking = null;

  /** `changed` is called when uploads may have to wait or may continue. */
  constructor(changed) {
    this.#changed = changed;
    this.state = "none";
    this.limits = null;
    field.addEventListener("input", (event) => {
      this.#become("asking", "");
      this.limits = null;
      this.#show();
      this.#askIn(event.inputType === "insertFromPaste" ? 0 : TYPING_PAUSE);
    });
    element("ask-again").addEventListener("click", () => {
      field.focus();
      this.#askIn(0);
    });
    if (field.value) this.#askIn(0);  // some browsers keep it over a reload
  }

  get value() { return field.value.trim(); }

  /** Whether uploads may be sent. If the service could not be asked, an upload finds out. */
  get usable() { return this.state === "good" || this.state === "unknown"; }

  get largest() { return this.limits?.max_file_size ?? DEFAULT_LARGEST; }

  /** What is wrong with the key as far as this page can see; "" if nothing. */
  get problem() {
    if (!this.value) return texts.no_key;
    // Visible ASCII: a header cannot carry other characters, and no key of this service has any.
    return /^[!-~]+$/.test(this.value) ? "" : texts.bad_key;
  }

  /** Say what is wrong beside the field, and move the focus there. */
  complain() {
    this.#become("refused", this.problem);
    field.focus();
  }

  /** The service refused the key: send nothing until the key changes or is checked again. */
  refuse(status) { this.#become("refused", status === 403 ? texts.no_role : texts.wrong_key); }

  /** Show what is left of the rate by the latest answer. */
  left(remaining) {
    if (!this.limits || this.limits.remaining === remaining) return;
    this.limits.remaining = remaining;
    this.#show();
  }

  #askIn(milliseconds) {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#timer = setTimeout(() => this.#ask(), milliseconds);
  }

  async #ask() {
    if (!this.value) return this.#become("none", "");
    if (this.problem) return this.#become("refused", this.problem);
    const stop = (this.#asking = new AbortController());
    try {
      const headers = { "x-api-key": this.value };
      const answer = await fetch("/upload/limits", { headers, signal: stop.signal });
      if (answer.status === 401) return this.refuse(401);
      if (answer.status !== 200) return this.#become("unknown", "");
      this.#learn((await answer.json()).data);
    } catch {
      if (!stop.signal.aborted) this.#become("unknown", "");
    }
  }

  #learn(limits) {
    this.limits = limits;
    this.#show();
    if (limits.roles.includes(ROLE)) this.#become("good", fill(texts.good_key, { name: limits.name || limits.id }));
    else this.refuse(403);
  }

  #become(state, text) {
    this.state = state;
    element("key-state").textContent = text;
    element("key-state").className = `key-state ${state}`;
    element("ask-again").hidden = state !== "refused" || Boolean(this.problem);
    field.setAttribute("aria-invalid", String(state === "refused"));
    if (text) announce(text);
    this.#changed();
  }

  #show() {
    const limits = this.limits;
    element("limits").hidden = !limits;
    if (!limits) return;
    const [most, period] = limits.rate_limit.split("/");
    const expiry = limits.expires_at && new Date(limits.expires_at);
    const shown = {
      rate: fill(periods[period], { count: Number(most) }),
      left: fill(texts.left_of_rate, { count: limits.remaining }),
      size: fill(texts.up_to_size, { size: mebibytes(limits.max_file_size) }),
      pixels: fill(texts.up_to_pixels, { count: Math.floor(limits.max_image_pixels / 1e6) }),
      formats: limits.formats.map((each) => each.toUpperCase()).join(", "),
      expiry: expiry ? expiry.toLocaleDateString(texts.language, { dateStyle: "medium" }) : "",
      metadata: policies[limits.metadata] ?? "",
    };
    for (const [name, text] of Object.entries(shown)) {
      const value = element(`limit-${name}`);
      if (value.textContent !== text) value.textContent = text;
      value.parentElement.hidden = !text;
    }
  }
}
