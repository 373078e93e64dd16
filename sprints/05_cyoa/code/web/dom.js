/* Making elements. Text only ever goes through textContent, so what a model or a player wrote stays text. */

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element: el("button", {class: "pill", onclick: run}, "Begin"). */
export const el = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);

/** The same for SVG. */
export const svg = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

/** One of the symbols of index.html, hidden from screen readers. */
export const icon = (name) => svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

/** A button with an icon and a label that small screens may hide but screen readers keep. */
export const button = (name, label, onclick, properties = {}) =>
  el("button", { type: "button", title: label, onclick, ...properties }, icon(name), el("span", { class: "label" }, label));

let fields = 0;

/** A labelled form field; the hint describes it. */
export function field(label, input, hint) {
  fields += 1;
  input.id ||= `field-${fields}`;
  if (hint) input.setAttribute("aria-describedby", `${input.id}-hint`);
  return el("div", { class: "field" }, el("label", { for: input.id }, label), input, hint && el("small", { id: `${input.id}-hint` }, hint));
}

export const $ = (selector) => document.querySelector(selector);

/** What the browser remembers for this page; private windows may refuse. */
export const remember = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* it lasts until the page is closed */ } },
};

/** The paragraphs of a scene. */
export const paragraphs = (text) => text.split(/\n+/).filter((line) => line.trim()).map((line) => el("p", {}, line));
