/* Stories that were begun: the row on the shelf, the list of all, import and export. */

import { call, get } from "./api.js";
import { button, el } from "./dom.js";
import { moodOf, scenery } from "./moods.js";
import { sheet } from "./sheet.js";
import { attempt, toast } from "./toast.js";

const FORMATS = [
  ["html", "A page that plays", "one file with every scene you have visited, plays without this server"],
  ["epub", "EPUB", "every scene you have visited, as a book with links"],
  ["txt", "Markdown", "the way you took, then every scene you have visited"],
  ["twee", "Twee 3", "every scene you have visited, for Twine"],
  ["ink", "ink", "every scene you have visited, for Inky"],
  ["json", "JSON", "the same with memory, cards and settings, to import again"],
];

const when = (time) => new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const scenes = (count) => (count === 1 ? "1 scene" : `${count} scenes`);

function save(story) {
  return el("li", { "data-mood": moodOf(story.genre) },
    el("a", { class: "save", href: `#/story/${story.id}` },
      el("span", { class: "save-art" }, scenery(moodOf(story.genre))),
      el("span", { class: "save-words" },
        el("b", {}, story.title), el("span", {}, `${story.genre}, ${scenes(story.node_count)}`), el("small", {}, when(story.updated)))));
}

/** Import a JSON or Twee 3 export, or a zip with one. */
function importer() {
  const input = el("input", { type: "file", accept: ".json,.twee,.tw,.zip", class: "sr", id: "import", onchange: async () => {
    const file = input.files[0];
    input.value = "";
    if (!file) return;
    const made = await attempt(() => call("POST", "/stories:import", file));
    if (made) location.hash = `#/story/${made.story.id}`;
  } });
  return el("span", {}, input, el("label", { class: "pill", for: "import" }, "Import a story"));
}

const PAGE = 50; // stories that are asked for at once

async function remove(story, row) {
  const done = await attempt(() => call("DELETE", `/stories/${story.id}`).then(() => true));
  if (!done) return;
  row.remove();
  const note = toast(`“${story.title}” is put away.`, { seconds: 20 });
  note.append(el("button", { type: "button", class: "pill", onclick: () => { note.remove(); restore(story); } }, "Bring it back"));
}

async function restore(story) {
  if (await attempt(() => call("PATCH", `/stories/${story.id}`, { deleted: false }))) allSaves();
}

/** A story in the list; one that was put away has a single button, since it cannot be played. */
function row(story, away) {
  if (away) {
    return el("li", {}, el("span", { class: "save-words" }, el("b", {}, story.title), el("small", {}, when(story.updated))),
      el("button", { type: "button", class: "pill", "aria-label": `Bring back ${story.title}`, onclick: () => restore(story) }, "Bring it back"));
  }
  const made = save(story);
  made.append(button("trash", `Put away ${story.title}`, () => remove(story, made), { class: "plain" }));
  return made;
}

/** The sheet with every saved story, or with those that were put away. */
export async function allSaves({ away = false } = {}) {
  const list = el("ul", { class: "saves" });
  const more = el("button", { type: "button", class: "pill", onclick: () => load() }, "More");
  const load = async () => {
    const at = list.children.length;
    const answer = await attempt(() => get(`/stories?limit=${PAGE}&offset=${at}&deleted=${away}`));
    if (!answer) return false;
    list.append(...answer.stories.map((story) => row(story, away)));
    more.hidden = answer.stories.length < PAGE;
    return true;
  };
  if (!await load()) return;
  const empty = away ? "Nothing was put away." : "Nothing yet. Every story you begin is kept here by itself.";
  const other = el("button", { type: "button", class: "pill", onclick: () => allSaves({ away: !away }) }, away ? "Your stories" : "Put away");
  sheet(away ? "Stories put away" : "Your stories", [el("p", { class: "row" }, away ? "" : importer(), other),
    list.children.length > 0 ? list : el("p", {}, empty), more]);
}

/** The three stories that were played last, in `place`. */
export async function recent(place) {
  const answer = await get("/stories?limit=3").catch(() => ({ stories: [] }));
  const head = el("div", { class: "shelf-head" }, el("h2", {}, answer.stories.length > 0 ? "Go on" : "New here?"),
    el("span", { class: "row" }, button("shelf", "All your stories", () => allSaves(), { class: "pill" })));
  const rest = answer.stories.length > 0
    ? el("ul", { class: "saves across" }, answer.stories.slice(0, 3).map(save))
    : el("p", {}, "Pick a card below and begin. Choose with a click or the keys 1 to 9, or write what you do in your own words.");
  place.replaceChildren(el("section", { class: "wrap" }, head, rest));
}

/** The sheet with the formats a story can leave in. */
export function exports(story) {
  const links = FORMATS.map(([format, name, what]) =>
    el("li", {}, el("a", { class: "pill", href: `/stories/${story.id}/export?format=${format}`, download: "" }, name), " ", el("span", {}, what)));
  sheet("Take the story with you", el("ul", { class: "exports" }, links));
}
