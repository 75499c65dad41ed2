// A button that copies, beside each element with data-copy. Without a clipboard there is none.
"use strict";
if (navigator.clipboard) {
  const { label, done } = document.currentScript.dataset;
  for (const source of document.querySelectorAll("[data-copy]")) {
    const text = source.dataset.copy || source.textContent.trim();
    const button = document.createElement("button");
    button.type = "button";
    button.className = "link copy";
    button.textContent = label;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = done;
      setTimeout(() => { button.textContent = label; }, 2000);
    });
    source.after(" ", button);
  }
}
