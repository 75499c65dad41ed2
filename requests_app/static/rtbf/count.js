// Says how many characters a text may still have; without script its help text names the limit.
const field = document.querySelector("[data-longest]");
const left = document.getElementById("left");
let waiting;

function say() {
  const used = field.value.replace(/\n/g, "\r\n").length; // a form sends lines so
  left.textContent = `${left.dataset.words} ${Number(field.dataset.longest) - used}`;
}

say();
field.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(say, 500); // a screen reader is told when typing rests
});
