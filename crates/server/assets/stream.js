// A session's events, across lost connections.
//
// EventSource comes back by itself after some faults but not after others, and waits as long as the browser likes. So
// each loss is handled here: close, wait a little, open again after the last durable event that was seen. The server
// repeats nothing that was seen, and whatever it does repeat is recognised by its sequence number.

const DURABLE = [
  "message.accepted",
  "turn.started",
  "turn.processing",
  "supersede.decision",
  "turn.message_absorbed",
  "artifact.stored",
  "artifact.reused",
  "effect.started",
  "effect.done",
  "effect.failed",
  "agent.step",
  "session.state_changed",
  "session.handed_over",
  "session.handover_refused",
  "session.passed_on",
  "reply.sent",
  "reply.taken",
  "reply.delivered",
  "reply.read",
  "reply.failed",
  "turn.completed",
  "turn.superseded",
  "turn.failed",
  "turn.cancelled",
];
const EPHEMERAL = ["turn.window", "reply.delta", "agent.status"];

const RETRY_FIRST_MS = 300;
const RETRY_MAX_MS = 3_000;
// A server that accepts connections and then says nothing must not hold the page for ever.
const OPEN_MAX_MS = 10_000;

export class SessionStream {
  #path;
  #onEvent;
  #onState;
  #after;
  #source = null;
  #timer;
  #failures = 0;
  #closed = false;

  /**
   * Opens the stream. `after` is the sequence number to start after: 0 for all the session's events, null for new ones.
   * `onEvent({name, at, turn_id, data, durable})` is called once for each durable event; ephemeral ones may be lost.
   * `onState(state)` hears `connecting`, `open`, `lost` and `signed-out`.
   */
  constructor(path, { after = null, onEvent, onState }) {
    this.#path = path;
    this.#after = after;
    this.#onEvent = onEvent;
    this.#onState = onState;
    window.addEventListener("online", this.#wake);
    document.addEventListener("visibilitychange", this.#wake);
    onState("connecting");
    this.#open();
  }

  /** Ends it for good. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#source?.close();
    window.removeEventListener("online", this.#wake);
    document.removeEventListener("visibilitychange", this.#wake);
  }

  #wake = () => {
    if (!this.#closed && !this.#source && !document.hidden) this.#open();
  };

  #open() {
    clearTimeout(this.#timer);
    const query = this.#after === null ? "" : `?after=${this.#after}`;
    const source = new EventSource(`${this.#path}/events${query}`);
    this.#source = source;
    this.#timer = setTimeout(() => this.#lost(source), OPEN_MAX_MS);
    source.onopen = () => {
      clearTimeout(this.#timer);
      this.#failures = 0;
      this.#onState("open");
    };
    source.onerror = () => this.#lost(source);
    for (const name of DURABLE) source.addEventListener(name, (event) => this.#take(source, event, true));
    for (const name of EPHEMERAL) source.addEventListener(name, (event) => this.#take(source, event, false));
  }

  #take(source, message, durable) {
    if (this.#closed || source !== this.#source) return;
    let event;
    try {
      event = JSON.parse(message.data);
    } catch {
      console.error("an event is not JSON and was left out:", message.data);
      return;
    }
    if (durable && Number.isFinite(event.seq)) {
      if (this.#after !== null && event.seq <= this.#after) return;
      this.#after = event.seq;
    }
    const data = event.data ?? {};
    // Receipts and outcomes can come when the turn is over: these are not told by its run, but say whose they are.
    this.#onEvent({ ...event, name: message.type, turn_id: event.turn_id ?? data.turn_id ?? null, data, durable });
  }

  async #lost(source) {
    if (this.#closed || source !== this.#source) return;
    // An EventSource that gave up was refused; only an ordinary request can tell whether for want of a token.
    const refused = source.readyState === EventSource.CLOSED;
    source.close();
    this.#source = null;
    clearTimeout(this.#timer);
    this.#failures += 1;
    this.#onState("lost");
    const waitMs = Math.min(RETRY_FIRST_MS * 2 ** (this.#failures - 1), RETRY_MAX_MS);
    // Spread out, so that a restarted server is not met by all its pages at once.
    this.#timer = setTimeout(() => this.#open(), waitMs * (0.7 + 0.6 * Math.random()));
    if (refused && (await isSignedOut(this.#path)) && !this.#closed) this.#onState("signed-out");
  }
}

async function isSignedOut(path) {
  try {
    return (await fetch(path, { headers: { accept: "application/json" } })).status === 401;
  } catch {
    return false;
  }
}
