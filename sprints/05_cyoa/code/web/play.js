/* A story being played: the tree that only grows, where the player is, and the scene that is being written. */

import { call, follow, get, key } from "./api.js";
import { el } from "./dom.js";
import { allSaves } from "./saves.js";
import { attempt, complain, toast } from "./toast.js";

const WRITING = ["queued", "running"];

/** A link to no story: a bad id, or a story that was put away. */
function absent(problem) {
  if (![404, 422].includes(problem.status)) throw problem;
  const link = el("button", { type: "button", class: "pill", onclick: () => { note.remove(); allSaves(); } }, "Your stories");
  const note = toast("There is no such story. Here is the shelf; what you put away waits in your stories.", { error: true });
  note.append(link);
  return null;
}

export class Play {
  /** `view` gets told: changed(node), streamed(node), finished(node). */
  constructor(view) {
    this.view = view;
    this.nodes = new Map();
  }

  get node() { return this.nodes.get(this.story.head_id); }
  /** Whether the scene on the stage is being read while it is written. */
  get writing() { return Boolean(this.followed) && this.followed === this.node; }

  children(id) { return [...this.nodes.values()].filter((node) => node.parent_id === id); }

  /** Every version of a scene: the same step from the same place, written or edited again. */
  versions(node) { return this.children(node.parent_id).filter((other) => other.action === node.action); }

  /** The scenes from the beginning to `node`. */
  path(node = this.node) {
    const found = [];
    for (let at = node; at; at = this.nodes.get(at.parent_id)) found.unshift(at);
    return found;
  }

  /** The newest scene that a choice led to, if it was taken before. */
  taken(node, choice) {
    return this.children(node.id).findLast((child) => child.choice_id === choice.id || child.action === choice.text);
  }

  /** Read the story from the server; takes up a scene that is still being written. False when there is none. */
  async open(id) {
    this.close();
    this.opening = id;
    const tree = await attempt(() => get(`/stories/${id}/tree`).catch(absent));
    if (this.opening !== id) return true; // the player is elsewhere by now
    if (!tree) return false;
    this.story = tree.story;
    this.nodes = new Map(tree.nodes.map((node) => [node.id, node]));
    this.show(this.node);
    if (this.writing) this.read(this.node);
    return true;
  }

  /** Stop reading; the server goes on writing for a while. */
  close() {
    this.reading?.abort();
    this.followed = null;
    this.opening = null;
  }

  /** Tell the view of the scene on the stage; one that is not whole yet is to be read. */
  show(node, how) {
    this.followed = WRITING.includes(node.status) ? node : null;
    this.view.changed(node, how);
  }

  /** Take in a node that the server made, and go there. */
  add(node) {
    this.nodes.set(node.id, node);
    this.story.head_id = node.id;
    this.story.node_count = this.nodes.size;
    this.show(node);
  }

  /** Read the scene of `node` while it is written. Where that fails the player can go on: here, elsewhere, or by trying again. */
  async read(node) {
    this.reading?.abort();
    const reading = new AbortController();
    this.reading = reading;
    const story = this.story;
    const shown = () => !reading.signal.aborted && this.node === node;
    let letters = [...node.text];
    const on = {
      token: ({ i, t }) => {
        letters = [...letters.slice(0, i), ...t];
        node.text = letters.join("");
        if (shown()) this.view.streamed(node);
      },
      scene: ({ text }) => { node.text = text; if (shown()) this.view.streamed(node); },
      choices: (choices) => { node.choices = choices; },
      done: (end) => Object.assign(node, { status: "done", finish: end.finish, ending: end.ending }),
      error: (end) => {
        node.status = end.code === "cancelled" ? "cancelled" : "partial";
        if (end.code !== "cancelled") complain({ status: 500, code: end.code, message: end.message, retryAfter: end.retry_after }, null);
      },
    };
    const problem = await follow(node.id, letters.length, on, reading.signal).catch((error) => error);
    const final = problem || reading.signal.aborted ? null : await get(`/nodes/${node.id}`).catch(() => null);
    if (final) Object.assign(node, final);
    if (!shown()) return;
    this.followed = null;
    this.view.finished(node);
    if (problem) complain(problem, () => story === this.story && this.open(story.id));
  }

  /** Whether the choices of a scene lead to the author's next scenes. */
  byHand(node) { return node.actor === "author" && this.story.scenario_id !== null && this.story.settings.authored !== false; }

  /** Take a turn: `body` as for POST /stories/{id}/nodes. An author's scene comes whole, the model's is read as it is written. */
  async write(body) {
    if (this.writing || this.asking) return;
    this.asking = true;
    const idempotencyKey = key();
    const story = this.story;
    const made = await attempt(() => call("POST", `/stories/${story.id}/nodes`, body, idempotencyKey).finally(() => { this.asking = false; }));
    if (!made || story !== this.story) return;
    this.add(made.node);
    if (this.writing) await this.read(made.node);
    else this.view.finished(made.node);
  }

  choose(choice) {
    const before = this.taken(this.node, choice);
    if (before) return this.go(before.id);
    return this.write({ parent_id: this.node.id, kind: "act", choice_id: choice.id });
  }

  say(text) { return this.write({ parent_id: this.node.id, kind: "act", text }); }

  onward() { return this.write({ parent_id: this.node.id, kind: "continue" }); }

  /** A scene can be written again unless an author's scenario begins with it. */
  retriable(node) { return node.parent_id !== null || this.story.scenario_id === null; }

  retry(node = this.node) {
    if (node.parent_id === null) return this.write({ parent_id: null, kind: "retry" });
    if (!node.action) return this.write({ parent_id: node.parent_id, kind: "continue" });
    const step = node.choice_id ? { choice_id: node.choice_id } : { text: node.action };
    return this.write({ parent_id: node.parent_id, kind: "retry", ...step });
  }

  /** Be at another scene of the tree. */
  async go(id) {
    if (this.asking || id === this.story.head_id) return;
    this.close();
    const story = await attempt(() => call("PATCH", `/stories/${this.story.id}`, { head_id: id }));
    if (!story) return;
    Object.assign(this.story, story);
    this.show(this.node, { moved: true });
    if (this.writing) this.read(this.node);
  }

  undo() { return this.node.parent_id && this.go(this.node.parent_id); }

  async stop() {
    const { id } = this.node;
    await attempt(() => call("DELETE", `/nodes/${id}/generation`)); // the stream tells the rest
  }

  /** A new version in the player's words; the old one stays. Gives true when the server took it. */
  async edit(node, text, choices) {
    const body = choices.length > 0 ? { text, choices } : { text };
    const made = await attempt(() => call("PATCH", `/nodes/${node.id}`, body));
    if (made) this.add(made);
    return Boolean(made);
  }

  async reroll() {
    const node = this.node;
    const answer = await attempt(() => call("POST", `/nodes/${node.id}/choices:reroll`));
    if (!answer) return;
    node.choices = answer.choices;
    this.view.finished(node);
  }

  async feedback(verdict) {
    const node = this.node;
    const done = await attempt(() => call("POST", `/nodes/${node.id}/feedback`, { verdict }).then(() => true));
    if (!done) return;
    node.feedback = verdict;
    toast(verdict === "up" ? "Noted: more like this." : "Noted: less like this.");
    this.view.changed(node, { quiet: true });
  }

  /** Keep changed settings or a new title. */
  async change(body) {
    const story = await attempt(() => call("PATCH", `/stories/${this.story.id}`, body));
    if (story) Object.assign(this.story, story);
    return Boolean(story);
  }
}
