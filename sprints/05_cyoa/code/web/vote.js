// Blind votes on pairs of scenes. Served by the app, pairs come from /eval/pair; in the static export they stand in the page itself,
// encoded against a glance at the source, and the votes are downloaded.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const packed = $("pairs").textContent.trim();
  const source = packed ? file(JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(packed), (c) => c.charCodeAt(0))))) : app();
  let current = null, shown = 0, done = 0;

  function stored(key, make) {
    try {
      const found = JSON.parse(localStorage.getItem(key)) ?? make();
      localStorage.setItem(key, JSON.stringify(found));
      return found;
    } catch {
      return make(); // no storage: this visit only
    }
  }

  function name() {
    return `rater-${Array.from(crypto.getRandomValues(new Uint8Array(6)), (n) => n.toString(16).padStart(2, "0")).join("")}`;
  }

  /** Pairs in the page: every one once, in an order and on sides of this visitor's own, which a reload keeps. */
  function file({ key, pairs }) {
    const shuffle = (list) => list.map((item) => [Math.random(), item]).sort((a, b) => a[0] - b[0]).map(([, item]) => item);
    const fresh = () => ({
      rater: name(),
      shows: shuffle(pairs.map((pair, at) => ({ at, sides: shuffle(Object.keys(pair.texts)) }))),
      votes: [],
    });
    const state = stored(key, fresh);
    return {
      total: pairs.length,
      done: () => state.votes.length,
      async next() {
        const show = state.shows[state.votes.length];
        if (!show) return null;
        const [left, right] = show.sides, { id, prompt, texts } = pairs[show.at];
        return { id, prompt, left: texts[left], right: texts[right] };
      },
      async cast(id, winner, ms) {
        const [left, right] = state.shows[state.votes.length].sides;
        state.votes.push({ rater: state.rater, id, left, right, winner, ms });
        try {
          localStorage.setItem(key, JSON.stringify(state));
        } catch {
          // no storage: the votes can still be downloaded
        }
      },
      async end() {
        $("end-text").textContent = "Nothing was sent anywhere: download the votes and give the file to whoever gave you this page.";
        $("download").hidden = false;
        $("download").onclick = () => {
          const link = document.createElement("a");
          link.href = URL.createObjectURL(new Blob([JSON.stringify(state.votes, null, 1) + "\n"], { type: "application/json" }));
          link.download = `votes-${state.rater}.json`;
          link.click();
          setTimeout(() => URL.revokeObjectURL(link.href), 60000);
        };
      },
    };
  }

  /** Pairs from the app, which knows what this rater has seen. */
  function app() {
    const rater = stored("cyoa-rater", name);
    const said = async (response) => {
      if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail || `the app answered ${response.status}`);
      return response;
    };
    return {
      done: () => done,
      async next() {
        const response = await fetch(`/eval/pair?rater=${encodeURIComponent(rater)}`);
        if (response.status === 404) return null;
        const { pair_id, prompt, left, right } = await (await said(response)).json();
        return { id: pair_id, prompt, left, right };
      },
      async cast(pair_id, winner, ms) {
        const headers = { "Content-Type": "application/json" };
        await said(await fetch("/eval/votes", { method: "POST", headers, body: JSON.stringify({ pair_id, rater, winner, ms }) }));
      },
      async end() {
        const { models, votes } = await (await said(await fetch("/eval/leaderboard"))).json();
        $("end-text").textContent = `There is no pair left for you. All raters have cast ${votes} votes.`;
        const body = $("board").tBodies[0];
        for (const row of models) {
          const line = body.insertRow();
          const texts = [row.model, row.rating.toFixed(0), `${row.low.toFixed(0)} to ${row.high.toFixed(0)}`, row.votes];
          for (const text of texts) line.insertCell().textContent = text;
        }
        $("board").hidden = !models.length;
      },
    };
  }

  async function show() {
    current = await source.next();
    $("vote").hidden = !current;
    $("end").hidden = Boolean(current);
    const count = source.done();
    $("status").textContent = source.total ? `${count} of ${source.total} done` : `${count} done`;
    if (!current) {
      await source.end();
      $("end-title").focus();
      return;
    }
    for (const part of ["prompt", "left", "right"]) $(part).textContent = current[part];
    shown = performance.now();
    scrollTo(0, 0);
  }

  async function vote(winner) {
    const ms = Math.round(performance.now() - shown);
    if (!current || ms < 250) return; // the second half of a double click is no vote
    const { id } = current;
    current = null;
    try {
      await source.cast(id, winner, ms);
      done += 1;
      await show();
    } catch (error) {
      $("status").textContent = `Not counted: ${error.message}. Reload the page to go on.`;
    }
  }

  for (const button of document.querySelectorAll("[data-winner]")) button.addEventListener("click", () => vote(button.dataset.winner));
  addEventListener("keydown", (event) => {
    const winner = { 1: "left", 2: "tie", 3: "right" }[event.key];
    if (winner && !event.repeat && !event.ctrlKey && !event.altKey && !event.metaKey) vote(winner);
  });
  show().catch((error) => { $("status").textContent = error.message; });
})();
