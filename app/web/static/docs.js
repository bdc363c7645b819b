// The reference: tabs of the samples, the current section in the contents, and the form.
"use strict";

const tabs = [...document.querySelectorAll('[role="tab"]')];

function choose(chosen) {
  for (const tab of tabs) {
    const selected = tab === chosen;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !selected;
  }
}

for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const other = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    choose(other);
    other.focus();
  });
}
choose(tabs[0]);

const links = new Map();
for (const link of document.querySelectorAll('.contents a[href^="#"]')) links.set(link.hash.slice(1), link);
const sight = new IntersectionObserver((entries) => {
  const shown = entries.find((entry) => entry.isIntersecting);
  if (!shown) return;
  for (const link of links.values()) link.removeAttribute("aria-current");
  links.get(shown.target.id).setAttribute("aria-current", "true");
}, { rootMargin: "-10% 0px -80%" });
for (const id of links.keys()) sight.observe(document.getElementById(id));

document.getElementById("try-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const shown = document.getElementById("try-answer");
  const form = new FormData();
  form.append("image", document.getElementById("try-file").files[0]);
  shown.textContent = "…";
  try {
    const answer = await fetch("/upload/image", {
      method: "POST",
      headers: { "x-api-key": document.getElementById("try-key").value.trim() },
      body: form,
    });
    shown.textContent = `${answer.status}\n${JSON.stringify(await answer.json(), null, 2)}`;
  } catch (error) {
    shown.textContent = String(error);
  }
});
