/* Messages at the edge of the screen, and words for screen readers only. */

import { $, el, icon } from "./dom.js";

const TEXTS = {
  offline: "The server cannot be reached. Everything written so far is kept there.",
  busy: "The storyteller has a full house right now.",
  too_large: "That is more than the server takes. Make it shorter.",
  not_ready: "The storyteller is still waking up.",
  engine: "The storyteller lost the thread.",
  engine_timeout: "The storyteller took too long.",
  unauthorized: "This server asks for its token: open the link that the server printed.",
  deadline: "Time was up, so the scene ends early. You can go on from here.",
  shutdown: "The server is closing. The scene so far is kept.",
};

/** Show `text` for `seconds`, an error until it is closed; with `again` there is a button to try once more, after `wait` seconds;
    `closed` is called when the player does not. */
export function toast(text, { again, closed, wait = 0, error = false, seconds = 5 } = {}) {
  const box = el("div", { class: error ? "toast bad" : "toast" });
  const gone = () => box.remove();
  box.append(el("p", { role: error ? "alert" : "status" }, text));
  if (again) {
    const retry = el("button", { type: "button", class: "pill", onclick: () => { gone(); again(); } }, "Try again");
    const count = (left) => {
      retry.disabled = left > 0;
      retry.textContent = left > 0 ? `Try again (${left})` : "Try again";
      if (left > 0) setTimeout(count, 1000, left - 1);
    };
    count(Math.ceil(wait));
    box.append(retry);
  }
  box.append(el("button", { type: "button", class: "plain", "aria-label": "Close the message", onclick: () => { gone(); closed?.(); } }, icon("close")));
  const host = document.querySelector("dialog[open]") || $("#toasts"); // a modal dialog makes everything outside it inert
  if (host.id !== "toasts") box.classList.add("inside");
  host.append(box);
  if (!error) setTimeout(gone, 1000 * seconds);
  return box;
}

/** Tell about a failed request; `again` repeats it where that can help, else `closed` is called. */
export function complain(problem, again, closed) {
  const hopeless = [400, 401, 403, 404, 409, 413, 422].includes(problem.status) || problem.status === undefined;
  const known = problem.code === "too_many" ? `Not so fast: ${problem.message}.` : TEXTS[problem.code];
  const sentence = known || `That did not work: ${problem.message}.`;
  toast(sentence, { error: true, again: hopeless ? null : again, closed, wait: problem.retryAfter || 0 });
  if (hopeless) closed?.();
  if (problem.status === undefined) console.error(problem);
}

/** What `work` gives, at once or after the player tried again; undefined when it fails for good or the player lets it be. */
export function attempt(work) {
  return new Promise((resolve) => {
    const run = () => work().then(resolve, (problem) => complain(problem, run, resolve));
    run();
  });
}

/** Let screen readers say `text` once, without interrupting. */
export function announce(text) {
  $("#announce").textContent = text;
}
