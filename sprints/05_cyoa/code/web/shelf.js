/* The shelf of scenarios: pick a card, look at it, begin. */

import { call, get, key } from "./api.js";
import { $, button, el, field } from "./dom.js";
import { modelName } from "./log.js";
import { MOODS, moodOf, scenery } from "./moods.js";
import { recent } from "./saves.js";
import { sheet } from "./sheet.js";
import { attempt } from "./toast.js";

let scenarios = [];
let mood = "all";

/** Begin a story and go to it. */
async function begin(body, control) {
  const idempotencyKey = key();
  control.disabled = true;
  const made = await attempt(() => call("POST", "/stories", body, idempotencyKey));
  control.disabled = false;
  if (made) location.hash = `#/story/${made.story.id}`;
}

const cast = (people) => people.map((person) =>
  el("li", {}, el("b", {}, person.name), ` ${person.pronouns}${person.role ? `, ${person.role}` : ""}`));

/** What the cover of a scenario says, with the button that begins it. */
function cover(scenario) {
  const start = el("button", { type: "button", class: "main", onclick: () => begin({ scenario_id: scenario.id }, start) }, "Begin the story");
  const art = el("div", { class: "cover-art" }, scenery(moodOf(scenario.genre), 12));
  sheet(scenario.title, [
    art,
    el("p", { class: "chips" }, el("span", { class: "chip" }, scenario.genre), scenario.rating === "teen" && el("span", { class: "chip" }, "teen")),
    el("p", { class: "lead" }, scenario.summary),
    el("p", {}, "You are ", el("b", {}, scenario.hero.name), ` (${scenario.hero.pronouns}).`),
    scenario.cast.length > 0 && [el("h3", {}, "You will meet"), el("ul", { class: "cast" }, cast(scenario.cast))],
    start,
  ], { kind: "cover", mood: moodOf(scenario.genre) });
  start.focus();
}

function card(scenario) {
  const place = moodOf(scenario.genre);
  return el("li", { "data-mood": place },
    el("button", { type: "button", class: "card", onclick: () => cover(scenario) },
      el("span", { class: "card-art" }, scenery(place)),
      el("span", { class: "card-words" },
        el("span", { class: "card-genre" }, scenario.genre),
        el("b", { class: "card-title" }, scenario.title),
        el("span", { class: "card-summary" }, scenario.summary))));
}

/** Show the cards that match the search and the mood. */
function filter() {
  const words = $("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = scenarios.filter((scenario) => {
    const text = `${scenario.title} ${scenario.genre} ${scenario.summary} ${scenario.hero.name}`.toLowerCase();
    return (mood === "all" || moodOf(scenario.genre) === mood) && words.every((word) => text.includes(word));
  });
  const all = () => {
    $("#search").value = "";
    $(".moods button").click();
  };
  const none = el("li", { class: "none" }, el("p", {}, "Nothing on the shelf has all of that. Try one short word, or write a story of your own."),
    el("button", { type: "button", class: "pill", onclick: all }, "Show every story"));
  $("#cards").replaceChildren(...(found.length > 0 ? found.map(card) : [none]));
  $("#found").textContent = found.length === 1 ? "1 story to begin" : `${found.length} stories to begin`;
}

function moods() {
  const chosen = (name, label) => el("button", {
    type: "button", class: "pill", "data-mood": name === "all" ? null : name, "aria-pressed": String(name === mood),
    onclick: (event) => {
      mood = name;
      for (const pill of event.currentTarget.parentElement.children) pill.setAttribute("aria-pressed", String(pill === event.currentTarget));
      filter();
    },
  }, label);
  return el("div", { class: "moods", role: "group", "aria-label": "Mood" },
    chosen("all", "All"), Object.entries(MOODS).map(([name, label]) => chosen(name, label)));
}

/** A story of the player's own, from a sentence and a genre. */
async function ownStory() {
  const answer = await attempt(() => get("/genres"));
  if (!answer) return;
  const prompt = el("textarea", { rows: "4", maxlength: "2000", required: true, placeholder: "A lighthouse keeper finds a letter addressed to the sea" });
  const genre = el("select", {}, answer.genres.map((one) => el("option", { value: one.name }, one.name)));
  const name = el("input", { maxlength: "80", placeholder: "Aki", autocomplete: "off" });
  const pronouns = el("input", { maxlength: "20", placeholder: "they/them", autocomplete: "off" });
  const start = el("button", { class: "main" }, "Begin the story");
  const art = el("div", { class: "cover-art" });
  const paint = () => art.replaceChildren(scenery(moodOf(genre.value), 12));
  genre.addEventListener("change", paint);
  paint();
  const submit = (event) => {
    event.preventDefault();
    const hero = { name: name.value.trim() || "Aki", pronouns: pronouns.value.trim() || "they/them" };
    begin({ prompt: prompt.value.trim(), genre: genre.value, hero }, start);
  };
  const fields = [field("How does it begin?", prompt, "Your words are the first scene; a small model goes on from there."), field("Genre", genre),
    el("div", { class: "two" }, field("Your name", name), field("Pronouns", pronouns))];
  sheet("A story of your own", [art, el("form", { class: "form", onsubmit: submit }, fields, start)], { kind: "cover" });
}

function anyStory(event) {
  const scenario = scenarios[Math.floor(Math.random() * scenarios.length)];
  if (scenario) begin({ scenario_id: scenario.id }, event.currentTarget);
}

function banner() {
  return el("div", { class: "banner", "data-mood": "sakura" }, scenery("sakura", 18),
    el("div", { class: "banner-words" },
      el("h1", {}, "Wakaremichi"),
      el("p", { class: "lead" }, "A fork in the road, and the story waits for you. Choose, turn back, choose again: nothing you read is ever lost."),
      el("p", { class: "row" },
        button("dice", "Surprise me", anyStory, { class: "main" }), button("pen", "A story of your own", ownStory, { class: "pill" }))));
}

/** Fill the shelf: saves on top, then every scenario. */
export async function showShelf() {
  document.title = "Wakaremichi: stories that fork";
  const shelf = $("#shelf");
  if (!shelf.firstChild) {
    const search = el("input", { id: "search", type: "search", placeholder: "cat, robot, rain …", oninput: filter, autocomplete: "off" });
    shelf.append(banner(), el("div", { id: "recent" }),
      el("section", { class: "wrap", "aria-labelledby": "found" },
        el("div", { class: "shelf-head" }, el("h2", { id: "found", role: "status" }, "Stories"), field("Search", search)), moods(), el("ul", { id: "cards" })),
      el("footer", { class: "wrap foot" }, el("p", { id: "model" })));
  }
  recent($("#recent"));
  const answer = scenarios.length > 0 ? { scenarios } : await attempt(() => get("/scenarios"));
  if (!answer) return;
  scenarios = answer.scenarios;
  filter();
  const model = await get("/model").catch(() => null);
  if (model) $("#model").textContent = `The ways through a story were written in advance. Where you leave them, ${modelName(model.version)} goes on (engine ${model.engine}), and small models wander.`;
}
