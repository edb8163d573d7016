// The page's only script; its hash stands in the Content-Security-Policy. The page reads whole without it.
"use strict";
(() => {
  const main = document.getElementById("content");

  // ---- films and comparisons: a range input shows a frame, or moves the line between two images

  const shows = (figure, input) => {
    if (figure.classList.contains("compare")) return () => figure.style.setProperty("--split", `${input.value}%`);
    const frames = [...figure.querySelectorAll(".frame")];
    return () => {
      frames.forEach((frame, index) => { frame.hidden = index !== input.valueAsNumber; });
      input.setAttribute("aria-valuetext", frames[input.valueAsNumber].textContent.trim());
    };
  };
  for (const input of document.querySelectorAll("figure input[type=range]")) {
    const figure = input.closest("figure");
    const show = shows(figure, input);
    input.addEventListener("input", show);
    show(); // a browser that goes back restores the slider, not what it moved
    const pair = figure.querySelector(".pair");
    if (!pair) continue;
    const drag = (event) => {
      if (event.buttons !== 1) return;
      const box = pair.getBoundingClientRect();
      input.value = Math.round((100 * (event.clientX - box.left)) / box.width);
      show();
    };
    pair.addEventListener("pointerdown", (event) => { pair.setPointerCapture(event.pointerId); drag(event); });
    pair.addEventListener("pointermove", drag);
  }

  // ---- the contents beside the text follow the reading

  const sidebar = document.querySelector(".sidebar");
  const entries = [...sidebar.querySelectorAll("a")].map((link) => ({
    link, heading: document.getElementById(decodeURIComponent(link.hash.slice(1))),
  }));
  let current = null;
  const follow = () => {
    waiting = false;
    const line = window.innerHeight / 4;
    const ended = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
    const passed = entries.filter(({ heading }) => heading.getBoundingClientRect().top <= line);
    const entry = ended ? entries.at(-1) : passed.at(-1) ?? entries[0];
    if (entry === current) return;
    current?.link.removeAttribute("aria-current");
    entry.link.setAttribute("aria-current", "true");
    current = entry;
    const top = entry.link.getBoundingClientRect().top - sidebar.getBoundingClientRect().top + sidebar.scrollTop;
    if (top < sidebar.scrollTop + 40 || top > sidebar.scrollTop + sidebar.clientHeight - 80) {
      sidebar.scrollTop = top - sidebar.clientHeight / 2;
    }
  };
  let waiting = false;
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(follow); } };
  if (entries.length) {
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later, { passive: true });
    follow();
  }

  // ---- what a reference leads to, shown beside it under the pointer or the focus

  const card = document.createElement("div");
  card.className = "preview";
  card.id = "preview";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  document.body.append(card);
  let shown = null;
  let closing = 0;
  const close = () => {
    clearTimeout(closing);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    card.hidden = true;
  };
  const closeSoon = () => { clearTimeout(closing); closing = setTimeout(close, 200); };
  const open = (link, target) => {
    clearTimeout(closing);
    if (shown === link) return;
    const copy = target.cloneNode(true);
    for (const element of [copy, ...copy.querySelectorAll("[id]")]) element.removeAttribute("id");
    for (const element of copy.querySelectorAll("[tabindex]")) element.removeAttribute("tabindex");
    const holder = document.createElement("div");
    holder.append(...(target.matches("li") ? copy.childNodes : [copy]));
    card.replaceChildren(holder);
    card.hidden = false;
    const box = link.getClientRects()[0];
    const left = Math.min(box.left, document.documentElement.clientWidth - card.offsetWidth - 12);
    const below = box.bottom + 6 + card.offsetHeight < window.innerHeight;
    card.style.left = `${Math.max(12, left) + window.scrollX}px`;
    card.style.top = `${(below ? box.bottom + 6 : box.top - 6 - card.offsetHeight) + window.scrollY}px`;
    shown?.removeAttribute("aria-describedby");
    link.setAttribute("aria-describedby", "preview");
    shown = link;
  };
  for (const link of document.querySelectorAll("main a[href^='#'], .masthead a[href^='#']")) {
    const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (!target?.matches(".references li, .equation, figure.figure:not(.film, .compare)")) continue;
    link.removeAttribute("title"); // the browser's own hint would lie over ours
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") open(link, target); });
    link.addEventListener("pointerleave", closeSoon);
    link.addEventListener("focus", () => { if (link.matches(":focus-visible")) open(link, target); });
    link.addEventListener("blur", closeSoon);
  }
  card.addEventListener("pointerenter", () => clearTimeout(closing));
  card.addEventListener("pointerleave", closeSoon);
  addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  addEventListener("hashchange", close);
})();
