// Follows a run by Server-Sent Events: the server draws, this puts it in place. Without EventSource
// htmx polls, by the attributes taken away here; without script the page reloads itself.
(() => {
  const part = document.getElementById("run-progress");
  const words = document.getElementById("run-words");
  if (!part || !words || !window.EventSource) return;
  for (const name of ["hx-get", "hx-trigger", "hx-swap"]) part.removeAttribute(name);

  const told = () => part.firstElementChild?.dataset.words ?? "";
  let said = told();
  let lost = 0;
  const say = text => { if (words.textContent !== text) words.textContent = text; };

  const put = markup => {
    const opened = new Set([...part.querySelectorAll("details[id]")].map(each => each.id + each.open));
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    const log = part.querySelector("#run-log");
    const following = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    const place = log?.scrollTop ?? 0;
    part.innerHTML = markup;
    for (const each of part.querySelectorAll("details[id]")) {
      if (opened.has(each.id + true)) each.open = true;
      if (opened.has(each.id + false)) each.open = false;
    }
    if (focused) document.getElementById(focused)?.focus();
    const now = part.querySelector("#run-log");
    if (now) now.scrollTop = following ? now.scrollHeight : place;
    if (told() !== said) say(said = told());  // steps only, never percents
  };

  const source = new EventSource(`${part.dataset.stream}?after=${part.dataset.after}`);
  source.addEventListener("page", event => put(event.data));
  source.addEventListener("end", () => { source.close(); location.reload(); });
  source.addEventListener("open", () => {
    clearTimeout(lost);
    lost = 0;
    if (words.textContent === words.dataset.lost) say(said);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) say(words.dataset.stopped);
    else if (!lost) lost = setTimeout(() => say(words.dataset.lost), 4000);  // it comes again in 2 s
  });
})();
