// Copies one key, copies all as a table, or downloads them as CSV.

import { announce, texts } from "./language.js";

/** A heading and one line per file, in the order in which the files were chosen. */
export function tableOf(uploads) {
  const withAddress = uploads.some((upload) => upload.data?.url);
  const heading = [texts.file_name, texts.key_name, ...(withAddress ? [texts.address] : [])];
  const lines = uploads.map(({ name, data }) => {
    const address = withAddress ? [data?.url ?? ""] : [];
    return [safe(name), data?.key ?? "", ...address];
  });
  return [heading, ...lines];
}

/** A spreadsheet runs a cell that begins with one of these signs as a formula: quote it. */
function safe(name) {
  const line = name.replace(/\s+/g, " ");
  return /^[=+\-@]/.test(line) ? `'${line}` : line;
}

const tabs = (table) => table.map((line) => line.join("\t")).join("\n");

/** CSV by RFC 4180. Excel needs its language's separator, and the mark (BOM) to read UTF-8. */
export function csv(table) {
  const cell = (text) => (/[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = table.map((line) => line.map(cell).join(texts.csv_separator));
  return `\ufeff${lines.join("\r\n")}\r\n`;
}

function html(table) {
  const body = document.createElement("table");
  for (const line of table) {
    const row = body.insertRow();
    for (const text of line) row.insertCell().textContent = text;
  }
  return body.outerHTML;
}

export const copyTable = (button, table) => copy(button, tabs(table), html(table));

/** Copy a text, and markup for programs that paste tables. */
export async function copy(button, text, markup = "") {
  try {
    if (markup) await navigator.clipboard.write([item(text, markup)]);
    else await navigator.clipboard.writeText(text);
  } catch {
    copyByCommand(text, markup);  // without HTTPS browsers have no navigator.clipboard
  }
  const label = button.querySelector("span");
  button.dataset.label ??= label.textContent;
  label.textContent = texts.copied;
  announce(texts.copied);
  setTimeout(() => { label.textContent = button.dataset.label; }, 1500);
}

function item(text, markup) {
  const blob = (content, type) => new Blob([content], { type });
  const kinds = { "text/plain": blob(text, "text/plain"), "text/html": blob(markup, "text/html") };
  return new ClipboardItem(kinds);
}

function copyByCommand(text, markup) {
  const fill = (event) => {
    event.clipboardData.setData("text/plain", text);
    if (markup) event.clipboardData.setData("text/html", markup);
    event.preventDefault();
  };
  document.addEventListener("copy", fill, { once: true });
  document.execCommand("copy");
  document.removeEventListener("copy", fill);
}

export function download(table) {
  const address = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = `uploads-${new Date().toLocaleDateString("sv")}.csv`;  // as 2027-01-31
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
