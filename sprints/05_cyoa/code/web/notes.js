/* What the model is told besides the story: memory and lore cards, what it saw in the end, and the settings of the story. */

import { call, get } from "./api.js";
import { button, el, field } from "./dom.js";
import { modelName } from "./log.js";
import { sheet } from "./sheet.js";
import { attempt, toast } from "./toast.js";

const keys = (text) => text.split(",").map((word) => word.trim()).filter(Boolean);

/** One lore card, to change, keep or throw away; without `card` an empty one to add. */
function loreForm(path, card, redraw) {
  const words = el("input", { maxlength: "200", placeholder: "lamp, lantern", autocomplete: "off", value: card ? card.keys.join(", ") : "" });
  const text = el("textarea", { rows: "2", maxlength: "500", required: true, placeholder: "The lamp is haunted." });
  text.value = card ? card.text : "";
  const always = el("input", { type: "checkbox", checked: Boolean(card?.always) });
  const submit = async (event) => {
    event.preventDefault();
    const body = { keys: keys(words.value), text: text.value.trim(), always: always.checked, priority: card?.priority || 0 };
    const kept = await attempt(() => call(card ? "PUT" : "POST", card ? `${path}/${card.id}` : path, body));
    if (kept) redraw(card ? "The card is changed." : "The card is added.");
  };
  const remove = async () => {
    if (await attempt(() => call("DELETE", `${path}/${card.id}`).then(() => true))) redraw("The card is gone.");
  };
  return el("form", { class: "form lore", onsubmit: submit, "aria-label": card ? `Card ${card.keys.join(", ") || card.text}` : "New card" },
    field("When the story says", words), field("the model is told", text),
    el("label", { class: "check" }, always, " always, whatever the story says"),
    el("div", { class: "row" },
      el("button", { class: "pill" }, card ? "Keep" : "Add the card"),
      card && button("trash", "Throw away", remove, { class: "plain" })));
}

/** The drawer with the memory and the lore cards. */
export async function notes(play) {
  const path = `/stories/${play.story.id}/lore`;
  const answer = await attempt(() => get(path));
  if (!answer) return;
  const memory = el("textarea", { rows: "4", maxlength: "2000", placeholder: "Ren owes you a favour. It is winter." });
  memory.value = play.story.memory;
  const keep = async (event) => {
    event.preventDefault();
    const story = await attempt(() => call("PUT", `/stories/${play.story.id}/memory`, { memory: memory.value }));
    if (!story) return;
    Object.assign(play.story, story);
    toast("The story remembers that from now on.");
  };
  const redraw = (said) => { toast(said); notes(play); };
  sheet("Memory", [
    el("form", { class: "form", onsubmit: keep },
      field("Always remember", memory, "The model is told this before every scene, as far as there is room."),
      el("button", { class: "main" }, "Remember")),
    el("h3", {}, "Lore cards"),
    el("p", {}, "A card is told to the model when one of its words comes up in the story."),
    el("ul", { class: "cards-lore" }, [...answer.lore, null].map((card) =>
      el("li", {}, card === null && el("h4", {}, "A new card"), loreForm(path, card, redraw)))),
  ]);
}

const ROLES = { system: "The setting", user: "The story so far", assistant: "The scene" };

/** Exactly what the model saw before it wrote the scene on the stage. */
export async function seen(play) {
  if (play.node.actor !== "model") {
    sheet("What the model saw", el("p", {}, play.node.actor === "author" ? "Nothing: an author wrote this scene." : "Nothing: you wrote this scene."));
    return;
  }
  const context = await attempt(() => get(`/nodes/${play.node.id}/context`));
  if (!context) return;
  const meter = el("meter", { min: "0", max: String(context.budget), value: context.tokens, "aria-label": "Tokens used" });
  const version = play.node.model_version;
  sheet("What the model saw", [
    el("p", {}, `${context.tokens} of ${context.budget} tokens${version ? `, read by ${modelName(version)}` : ""}. What does not fit is left out, oldest first.`), meter,
    context.messages.map((message) => [el("h3", {}, ROLES[message.role] || message.role), el("pre", { tabindex: "0" }, message.content)]),
  ]);
}

/** Title and settings of the story. */
export function settings(play, repaint) {
  const { title, settings: now, scenario_id: scenario } = play.story;
  const name = el("input", { maxlength: "80", required: true, value: title });
  const slider = (value, min, max, step) => el("input", { type: "range", min, max, step, value: String(value) });
  const temperature = slider(now.temperature, "0", "1.5", "0.1");
  const tokens = slider(now.max_tokens, "48", "256", "16");
  const length = el("input", { type: "number", min: "2", max: "100", value: now.length === null ? "" : String(now.length), placeholder: "open" });
  const authored = el("input", { type: "checkbox", checked: now.authored !== false });
  const submit = async (event) => {
    event.preventDefault();
    const changed = { ...now, temperature: Number(temperature.value), max_tokens: Number(tokens.value), length: length.value ? Number(length.value) : null,
      authored: authored.checked };
    if (!await play.change({ title: name.value.trim(), settings: changed })) return;
    repaint();
    toast("Kept for the next scenes.");
  };
  sheet("Settings of this story", el("form", { class: "form", onsubmit: submit },
    field("Title", name), field("Surprise", temperature, "Left: the likeliest words. Right: the unlikely ones too."),
    field("Length of a scene", tokens), field("The story ends after this many scenes", length, "The model ends it in the last quarter; empty: whenever the model or the author does."),
    scenario !== null && el("label", { class: "check" }, authored, " The author's choices lead to the author's scenes"),
    el("button", { class: "main" }, "Keep")));
}
