// The reader's language, and the few things that all parts of the page need.

export const texts = JSON.parse(document.getElementById("texts").textContent);

export const element = (id) => document.getElementById(id);

const numbers = new Intl.NumberFormat(texts.language);

/** A text with its {places} filled in; numbers as the reader writes them. */
export function fill(text, values) {
  const written = (value) => (typeof value === "number" ? numbers.format(value) : value);
  return text.replace(/\{(\w+)\}/g, (_, name) => written(values[name]));
}

/** What a screen reader says next. */
export function announce(text) { element("live").textContent = text; }
