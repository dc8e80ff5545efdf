// Messages on their way to the server.
//
// Each gets an Idempotency-Key when it is written and keeps it, in the browser's storage too, until the server has
// accepted it: a message is sent as often as it takes and still counts once, whether the server was killed before it
// accepted, or after it accepted and before it could say so, or the page was closed meanwhile. One at a time, in order:
// the second is not sent before the first is accepted.

import { kept, newKey, now } from "./lib.js";

const PREFIX = "mainspring.outbox";
const SEND_MAX_MS = 10_000;
const RETRY_FIRST_MS = 400;
const RETRY_MAX_MS = 5_000;
// Answers that say "later" or "sign in first" rather than "never".
const TRY_AGAIN = new Set([401, 403, 408, 425, 429]);

export class Outbox {
  #path;
  #store;
  #entries;
  #onChange;
  #onAccepted;
  #timer;
  #busy = false;
  #closed = false;
  #failures = 0;

  /** `onAccepted(entry, answer)` is called once an entry is durable; `onChange()` whenever the entries look different. */
  constructor(path, { onChange, onAccepted }) {
    this.#path = path;
    this.#store = `${PREFIX}:${path}:`;
    this.#onChange = onChange;
    this.#onAccepted = onAccepted;
    this.#entries = kept
      .keys()
      .filter((key) => key.startsWith(this.#store))
      .map((key) => parse(kept.get(key)))
      .filter((entry) => entry)
      .sort((a, b) => a.at - b.at);
  }

  /**
   * What is not accepted yet, oldest first: `{key, text, at, state, problem, tried}`. `state` is `sent`, `retrying` or
   * `refused`; `at` is the server's time, as well as the page knew it, when the message was written.
   */
  get entries() {
    return this.#entries;
  }

  /** The entry the server may have accepted without this page knowing. One at most: they go one at a time. */
  get uncertain() {
    return this.#entries.find((entry) => entry.tried && entry.state !== "refused");
  }

  /** `end`: nothing more follows for now. */
  add(text, end = false) {
    const last = this.#entries.at(-1)?.at ?? 0;
    // Later than the one before, even if the clock stands still: the order is the order of writing.
    const entry = { key: newKey(), text, end, at: Math.max(now(), last + 1), state: "sent", problem: null, tried: false };
    this.#entries.push(entry);
    this.#keep(entry);
    this.#onChange();
    this.wake();
  }

  /** Tries a refused entry again. */
  retry(key) {
    const entry = this.#entries.find((entry) => entry.key === key);
    if (!entry) return;
    entry.state = "sent";
    this.#onChange();
    this.wake();
  }

  discard(key) {
    this.#entries = this.#entries.filter((entry) => entry.key !== key);
    kept.remove(this.#store + key);
    this.#onChange();
  }

  /** Sends now what is waiting: at the start, and when the connection is back. */
  wake() {
    this.#failures = 0;
    this.#send();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  async #send() {
    if (this.#busy || this.#closed) return;
    clearTimeout(this.#timer);
    const entry = this.#entries.find((entry) => entry.state !== "refused");
    if (!entry) return;
    this.#busy = true;
    entry.tried = true;
    this.#keep(entry);
    const outcome = await post(`${this.#path}/messages`, entry);
    this.#busy = false;
    // Accepted or not is settled for this session even if the page has moved on to another one.
    if (outcome.accepted) {
      this.#failures = 0;
      this.#entries = this.#entries.filter((other) => other !== entry);
      kept.remove(this.#store + entry.key);
      if (!this.#closed) this.#onAccepted(entry, outcome.accepted);
    } else {
      entry.state = outcome.again ? "retrying" : "refused";
      entry.problem = outcome.problem;
      this.#keep(entry);
    }
    if (this.#closed) return;
    this.#onChange();
    if (outcome.again) {
      this.#failures += 1;
      const waitMs = Math.min(RETRY_FIRST_MS * 2 ** (this.#failures - 1), RETRY_MAX_MS);
      this.#timer = setTimeout(() => this.#send(), Math.max(waitMs, outcome.afterMs ?? 0));
    } else {
      this.#send();
    }
  }

  #keep(entry) {
    kept.set(this.#store + entry.key, JSON.stringify(entry));
  }
}

/** Posts one entry: `{accepted}`, `{again, problem, afterMs}` or `{problem}`. */
async function post(url, entry) {
  let response;
  let body;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": entry.key },
      body: JSON.stringify(entry.end ? { text: entry.text, end: true } : { text: entry.text }),
      signal: AbortSignal.timeout(SEND_MAX_MS),
    });
    body = await response.json().catch(() => null);
  } catch {
    return { again: true, problem: "the server cannot be reached" };
  }
  // An accepted answer whose body was cut off is asked for again: the key makes that safe.
  if (response.ok) return body?.message_id ? { accepted: body } : { again: true, problem: "the answer was cut off" };
  const problem = [body?.title, body?.detail, body?.action].filter(Boolean).join(". ") || `status ${response.status}`;
  const again = response.status >= 500 || TRY_AGAIN.has(response.status);
  const afterMs = Math.min(Number(response.headers.get("retry-after")) || 0, 60) * 1_000;
  return again ? { again, problem, afterMs } : { problem };
}

function parse(text) {
  try {
    const entry = JSON.parse(text);
    return entry?.key && typeof entry.text === "string" ? entry : null;
  } catch {
    return null;
  }
}
