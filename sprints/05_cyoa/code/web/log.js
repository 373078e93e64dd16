/* The story so far, with every turn open to going back, another try and editing. */

import { button, el, field, paragraphs } from "./dom.js";
import { closeSheet, sheet } from "./sheet.js";

/** A model by its version, in words. */
export const modelName = (version) => (version === "shipped" ? "the model that comes with the game" : `the model ${version}`);

/** Who wrote a scene; nothing while that is not known yet. */
export function byline(node) {
  if (node.actor === "author") return "Written in advance";
  if (node.actor === "player") return "Written by you";
  return node.model_version ? `Written by ${modelName(node.model_version)}` : "";
}

/** The sheet in which a player puts a scene in their own words. */
export function rewrite(play, node) {
  const text = el("textarea", { rows: "9", maxlength: "8000", required: true });
  text.value = node.text;
  const choices = el("textarea", { rows: "4", maxlength: "600" });
  choices.value = node.choices.map((choice) => choice.text).join("\n");
  const submit = async (event) => {
    event.preventDefault();
    const lines = choices.value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (await play.edit(node, text.value.trim(), lines)) closeSheet();
  };
  const ways = node.ending ? null : field("Choices, one in a line", choices, "Two to four, all different.");
  const scene = field("Scene", text, "The scene as it was stays in the tree.");
  sheet("Edit the scene", el("form", { class: "form", onsubmit: submit }, scene, ways, el("button", { class: "main" }, "Keep this version")));
}

function turn(play, node, place) {
  const act = (work) => () => { closeSheet(); work(); };
  return el("li", { "aria-current": node === play.node ? "step" : null },
    node.action && el("p", { class: "action" }, node.action),
    el("article", { "aria-label": `Scene ${place + 1}` }, paragraphs(node.text)),
    el("p", { class: "by" }, byline(node)),
    el("div", { class: "row tools" },
      button("back", "Back to here", act(() => play.go(node.id)), { disabled: node === play.node }),
      play.retriable(node) && button("retry", "Retry", act(() => play.retry(node)), { disabled: play.writing }),
      button("pen", "Edit", () => rewrite(play, node), { disabled: play.writing })));
}

/** The sheet with the path that was played, newest scene last. */
export function log(play) {
  const list = el("ol", { class: "log" }, play.path().map((node, place) => turn(play, node, place)));
  sheet("Story so far", list);
  list.lastElementChild.scrollIntoView({ block: "end" });
}
