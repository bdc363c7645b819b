// The upload page: a queue of pictures, at most three on their way at once.
"use strict";

const texts = JSON.parse(document.getElementById("texts").textContent);
const element = (id) => document.getElementById(id);
const keyField = element("key");
const LIMIT = 15 * 1024 * 1024;
const AT_ONCE = 3;
const MOST_WAITS = 5;
const queue = [];
const stored = [];
let running = 0;

const signatures = [[0xff, 0xd8, 0xff], [0x89, 0x50, 0x4e, 0x47], [0x47, 0x49, 0x46, 0x38]];

async function refusal(file) {
  if (file.size === 0) return texts.empty;
  if (file.size > LIMIT) return texts.too_large;
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  const ascii = String.fromCharCode(...head);
  const webp = ascii.startsWith("RIFF") && ascii.endsWith("WEBP");
  const known = signatures.some((signature) => signature.every((byte, at) => head[at] === byte));
  return known || webp ? null : texts.wrong_type;
}

class Upload {
  constructor(file) {
    this.file = file;
    this.retryKey = randomKey();
    this.waits = 0;
    this.item = element("upload").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.item.querySelector("." + name);
    this.image = this.item.querySelector("img");
    this.bar = this.item.querySelector("progress");
    this.bar.setAttribute("aria-label", file.name || texts.uploads);
    this.part("name").textContent = file.name || "…";
    this.part("name").id = "name-" + this.retryKey;
    for (const button of this.item.querySelectorAll("button")) {
      button.setAttribute("aria-describedby", "name-" + this.retryKey);
    }
    this.image.src = URL.createObjectURL(file);
    this.image.addEventListener("load", () => URL.revokeObjectURL(this.image.src));
    this.image.addEventListener("error", () => {
      URL.revokeObjectURL(this.image.src);
      this.image.hidden = true;
    });
    this.part("cancel").addEventListener("click", () => this.cancel());
    this.part("retry").addEventListener("click", () => { this.waits = 0; this.begin(); });
    this.part("copy").addEventListener("click", () => copy(this.key, this.part("copy")));
    element("uploads-section").hidden = false;
    element("uploads").append(this.item);
  }

  async begin() {
    this.cancelled = false;
    this.show("", texts.waiting, { cancel: true });
    const reason = await refusal(this.file).catch(() => texts.unreadable_file);
    if (this.cancelled) return;
    if (reason) this.fail(texts.not_sent + " " + reason);
    else this.enqueue();
  }

  enqueue() {
    this.bar.value = 0;
    this.show("", texts.waiting, { cancel: true });
    this.waiting = true;
    queue.push(this);
    next();
  }

  send() {
    this.waiting = false;
    if (keyProblem()) return this.fail(keyProblem());
    running += 1;
    const request = this.request = new XMLHttpRequest();
    const form = new FormData();
    form.append("image", this.file);
    request.open("POST", "/upload/image");
    request.setRequestHeader("x-api-key", keyField.value.trim());
    request.setRequestHeader("Idempotency-Key", this.retryKey);
    request.upload.addEventListener("progress", (event) => {
      this.bar.value = event.lengthComputable ? 100 * event.loaded / event.total : 0;
    });
    request.upload.addEventListener("load", () => {
      this.bar.removeAttribute("value");
      this.state(texts.checking);
    });
    request.addEventListener("load", () => this.answered(request));
    request.addEventListener("error", () => this.fail(texts.offline));
    request.addEventListener("loadend", () => { running -= 1; this.request = null; next(); });
    this.show("", texts.sending, { cancel: true });
    request.send(form);
  }

  answered(request) {
    let answer = null;
    try { answer = JSON.parse(request.responseText); } catch { /* not from the service */ }
    if (request.status === 200 && answer && answer.data) return this.succeed(answer.data.key);
    const seconds = Number(request.getResponseHeader("Retry-After"));
    const detail = (answer && answer.detail) || texts.unreadable.replace("{status}", request.status);
    const curable = [409, 429, 503].includes(request.status) && seconds > 0;
    if (curable && this.waits < MOST_WAITS) this.wait(seconds, detail);
    else this.fail(detail);
  }

  wait(seconds, detail) {
    this.waits += 1;
    this.show("bad", detail, { cancel: true, retry: true });
    announce(detail);
    const end = Date.now() + 1000 * seconds;
    const tick = () => {
      const left = Math.ceil((end - Date.now()) / 1000);
      if (left <= 0) { clearInterval(this.timer); this.timer = null; this.enqueue(); return; }
      this.part("state").textContent = detail + " " + texts.again_in.replace("{seconds}", left);
    };
    this.timer = setInterval(tick, 250);
    tick();
  }

  succeed(key) {
    this.key = key;
    this.bar.value = 100;
    this.show("good", texts.done, { copy: true });
    const code = this.part("stored");
    code.textContent = key;
    code.hidden = false;
    stored.push(key);
    element("keys").textContent = stored.join("\n");
    element("keys-section").hidden = false;
    announce((this.file.name || "") + ": " + texts.done);
  }

  fail(text) {
    this.bar.value = 0;
    this.show("bad", text, { retry: true });
    announce((this.file.name || "") + ": " + text);
  }

  cancel() {
    if (this.waiting) queue.splice(queue.indexOf(this), 1);
    this.waiting = false;
    this.cancelled = true;
    if (this.request) this.request.abort();
    this.bar.value = 0;
    this.show("", texts.cancelled, { retry: true });
  }

  show(kind, text, buttons) {
    clearInterval(this.timer);
    this.timer = null;
    this.item.className = "upload " + kind;
    this.bar.hidden = kind !== "";
    const focused = this.item.contains(document.activeElement);
    for (const name of ["copy", "retry", "cancel"]) this.part(name).hidden = !buttons[name];
    if (focused) this.item.querySelector("button:not([hidden])").focus();
    this.state(text);
  }

  state(text) { this.part("state").textContent = text; }

  get active() { return Boolean(this.request || this.waiting || this.timer); }
}

const all = [];

function add(files) {
  const pictures = [...files];
  if (!pictures.length) return;
  if (keyProblem()) {
    announce(keyProblem());
    keyField.setCustomValidity(keyProblem());
    keyField.reportValidity();
    keyField.focus();
    return;
  }
  for (const file of pictures) {
    const upload = new Upload(file);
    all.push(upload);
    upload.begin();
  }
}

function next() {
  while (running < AT_ONCE && queue.length) queue.shift().send();
}

// A header takes no other characters, and a key that was made for this service has none.
function keyProblem() {
  const key = keyField.value.trim();
  if (!key) return texts.no_key;
  return /^[!-~]+$/.test(key) ? "" : texts.bad_key;
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function announce(text) { element("live").textContent = text; }

async function copy(text, button) {
  button.dataset.label ??= button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.closest("li")?.querySelector(".stored") || element("keys"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  button.textContent = texts.copied;
  announce(texts.copied);
  setTimeout(() => { button.textContent = button.dataset.label; }, 1500);
}

element("form").addEventListener("submit", (event) => event.preventDefault());
keyField.addEventListener("input", () => keyField.setCustomValidity(""));
element("show").addEventListener("click", (event) => {
  const masked = keyField.classList.toggle("masked");
  event.target.textContent = masked ? texts.show_key : texts.hide_key;
});
element("files").addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
element("copy-all").addEventListener("click", (event) => copy(stored.join("\n"), event.target));
document.addEventListener("paste", (event) => {
  if (event.target === keyField) return;  // what is copied from a table has a picture beside its text
  if (event.clipboardData.files.length) { event.preventDefault(); add(event.clipboardData.files); }
});
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); element("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("beforeunload", (event) => { if (all.some((upload) => upload.active)) event.preventDefault(); });
