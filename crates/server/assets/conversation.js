// What a conversation looks like after the events so far. No page, no network, no clock: events in, items out.

/** The oldest turns leave the page beyond this number; they remain in the API. */
const TURNS_MAX = 200;

/** The states of a turn that has not ended. */
const UNDER_WAY = ["accumulating", "processing"];

/** How far the browser's idea of the server's clock may be off. */
const CLOCKS_APART_MS = 5_000;

export class Conversation {
  #turns = new Map();
  #messages = new Map();
  #count = 0;
  #connected = true;

  /** The turn that happens now, or the last one that did. */
  get latestTurn() {
    return [...this.#turns.values()].at(-1);
  }

  /**
   * The turn to watch: the first that is under way, or else the last that was. A message can be promised a turn that
   * begins only after the one before has ended; until then there is nothing of it to see.
   */
  get watchedTurn() {
    const begun = [...this.#turns.values()].filter((turn) => turn.startedAt);
    return begun.find((turn) => UNDER_WAY.includes(turn.state)) ?? begun.at(-1);
  }

  /** The server accepted a message of this page's outbox, under the ids in its answer. */
  accepted(entry, { message_id: id, turn_id: turnId }) {
    // The event may have come first and been taken for another entry's.
    for (const message of this.#messages.values()) {
      if (message.key === entry.key && message.id !== id) message.key = message.id;
    }
    this.#message(id, turnId, entry.text).key = entry.key;
  }

  /** Takes an event in. `uncertain` is the outbox's entry that may have been accepted: the event may be about it. */
  apply(event, uncertain) {
    const { name, data, turn_id: turnId } = event;
    if (name === "message.accepted") {
      const isNew = !this.#messages.has(data.message_id);
      const text = data.message?.text;
      const message = this.#message(data.message_id, turnId, text);
      // The event can be faster than the answer, or outlive it. Known by its text until an answer says for certain.
      const possible = isNew && uncertain?.text === text && event.at >= uncertain.at - CLOCKS_APART_MS;
      if (possible && !this.#hasKey(uncertain.key)) message.key = uncertain.key;
      return;
    }
    const turn = this.#turn(turnId);
    switch (name) {
      case "turn.started":
        turn.startedAt = event.at;
        break;
      case "turn.processing":
        Object.assign(turn, { state: "processing", endedBy: data.ended_by, waitedMs: data.waited_ms });
        break;
      case "agent.status":
        turn.status = data.text;
        break;
      case "agent.step":
        turn.status = { started: `${data.name}…`, failed: `${data.name} failed` }[data.state] ?? null;
        break;
      case "reply.delta":
        if (UNDER_WAY.includes(turn.state)) {
          turn.draft += turn.gap && turn.draft ? ` … ${data.text}` : data.text;
          turn.gap = false;
          turn.status = null;
        }
        break;
      case "reply.sent":
        if (!turn.replies.some((reply) => reply.id === data.reply_id)) turn.replies.push({ id: data.reply_id, text: data.text });
        Object.assign(turn, { draft: "", status: null });
        break;
      case "turn.completed":
        Object.assign(turn, { state: "completed", draft: "" });
        break;
      case "turn.superseded":
        Object.assign(turn, { state: "superseded", reason: data.reason, supersededBy: data.superseded_by });
        break;
      case "turn.failed":
        Object.assign(turn, { state: "failed", reason: data.error });
        break;
      case "turn.cancelled":
        Object.assign(turn, { state: "cancelled", reason: data.reason });
        break;
      default:
        // An event of a newer server: nothing this page can show.
        break;
    }
  }

  /** Whether events arrive. While they do not, parts of drafts are missed. */
  connected(connected) {
    this.#connected = connected;
    if (!connected) for (const turn of this.#turns.values()) turn.gap = true;
  }

  /** What to show, in order: `{key, type: "message" | "reply" | "draft" | "attempt" | "note", …}`. */
  items(outbox) {
    const items = [];
    const waiting = outbox.filter((entry) => !this.#hasKey(entry.key)).map(fromEntry);
    const latest = this.latestTurn;
    for (const turn of this.#turns.values()) {
      for (const message of turn.messages) items.push(this.#fromMessage(message));
      // A message written while the window is open joins this turn: no jump when it is accepted.
      if (turn === latest && turn.state === "accumulating") items.push(...waiting.splice(0));
      for (const reply of turn.replies) items.push({ key: `reply-${reply.id}`, type: "reply", turn, text: reply.text });
      items.push(...outcome(turn, this.#connected));
    }
    return [...items, ...waiting];
  }

  /** The turn that answers for this one, after any supersession. */
  #heir(turn) {
    const seen = new Set();
    while (turn.supersededBy && this.#turns.has(turn.supersededBy) && !seen.has(turn)) {
      seen.add(turn);
      turn = this.#turns.get(turn.supersededBy);
    }
    return turn;
  }

  #fromMessage(message) {
    const turn = this.#heir(message.turn);
    const state = turn.state === "accumulating" ? "accepted" : "in-turn";
    return { key: `message-${message.key}`, type: "message", state, text: message.text, turn, id: message.id };
  }

  #hasKey(key) {
    for (const message of this.#messages.values()) if (message.key === key) return true;
    return false;
  }

  #message(id, turnId, text) {
    let message = this.#messages.get(id);
    if (!message) {
      const turn = this.#turn(turnId);
      message = { id, key: id, text, turn };
      this.#messages.set(id, message);
      turn.messages.push(message);
    }
    // Whichever of answer and event came first may not have known it.
    message.text ??= text;
    return message;
  }

  #turn(id) {
    let turn = this.#turns.get(id);
    if (!turn) {
      this.#count += 1;
      turn = { id, number: this.#count, state: "accumulating", messages: [], replies: [], draft: "", gap: false, status: null };
      this.#turns.set(id, turn);
      this.#forgetOldest();
    }
    return turn;
  }

  #forgetOldest() {
    while (this.#turns.size > TURNS_MAX) {
      const [id, turn] = this.#turns.entries().next().value;
      this.#turns.delete(id);
      for (const message of turn.messages) this.#messages.delete(message.id);
    }
  }
}

function fromEntry(entry) {
  const { key, text, state, problem } = entry;
  return { key: `message-${key}`, type: "message", state, text, problem, entryKey: key };
}

/** What stands below a turn's messages and replies: its draft while it works, or how it ended. */
function outcome(turn, connected) {
  switch (turn.state) {
    case "accumulating":
    case "processing":
      // Between its reply and its end a turn works on nothing a person waits for.
      if (turn.replies.length) return [];
      return [{ key: `draft-${turn.id}`, type: "draft", turn, text: turn.draft, connected }];
    case "superseded":
      return [{ key: `attempt-${turn.id}`, type: "attempt", turn, text: turn.draft }];
    case "failed":
    case "cancelled":
      return [{ key: `note-${turn.id}`, type: "note", turn }];
    default:
      return [];
  }
}
