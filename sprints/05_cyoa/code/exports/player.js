/* Plays the story that stands in #story. The page of the story is the #number in the address, so a reload stays where it was, and
   the browser's own back button undoes a choice. */
"use strict";

const story = JSON.parse(document.getElementById("story").textContent);
const place = (id) => document.getElementById(id);
const root = document.documentElement;
const seen = new Set();

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

/** The number of the page, 0 for the title page. */
function current() {
  const number = Number(location.hash.slice(1));
  return Number.isInteger(number) && number > 0 && number <= story.pages.length ? number : 0;
}

/** How many choices lead from where the player came in to this page. */
function depth() {
  return history.state?.depth || 0;
}

function go(number, after = depth() + 1) {
  history.pushState({ depth: after }, "", `#${number || ""}`);
  show(true);
}

function back() {
  if (depth()) history.back();
  else if (current()) begin(); // opened in the middle of the story
}

function begin() {
  go(0, 0);
}

/** A choice: a button with its number key, or words where nobody has gone yet. */
function option([text, to], key) {
  if (to === null) {
    const closed = element("p", text, "untaken");
    closed.append(element("small", story.untaken));
    return closed;
  }
  const button = element("button", "", "choice");
  button.type = "button";
  if (key <= 9) button.append(element("kbd", String(key)));
  button.append(element("span", text));
  button.addEventListener("click", () => go(to));
  return button;
}

function show(focus) {
  const number = current();
  const page = number ? story.pages[number - 1] : { text: [story.about], links: story.starts, ending: false };
  if (number) seen.add(number);
  const title = place("title");
  title.textContent = number ? `Page ${number}` : story.title;
  title.className = number ? "small" : "cover";
  place("where").textContent = number ? `${story.title} · ${seen.size} of ${story.pages.length} pages seen` : story.genre;
  place("scene").replaceChildren(...page.text.map((words) => element("p", words)));
  if (page.ending) place("scene").append(element("p", "The end.", "end"));
  let key = 0;
  const options = page.links.map((link) => option(link, link[1] === null ? 0 : (key += 1)));
  if (!options.some((made) => made.className === "choice")) {
    const button = element("button", "Begin again", "choice");
    button.type = "button";
    button.addEventListener("click", begin);
    options.push(button);
  }
  place("choices").replaceChildren(...options);
  place("back").hidden = place("again").hidden = !number;
  document.title = number ? `${story.title}, page ${number}` : story.title;
  if (focus) {
    place("news").textContent = [...page.text, page.ending ? "The end." : ""].join(" ");
    title.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function paint() {
  root.dataset.theme = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function turn() {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
}

root.style.setProperty("--hue", String(story.hue));
place("back").addEventListener("click", back);
place("again").addEventListener("click", begin);
place("theme").addEventListener("click", turn);
addEventListener("popstate", () => show(true));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const chosen = /^[1-9]$/.test(event.key) && document.querySelectorAll("#choices .choice")[event.key - 1];
  const does = { Backspace: back, r: begin, d: turn }[event.key.length > 1 ? event.key : event.key.toLowerCase()];
  if (!chosen && !does) return;
  event.preventDefault();
  if (chosen) chosen.click();
  else does();
});
paint();
show(false);
