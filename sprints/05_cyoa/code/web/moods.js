/* Sixty-four genres share eleven moods: a palette (moods.css), a backdrop (backdrops/*.svg) and something that drifts through the air. */

import { el, svg } from "./dom.js";

export const MOODS = {
  sakura: "School days",
  neon: "Neon city",
  stars: "Starfield",
  sea: "Open sea",
  desert: "Desert",
  castle: "Castle",
  shrine: "Forest shrine",
  cafe: "Kitchen and café",
  arena: "Arena",
  mist: "Ghost mist",
  sky: "Sky islands",
};

const GENRES = {
  sakura: ["art club", "newspaper club", "robotics club", "romance", "school festival", "slice of life", "student council", "body swap"],
  neon: ["android", "cyberpunk", "heist", "mecha", "spy", "superhero", "virtual reality"],
  stars: ["alien contact", "astronomy", "dream world", "parallel worlds", "space opera"],
  sea: ["deep sea", "pirates", "rivals to friends", "survival", "time loop", "treasure hunt", "underwater kingdom"],
  desert: ["desert caravan", "lost city", "post-apocalypse"],
  castle: ["chess", "dragon riders", "dungeon crawl", "fantasy", "gaming isekai", "guild receptionist", "magic school", "reincarnated villain"],
  shrine: ["fairy tale retold", "farm life", "monster taming", "ninja", "samurai", "shrine guardian", "witch apprentice"],
  cafe: ["bakery", "board games", "cat cafe", "cooking", "family drama", "library"],
  arena: ["card battle", "courtroom", "idol music", "racing", "sports", "theater"],
  mist: ["detective mystery", "ghost story", "yokai"],
  sky: ["mountain climbing", "sky islands", "steampunk", "train journey"],
};

const HINTS = [
  [/school|club|student|love/, "sakura"], [/robot|city|cyber|hero|crime/, "neon"], [/space|star|alien|moon|dream/, "stars"],
  [/sea|pirate|ocean|island|water/, "sea"], [/desert|waste|ruin/, "desert"], [/magic|knight|dragon|isekai|king/, "castle"],
  [/forest|spirit|shrine|animal/, "shrine"], [/food|cook|cafe|shop|home/, "cafe"], [/sport|game|music|battle|idol/, "arena"],
  [/ghost|horror|mystery|dark/, "mist"], [/sky|wind|mountain|train|air/, "sky"],
];

/** The mood of a genre, also of one that we never heard of. */
export function moodOf(genre) {
  const name = genre.toLowerCase();
  const known = Object.keys(GENRES).find((mood) => GENRES[mood].includes(name));
  return known || HINTS.find(([pattern]) => pattern.test(name))?.[1] || "sakura";
}

const loaded = new Map();

/** Put the drawing of a mood among the symbols of the page, once. Its colours are CSS variables, so every copy takes its own palette. */
function load(mood) {
  if (!loaded.has(mood)) {
    loaded.set(mood, fetch(`/backdrops/${mood}.svg`).then(async (response) => {
      if (!response.ok) throw new Error(`no backdrop ${mood}`);
      const drawing = new DOMParser().parseFromString(await response.text(), "image/svg+xml").documentElement;
      const symbol = svg("symbol", { id: `backdrop-${mood}`, viewBox: "0 0 1600 900", preserveAspectRatio: "xMidYMid slice" });
      symbol.append(...Array.from(drawing.childNodes, (child) => document.importNode(child, true)));
      document.getElementById("backdrops").append(symbol);
    }).catch(() => loaded.delete(mood))); // the palette alone is a backdrop too
  }
}

/** The sky and the drawing of a mood, for a card or the whole stage. */
export function scenery(mood, sparks = 0) {
  load(mood);
  const drawing = svg("svg", { class: "drawing" }, svg("use", { href: `#backdrop-${mood}`, width: "100%", height: "100%" }));
  const air = Array.from({ length: sparks }, (_, place) => {
    const spark = el("i");
    const chance = (step) => ((place * step + 37) % 100) / 100; // spread evenly, and the same each time
    spark.style.setProperty("--x", chance(61));
    spark.style.setProperty("--y", chance(43));
    spark.style.setProperty("--z", chance(29));
    return spark;
  });
  return el("div", { class: "scenery", "data-mood": mood, "aria-hidden": "true" }, drawing, sparks > 0 && el("div", { class: "air" }, air));
}
