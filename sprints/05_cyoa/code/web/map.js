/* The map of branches: a drawing for the eye, and the same tree as a nested list for keyboard and screen reader. */

import { el, svg } from "./dom.js";
import { closeSheet, sheet } from "./sheet.js";

const GAP = 46; // between neighbouring branches, in the drawing's units
const STEP = 64; // between a scene and the next

const name = (node) => node.action || (node.parent_id === null ? "The beginning" : "Going on");
const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1).trimEnd()}…` : text);

/** Places for every node, leaves side by side and parents above the middle of their children (after Reingold and Tilford, simplified). */
function layout(play) {
  const places = new Map();
  const children = new Map();
  for (const node of play.nodes.values()) children.set(node.parent_id, [...(children.get(node.parent_id) || []), node]);
  let leaves = 0;
  const order = []; // parents before children, without recursion: a story may be two thousand scenes deep
  const stack = [...(children.get(null) || [])].reverse();
  while (stack.length > 0) {
    const node = stack.pop();
    order.push(node);
    stack.push(...[...(children.get(node.id) || [])].reverse());
  }
  for (const node of order) if (!children.has(node.id)) places.set(node.id, { x: leaves++ * GAP, y: node.depth * STEP });
  for (const node of order.toReversed()) {
    const below = children.get(node.id);
    if (below) places.set(node.id, { x: (places.get(below[0].id).x + places.get(below.at(-1).id).x) / 2, y: node.depth * STEP });
  }
  return { places, children, order, width: Math.max(leaves - 1, 0) * GAP, height: Math.max(0, ...order.map((node) => node.depth)) * STEP };
}

/** The drawing: scenes as dots, the way to the player thick, endings as stars. */
function draw(play, { places, order, width, height }) {
  const way = new Set(play.path().map((node) => node.id));
  const lines = [];
  const dots = [];
  for (const node of [...order].sort((a, b) => way.has(a.id) - way.has(b.id))) {
    const { x, y } = places.get(node.id);
    const on = way.has(node.id) ? " on" : "";
    const from = places.get(node.parent_id);
    if (from) lines.push(svg("path", { class: `edge${on}`, d: `M${from.x} ${from.y}C${from.x} ${from.y + STEP / 2} ${x} ${y - STEP / 2} ${x} ${y}` }));
    const shape = node.ending
      ? svg("path", { d: star(x, y, 13) })
      : svg("circle", { cx: x, cy: y, r: node === play.node ? 11 : 8 });
    const group = svg("g", { class: `dot${on}${node === play.node ? " here" : ""}`, onclick: () => { closeSheet(); play.go(node.id); } });
    group.append(svg("title", {}, `${name(node)}: ${short(node.text, 90)}`), shape);
    dots.push(group);
  }
  const box = `${-40} ${-30} ${width + 80} ${height + 60}`;
  const drawing = svg("svg", { class: "map", viewBox: box, width: width + 80, height: height + 60, "aria-hidden": "true" }, lines, dots);
  return el("div", { class: "map-frame" }, drawing);
}

function star(x, y, radius) {
  const points = Array.from({ length: 10 }, (_, corner) => {
    const angle = (Math.PI * corner) / 5 - Math.PI / 2;
    const length = corner % 2 ? radius / 2.2 : radius;
    return `${(x + length * Math.cos(angle)).toFixed(1)} ${(y + length * Math.sin(angle)).toFixed(1)}`;
  });
  return `M${points.join("L")}Z`;
}

/** The tree as rows with levels (role tree): arrows move, Home and End jump, Enter goes there. */
function rows(play, { order, children }) {
  const list = el("ul", { class: "tree", role: "tree", "aria-label": "Every scene of the story" });
  const groups = new Map([[null, list]]);
  const items = new Map();
  for (const node of order) {
    const siblings = children.get(node.parent_id);
    const here = node === play.node;
    const label = `${short(name(node), 60)}${node.ending ? " (an ending)" : ""}${here ? " (you are here)" : ""}`;
    const item = el("li", { role: "treeitem", tabindex: here ? "0" : "-1", "aria-level": node.depth + 1, "aria-setsize": siblings.length,
      "aria-posinset": siblings.indexOf(node) + 1, "aria-current": here ? "step" : null, "aria-expanded": children.has(node.id) ? "true" : null,
      "aria-label": label, "data-id": node.id });
    item.append(el("span", { class: "row-label" }, el("b", {}, label), el("small", {}, short(node.text, 70))));
    if (children.has(node.id)) {
      const alone = children.get(node.id).length === 1; // a line of scenes stays straight; only a fork is set in
      groups.set(node.id, el("ul", { role: "group", class: alone ? "straight" : "fork" }));
      item.append(groups.get(node.id));
    }
    items.set(item, node);
    groups.get(node.parent_id).append(item);
  }
  const all = [...items.keys()];
  const focus = (item) => {
    if (!item) return;
    for (const other of all) other.tabIndex = other === item ? 0 : -1;
    item.focus();
  };
  const go = (item) => { closeSheet(); play.go(items.get(item).id); };
  list.addEventListener("click", (event) => go(event.target.closest("[role=treeitem]")));
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    const at = all.indexOf(item);
    const moves = {
      ArrowDown: () => focus(all[at + 1]),
      ArrowUp: () => focus(all[at - 1]),
      ArrowRight: () => focus(item.querySelector("[role=treeitem]")),
      ArrowLeft: () => focus(item.parentElement.closest("[role=treeitem]")),
      Home: () => focus(all[0]),
      End: () => focus(all.at(-1)),
      Enter: () => go(item),
      " ": () => go(item),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
  return list;
}

/** The sheet with both. */
export function map(play) {
  const plan = layout(play);
  const frame = draw(play, plan);
  const list = rows(play, plan);
  const endings = plan.order.filter((node) => node.ending).length;
  const count = `${plan.order.length} ${plan.order.length === 1 ? "scene" : "scenes"}, ${endings} ${endings === 1 ? "ending" : "endings"} found.`;
  sheet("Map of the branches", [el("p", {}, `${count} Nothing is ever deleted: go back to any scene.`), frame, list]);
  const here = plan.places.get(play.node.id);
  frame.scrollTo(here.x - frame.clientWidth / 2 + 40, here.y - frame.clientHeight / 2 + 30);
}
