// Files as people give them: picked, pasted, dropped, whole folders; and what is wrong with one.

import { fill, texts } from "./language.js";

export const MOST_FILES = 2000;
// Stands for a file that the browser may not open.
const UNREADABLE = { size: 1, slice: () => ({ arrayBuffer: () => Promise.reject(new Error()) }) };
const SYSTEM_FILE = /^(\.|Thumbs\.db$|desktop\.ini$)/i;
const SIGNATURES = [[0xff, 0xd8, 0xff], [0x89, 0x50, 0x4e, 0x47], [0x47, 0x49, 0x46, 0x38]];

/** Why this file needs not be sent, as the service would say it; null for a file to send. */
export async function refusal(file, largest) {
  if (file.size === 0) return texts.empty;
  if (file.size > largest) return fill(texts.too_large, { size: mebibytes(largest) });
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  const ascii = String.fromCharCode(...head);
  const webp = ascii.startsWith("RIFF") && ascii.endsWith("WEBP");
  const known = SIGNATURES.some((signature) => signature.every((byte, at) => head[at] === byte));
  return known || webp ? null : texts.wrong_type;
}

export const mebibytes = (bytes) => Math.floor(bytes / 1024 / 102.4) / 10;

/** What was picked, each with the name that the reader knows it by. */
export function picked(files) {
  const found = [...files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  return found.filter((each) => !each.file.webkitRelativePath || !isOfTheSystem(each.file.name));
}

const isOfTheSystem = (name) => SYSTEM_FILE.test(name);

/** What was dropped, with all that is in its folders, each folder in the order of its names. */
export async function dropped(transfer) {
  // Taken before the first wait: after it the browser has emptied the transfer.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = picked(transfer.files);
  if (!entries.some((entry) => entry.isDirectory)) return files;
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (found.length > MOST_FILES) return;
  if (entry.isFile) {
    const name = entry.fullPath.replace(/^\//, "");
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    found.push({ file: file ?? UNREADABLE, name });
    return;
  }
  const inside = await children(entry.createReader());
  inside.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  for (const each of inside) if (!isOfTheSystem(each.name)) await walk(each, found);
}

async function children(reader) {
  const found = [];
  while (found.length <= MOST_FILES) {  // a reader gives a hundred at a time, and at the end none
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) break;
    found.push(...some);
  }
  return found;
}
