/* The story server: requests, problems and the resumable stream (docs/api.md). */

/** A request that failed: `status` 0 means that the server was not reached; `retryAfter` in seconds, or null. */
export class Problem extends Error {
  constructor(status, code, detail, retryAfter = null) {
    super(detail);
    Object.assign(this, { status, code, retryAfter });
  }
}

async function problem(response) {
  let body = {};
  try { body = await response.json(); } catch { /* a proxy in between may answer in HTML */ }
  const wait = Number(response.headers.get("Retry-After"));
  return new Problem(response.status, body.code || "error", body.detail || response.statusText, wait > 0 ? wait : null);
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "offline", "the server cannot be reached");
  }
  if (!response.ok) throw await problem(response);
  return response;
}

/** A key that makes sending the same request twice harmless. */
export function key() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Send `body` as JSON (or a Blob as it is) and give the answer, null for an empty one. */
export async function call(method, path, body, idempotencyKey) {
  const headers = { Accept: "application/json" };
  if (idempotencyKey) headers["Idempotency-Key"] = idempotencyKey;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const payload = body instanceof Blob || body === undefined ? body : JSON.stringify(body);
  const response = await request(path, { method, headers, body: payload });
  return response.status === 204 ? null : response.json();
}

export const get = (path) => call("GET", path);

/** The events of an event stream, as they come. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r\n", "\n");
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const name = lines.find((line) => line.startsWith("event:"))?.slice(6).trim();
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (name && data) yield { name, data: JSON.parse(data) };
    }
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const WAITS = [300, 1000, 2000, 4000, 8000]; // ms between attempts to take up a broken stream

/**
 * Follow a node from character `from`. `on` has a function per event: token, scene, choices, done, error. A stream that breaks is
 * taken up where it stopped; characters are Unicode code points, as the server counts them.
 */
export async function follow(nodeId, from, on, signal) {
  let at = from;
  for (let attempt = 0; ; attempt++) {
    try {
      const response = await request(`/nodes/${nodeId}/stream?from=${at}`, { headers: { Accept: "text/event-stream" }, signal });
      for await (const { name, data } of events(response)) {
        if (name === "token") at = data.i + [...data.t].length;
        on[name]?.(data);
        if (name === "done" || name === "error") return;
        attempt = 0;
      }
    } catch (error) {
      if (signal.aborted) return;
      const temporary = !(error instanceof Problem) || error.status === 0;
      if (!temporary || attempt >= WAITS.length) throw error;
    }
    if (attempt >= WAITS.length) throw new Problem(0, "offline", "the stream broke off");
    await pause(WAITS[attempt]);
    if (signal.aborted) return;
  }
}
