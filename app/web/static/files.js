// Takes files that people pick, paste or drop, whole folders too, and finds files not worth sending.

import { fill, texts } from "./language.js";

export const MOST_FILES = 2000;  // with more rows the page stutters
// A stand-in for a file that the browser may not open: reading it fails.
const UNREADABLE = { size: 1, slice: () => ({ arrayBuffer: () => Promise.reject(new Error()) }) };
const SYSTEM_FILE = /^(\.|Thumbs\.db$|desktop\.ini$)/i;
// JPEG, PNG and GIF begin with these bytes; WebP is checked apart.
const SIGNATURES = [[0xff, 0xd8, 0xff], [0x89, 0x50, 0x4e, 0x47], [0x47, 0x49, 0x46, 0x38]];

/** Why the service would refuse this file, or null if it may accept it. */
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

/** The picked files, each with the name or path that people know. */
export function picked(files) {
  const found = [...files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  return found.filter((each) => !each.file.webkitRelativePath || !isOfTheSystem(each.file.name));
}

const isOfTheSystem = (name) => SYSTEM_FILE.test(name);

/** The dropped files and those in dropped folders, each folder sorted by name. */
export async function dropped(transfer) {
  // Before the first await: after it the browser has emptied the transfer.
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
  while (found.length <= MOST_FILES) {  // readEntries gives up to 100 at a time
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) break;
    found.push(...some);
  }
  return found;
}
