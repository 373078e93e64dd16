/* One dialog for everything that is not the story: it keeps the focus, closes with Escape and gives the focus back. */

import { $, button, el } from "./dom.js";

/** Open the sheet with a title and what `content` holds, in the colours of `mood` or else of the page. */
export function sheet(title, content, { kind = "side", mood = "" } = {}) {
  const dialog = $("#sheet");
  const again = dialog.open && $("#sheet-title")?.textContent === title; // drawn anew, after a card was added
  const top = again ? dialog.scrollTop : 0;
  if (dialog.open) dialog.close();
  dialog.className = kind;
  if (mood) dialog.dataset.mood = mood;
  else delete dialog.dataset.mood;
  const close = () => dialog.close();
  const heading = el("h2", { id: "sheet-title", tabindex: "-1" }, title);
  const body = el("div", { class: "sheet-body" }, content);
  dialog.replaceChildren(el("header", { class: "sheet-head" }, heading, button("close", "Close", close, { class: "plain" })), body);
  dialog.showModal();
  heading.focus();
  dialog.scrollTop = top;
}

/** Close the sheet if it is open. */
export const closeSheet = () => $("#sheet").open && $("#sheet").close();

/** A click beside the sheet closes it. */
export function watchSheet() {
  const dialog = $("#sheet");
  dialog.addEventListener("pointerdown", (event) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    const beside = event.clientX < left || event.clientX > right || event.clientY < top || event.clientY > bottom;
    if (event.target === dialog && beside) dialog.close();
  });
}
