// The upload page: a batch of pictures, their sum, and first the pictures that need attention.

import { MOST_FILES, dropped, picked } from "./files.js";
import { Key } from "./key.js";
import { Queue } from "./queue.js";
import { Upload } from "./row.js";
import { copyTable, download, tableOf } from "./table.js";
import { announce, element, fill, texts } from "./language.js";

const ANNOUNCE_EVERY = 4000;  // milliseconds: a screen reader that reads 200 sums is noise
const ROWS_AT_ONCE = 25;  // a few milliseconds of work
const title = document.title;
const batch = element("batch");
const lists = { attention: element("attention"), others: element("uploads") };
let announcedAt = 0;
let isDue = false;

const key = new Key(() => (key.usable ? queue.begin(key.limits) : queue.next()));
const queue = new Queue(key, summarizeSoon);

async function add(found) {
  if (!found.length) return;
  if (key.problem) return key.complain();
  element("note").textContent = found.length > MOST_FILES ? fill(texts.too_many, { count: MOST_FILES }) : "";
  const isFirst = !queue.uploads.length;
  const taken = found.slice(0, MOST_FILES);
  for (let at = 0; at < taken.length; at += ROWS_AT_ONCE) {
    addRows(taken.slice(at, at + ROWS_AT_ONCE));
    if (isFirst && !at) showFirst();
    await new Promise((resolve) => setTimeout(resolve));  // let the browser draw and handle clicks
  }
}

function addRows(found) {
  const context = { key, queue, changed, removed };
  const uploads = found.map((each) => new Upload(each, context));
  queue.uploads.push(...uploads);
  lists.others.append(...uploads.map((upload) => upload.item));
  for (const upload of uploads) upload.begin();
}

/** On a phone the batch is below the key and its limits: bring it into sight. */
function showFirst() {
  summarize();
  if (batch.getBoundingClientRect().top > innerHeight / 2) batch.scrollIntoView();
}

function changed(upload) {
  const list = upload.needsAttention ? lists.attention : lists.others;
  if (upload.item.parentElement && upload.item.parentElement !== list) move(upload, list);
  summarizeSoon();
}

/** Move the row to its place in this list, whose rows are in the order of the files. */
function move(upload, list) {
  const focused = upload.item.contains(document.activeElement) ? document.activeElement : null;
  const after = queue.uploads.slice(queue.uploads.indexOf(upload) + 1);
  list.insertBefore(upload.item, after.find((each) => each.item.parentElement === list)?.item ?? null);
  focused?.focus();
}

function removed(...uploads) {
  const focused = uploads.some((upload) => upload.item.contains(document.activeElement));
  const gone = new Set(uploads);
  queue.uploads = queue.uploads.filter((upload) => !gone.has(upload));
  for (const upload of uploads) upload.item.remove();
  if (focused) (lists.attention.firstElementChild ?? element("files")).focus();
  summarizeSoon();
}

/** Summarize once for all changes of one event, before the browser draws the page. */
function summarizeSoon() {
  if (isDue) return;
  isDue = true;
  queueMicrotask(() => {
    isDue = false;
    summarize();
  });
}

function summarize() {
  const { uploads } = queue;
  const count = (condition) => uploads.filter(condition).length;
  const sum = {
    total: uploads.length,
    stored: count((upload) => upload.state === "stored"),
    attention: count((upload) => upload.needsAttention),
    active: count((upload) => upload.active),
    waiting: count((upload) => upload.state === "waiting"),
    moving: uploads.reduce((done, upload) => done + (upload.state === "checking" ? 1 : upload.done), 0),
  };
  document.body.classList.toggle("has-uploads", sum.total > 0);
  batch.hidden = !sum.total;
  write("sum", fill(texts.sum, sum));
  write("pause", queue.pause);
  write("attention-count", fill(sum.attention === 1 ? texts.attention_one : texts.attention_many, sum));
  element("only").hidden = !sum.attention;
  if (!sum.attention && batch.dataset.only) showOnly(false);
  drawBar(sum);
  element("copy-all").disabled = element("download").disabled = element("clear").disabled = !sum.stored;
  element("retry-all").hidden = count((upload) => upload.needsAttention && upload.mayRetry) < 2;
  element("cancel-all").hidden = sum.waiting < 2;
  document.title = sum.active ? `(${sum.stored}/${sum.total}) ${title}` : title;
  report(sum);
}

function write(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function drawBar({ total, stored, attention, moving }) {
  const parts = { stored, attention, moving };
  for (const [name, number] of Object.entries(parts)) {
    element(`bar-${name}`).style.width = `${total ? (100 * number) / total : 0}%`;
  }
  element("bar").setAttribute("aria-valuemax", Math.max(1, total));
  element("bar").setAttribute("aria-valuenow", stored + attention);
  element("bar").setAttribute("aria-valuetext", element("sum").textContent);
}

/** Announce the sum from time to time and at the end; for a single picture, its outcome. */
function report(sum) {
  const settled = sum.stored + sum.attention;
  if (!settled || report.settled === settled) return;
  if (sum.active && Date.now() - announcedAt < ANNOUNCE_EVERY) return;
  report.settled = settled;
  announcedAt = Date.now();
  const [only] = queue.uploads;
  if (sum.total === 1) announce(`${only.name}: ${only.detail || texts.done}`);
  else announce(sum.attention ? `${sumText()} · ${element("attention-count").textContent}` : sumText());
}

const sumText = () => element("sum").textContent;

/** Show only the pictures that need attention, or all. */
function showOnly(on) {
  if (on) batch.dataset.only = "attention";
  else delete batch.dataset.only;
  element("only").setAttribute("aria-pressed", String(on));
  if (on) lists.attention.firstElementChild.focus();
  else if (!element("only").hidden) element("only").focus();
}

const each = (condition, action) => queue.uploads.filter(condition).forEach(action);

const actions = {
  show: (button) => {
    const masked = element("key").classList.toggle("masked");
    button.textContent = masked ? texts.show_key : texts.hide_key;
  },
  only: () => showOnly(!batch.dataset.only),
  "copy-all": (button) => copyTable(button, tableOf(queue.uploads)),
  download: () => download(tableOf(queue.uploads)),
  clear: () => removed(...queue.uploads.filter((upload) => upload.state === "stored")),
  "retry-all": () => each((upload) => upload.needsAttention && upload.mayRetry, (upload) => upload.retry()),
  "cancel-all": () => each((upload) => upload.state === "waiting", (upload) => upload.cancel()),
};
for (const [id, action] of Object.entries(actions)) {
  element(id).addEventListener("click", (event) => action(event.currentTarget));
}
element("form").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["files", "folder"]) {
  element(id).addEventListener("change", ({ target }) => {
    add(picked(target.files));
    target.value = "";
  });
}
document.addEventListener("keydown", (event) => {
  const alone = Boolean(batch.dataset.only);
  if (element("only").hidden || !(event.key === "F8" || (event.key === "Escape" && alone))) return;
  event.preventDefault();
  showOnly(!alone);
});
document.addEventListener("paste", (event) => {
  if (event.target === element("key")) return;  // copied from a table, a key may come with a picture
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  add(picked(event.clipboardData.files));
});
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").classList.remove("over");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  add(await dropped(event.dataTransfer));
});
addEventListener("beforeunload", (event) => {
  if (queue.uploads.some((upload) => upload.active)) event.preventDefault();
});
