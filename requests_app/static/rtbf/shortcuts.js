// Keys and the search box of staff pages. Everything they do is a link or a form of the page too.
"use strict";
{
  const { off, queue, today } = document.currentScript.dataset;
  const palette = document.getElementById("palette");
  const hits = document.getElementById("palette-hits");
  const form = palette.querySelector("form[role=search]");
  const rows = () => [...document.querySelectorAll("main tbody th a")];
  let waitsForGo = 0;
  let asked = 0;

  const open = (id) => {
    const dialog = document.getElementById(id);
    if (!dialog.open) dialog.showModal();
  };

  const step = (by) => {
    const all = rows();
    const at = all.indexOf(document.activeElement);
    all[Math.min(Math.max(at < 0 ? 0 : at + by, 0), all.length - 1)]?.focus();
  };

  const keys = {
    "/": () => open("palette"),
    "?": () => open("keys"),
    j: () => step(1),
    k: () => step(-1),
    g: () => { waitsForGo = Date.now(); },
  };
  const places = { q: queue, t: today };

  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey) {
      event.preventDefault();
      open("palette");
      return;
    }
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (off !== undefined || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const place = Date.now() - waitsForGo < 1000 && places[event.key];
    waitsForGo = 0;
    if (place) location.assign(place);
    else if (Object.hasOwn(keys, event.key)) keys[event.key]();
    else return;
    event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (!opener || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(opener.dataset.opens);
  });

  form.addEventListener("input", () => {
    const mine = ++asked;
    setTimeout(async () => {
      if (mine !== asked) return;
      const empty = !form.elements.q.value.trim();
      const answer = empty ? null : await fetch(form.action, {
        method: "POST", body: new FormData(form), headers: { "HX-Request": "true" }, redirect: "error",
      }).catch(() => null);
      if (mine !== asked) return;
      hits.innerHTML = answer?.ok ? await answer.text() : "";
    }, 250);
  });
}
