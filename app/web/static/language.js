// The page's texts, and a few functions that all its parts need.

export const texts = JSON.parse(document.getElementById("texts").textContent);

export const element = (id) => document.getElementById(id);

const numbers = new Intl.NumberFormat(texts.language);

/** Fill in the {places} of a text; numbers in the format of the language. */
export function fill(text, values) {
  const written = (value) => (typeof value === "number" ? numbers.format(value) : value);
  return text.replace(/\{(\w+)\}/g, (_, name) => written(values[name]));
}

/** Let screen readers say this text. */
export function announce(text) { element("live").textContent = text; }
