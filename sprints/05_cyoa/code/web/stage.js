/* The stage: backdrop, the box with the scene, the choices and the tools. */

import { $, button, el, icon, paragraphs } from "./dom.js";
import { MOODS, moodOf, scenery } from "./moods.js";
import { byline, log, rewrite } from "./log.js";
import { map } from "./map.js";
import { notes, seen, settings } from "./notes.js";
import { Play } from "./play.js";
import { exports } from "./saves.js";
import { announce } from "./toast.js";

const parts = {};
export const play = new Play({ changed, streamed, finished });

function toolbar() {
  return el("div", { class: "row tools-top", role: "toolbar", "aria-label": "Story" },
    button("log", "Story so far", () => log(play)),
    button("map", "Map", () => map(play)),
    button("memory", "Memory", () => notes(play)),
    button("eye", "What the model saw", () => seen(play)),
    button("sliders", "Settings", () => settings(play, paint)),
    button("download", "Export", () => exports(play.story)));
}

function build() {
  parts.backdrop = el("div", { class: "backdrop" });
  parts.title = el("h1", {});
  parts.who = el("span", { class: "who" });
  parts.place = el("span", { class: "place" });
  parts.versions = el("div", { class: "versions", role: "group", "aria-label": "Versions of this scene" });
  parts.action = el("p", { class: "action" });
  parts.text = el("div", { class: "text" });
  parts.by = el("p", { class: "by" });
  parts.tools = el("div", { class: "row tools" });
  parts.box = el("article", { class: "box", tabindex: "-1", "aria-label": "Scene" },
    el("header", { class: "plate" }, parts.who, parts.place), parts.versions, parts.action, parts.text, parts.by, parts.tools);
  parts.choices = el("ol", { class: "choices" });
  parts.words = el("input", {
    id: "words", maxlength: "2000", autocomplete: "off", "aria-label": "What do you do, in your own words?",
  });
  parts.free = el("form", { class: "free", onsubmit: speak }, parts.words,
    el("button", { class: "round", title: "Do it", "aria-label": "Do it" }, icon("send")));
  parts.more = el("div", { class: "row more" });
  parts.answers = el("section", { class: "answers", "aria-label": "Your choice" }, parts.choices, parts.free, parts.more);
  $("#stage").append(parts.backdrop, el("div", { class: "hud" }, parts.title, toolbar()), el("div", { class: "scene" }, parts.box, parts.answers));
}

/** Title, colours and backdrop of the story. */
function paint() {
  const mood = moodOf(play.story.genre);
  parts.title.textContent = play.story.title;
  document.title = `${play.story.title}: Wakaremichi`;
  if (document.body.dataset.mood === mood && parts.backdrop.firstChild) return;
  document.body.dataset.mood = mood;
  parts.backdrop.replaceChildren(scenery(mood, 22));
}

function showVersions(node) {
  const all = play.versions(node);
  const at = all.indexOf(node);
  parts.versions.hidden = all.length < 2;
  if (all.length < 2) return;
  const turn = (step) => () => play.go(all[at + step].id);
  parts.versions.replaceChildren(
    button("left", "Earlier version", turn(-1), { disabled: at === 0, class: "plain" }),
    el("span", {}, `${at + 1} of ${all.length}`),
    button("right", "Later version", turn(1), { disabled: at === all.length - 1, class: "plain" }));
}

function showTools(node) {
  if (play.writing) {
    parts.tools.replaceChildren(button("stop", "Stop", () => play.stop(), { class: "pill" }));
    return;
  }
  const mark = (verdict, name, label) => button(name, label, () => play.feedback(verdict), {
    class: "plain", "aria-pressed": String(node.feedback === verdict),
  });
  parts.tools.replaceChildren(
    button("undo", "Undo", () => play.undo(), { disabled: node.parent_id === null }),
    play.retriable(node) ? button("retry", "Retry", () => play.retry(), { title: "Let the model write this scene anew" }) : "",
    button("pen", "Edit", () => rewrite(play, node)),
    el("span", { class: "gap" }), mark("up", "up", "I like this scene"), mark("down", "down", "I do not like this scene"));
}

function showChoices(node) {
  const ready = !play.writing;
  const written = Boolean(node.text);
  const visible = ready && written && !node.ending;
  parts.choices.replaceChildren(...(visible ? node.choices : []).map((choice, place) =>
    el("li", {}, el("button", { type: "button", class: "choice", onclick: () => play.choose(choice), "aria-keyshortcuts": String(place + 1) },
      el("kbd", { "aria-hidden": "true" }, String(place + 1)), el("span", {}, choice.text),
      play.taken(node, choice) && el("small", {}, "taken before")))));
  parts.free.hidden = !visible;
  parts.words.placeholder = play.byHand(node) ? "Or in your own words: the model goes on …" : "Or in your own words …";
  parts.more.replaceChildren();
  parts.more.classList.toggle("over", ready && node.ending);
  if (visible) parts.more.append(button("next", "Go on", () => play.onward()));
  if (visible && node.actor !== "author") parts.more.append(button("dice", "Other choices", () => play.reroll()));
  if (ready && node.ending) {
    parts.more.append(el("p", { class: "fin" }, "The end"),
      button("undo", "Take the last choice back", () => play.undo(), { class: "main" }),
      button("map", "See the map", () => map(play), { class: "pill" }), el("a", { class: "pill", href: "#/" }, "Another story"),
      button("next", "Go on with the model", () => play.onward(), { class: "pill" }));
  }
  if (ready && !written) parts.more.append(el("p", {}, "This scene was never written. Retry, or undo."));
}

function showText(node) {
  const lines = paragraphs(node.text);
  parts.text.replaceChildren(...(lines.length > 0 ? lines : play.writing ? [el("p", { class: "waiting" }, "…")] : []));
  parts.by.textContent = byline(node);
  parts.box.setAttribute("aria-busy", String(play.writing));
  parts.box.classList.toggle("writing", play.writing);
}

/** Another scene is on the stage, or the same one changed. */
function changed(node, { moved = false, quiet = false } = {}) {
  paint();
  parts.who.textContent = play.story.hero.name;
  const mood = MOODS[moodOf(play.story.genre)];
  parts.place.textContent = `${play.story.genre} · scene ${play.path(node).length}`;
  parts.place.title = mood;
  parts.action.hidden = !node.action;
  parts.action.textContent = node.action || "";
  showVersions(node);
  showText(node);
  showTools(node);
  showChoices(node);
  if (quiet) return;
  parts.words.value = "";
  parts.box.classList.remove("enter");
  requestAnimationFrame(() => parts.box.classList.add("enter"));
  scrollTo({ top: 0 });
  parts.box.focus({ preventScroll: true });
  if (moved) tell(node);
}

let drawn = 0;
/** More of the scene came: draw it once a frame. */
function streamed(node) {
  cancelAnimationFrame(drawn);
  drawn = requestAnimationFrame(() => { if (play.node === node) showText(node); });
}

/** Say the whole scene once, with its choices. */
function tell(node) {
  const choices = node.choices.map((choice, place) => `${place + 1}: ${choice.text}.`).join(" ");
  announce(`${node.text} ${node.ending ? "The end." : `Your choices are ${choices}`}`);
}

function finished(node) {
  cancelAnimationFrame(drawn);
  showText(node);
  showTools(node);
  showVersions(node);
  showChoices(node);
  tell(node);
}

function speak(event) {
  event.preventDefault();
  const text = parts.words.value.trim();
  if (text) play.say(text);
}

/** The keys 1 to 9 choose, unless the player is writing or a sheet is open. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#stage").hidden || $("#sheet").open) return;
  if (event.target.closest("input, textarea, select")) return;
  const choice = /^[1-9]$/.test(event.key) && parts.choices.querySelectorAll("button")[Number(event.key) - 1];
  if (choice) choice.click();
}

/** Open a story on the stage; false when the server has no such story. */
export function showStage(id) {
  if (!parts.box) {
    build();
    document.addEventListener("keydown", pressed);
  }
  return play.open(id);
}
