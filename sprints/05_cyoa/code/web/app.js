/* Where the page begins: which view the address asks for, and the switch between light and dark. */

import { $, remember } from "./dom.js";
import { allSaves } from "./saves.js";
import { closeSheet, watchSheet } from "./sheet.js";
import { showShelf } from "./shelf.js";
import { play, showStage } from "./stage.js";

/** `#/` is the shelf, `#/story/ID` a story; other fragments are places on the page. */
async function route() {
  const [, view, id] = location.hash.split("/");
  if (location.hash && !location.hash.startsWith("#/")) return;
  closeSheet();
  const story = view === "story" && id;
  $("#shelf").hidden = Boolean(story);
  $("#stage").hidden = !story;
  document.body.classList.toggle("playing", Boolean(story));
  if (story && !await showStage(id)) location.hash = "#/";
  if (story) return;
  delete document.body.dataset.mood;
  play.close();
  scrollTo({ top: 0 });
  await showShelf();
}

$("#theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  remember.set("theme", theme);
});
$("#saves").addEventListener("click", () => allSaves());
watchSheet();
addEventListener("hashchange", route);
route();
