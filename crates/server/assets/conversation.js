// What a conversation looks like after the events so far. No page, no network, no clock: events in, items out.

import { counted, took } from "./lib.js";

/** The oldest turns leave the page beyond this number; they remain in the API. */
const TURNS_MAX = 200;

/** The states of a turn that has not ended. */
const UNDER_WAY = ["accumulating", "processing"];

/** How far a segment of a reply can get, in order; and what a window ended with, in words. */
const DELIVERY = ["sent", "failed", "delivered", "read"];
const WINDOW_ENDS = {
  timeout: "it went quiet",
  explicit_signal: "you said that nothing follows",
  channel_hint: "the channel had bundled the messages",
  agent_hint: "the agent expected one message",
  max_messages: "enough messages had arrived",
  max_wait: "the longest wait was reached",
  no_accumulation: "no window",
};

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
    // What happens to a follow-up, and to a session from outside, is not part of a turn.
    if (!turnId || name.startsWith("follow_up.")) return;
    if (name === "message.accepted") {
      this.#messageAccepted(event, uncertain);
      return;
    }
    const turn = this.#turn(turnId);
    switch (name) {
      case "turn.started":
        turn.startedAt = event.at;
        this.#takeQueued(turn);
        break;
      case "turn.window":
        if (turn.state === "accumulating") turn.window = data;
        break;
      case "turn.processing":
        Object.assign(turn, { state: "processing", window: null });
        tell(turn, "window", [`window: ${WINDOW_ENDS[data.ended_by] ?? "closed"} after ${took(data.waited_ms)} (${data.explanation})`]);
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
          turn.committed ??= "past the commit point, its answer has begun";
        }
        break;
      case "supersede.decision":
        this.#decided(turn, data);
        break;
      case "turn.message_absorbed":
        tell(turn, "absorbed", [`${counted(data.messages, "message")} absorbed, begun anew (${turn.decision?.reason ?? "absorb"})`], true);
        break;
      case "artifact.stored":
        tell(turn, `artifact-${data.phase}`, [`${data.phase}: result kept`], false);
        break;
      case "artifact.reused":
        tell(turn, `artifact-${data.phase}`, [`${data.phase}: used again from `, this.#from(data.from_turn, turn)], true);
        break;
      case "effect.started":
        if (data.policy === "irreversible") turn.committed ??= `past the commit point, ${data.tool} can't be taken back`;
        tell(turn, `effect-${data.tool}-${data.key}`, [`${data.tool} ${data.key}: begun (${data.policy})`], true);
        break;
      case "effect.done":
      case "effect.failed":
        tell(turn, `effect-${data.tool}-${data.key}`, [`${data.tool} ${data.key}: ${name === "effect.done" ? "done" : "failed"} (${data.policy})`], true);
        break;
      case "session.state_changed":
        tell(turn, "state", [`the session's state is now version ${data.version}`]);
        break;
      case "session.handed_over":
      case "session.passed_on":
        tell(turn, "handover", [`the session goes on with agent ${data.agent}`], true);
        break;
      case "session.handover_refused":
        tell(turn, "handover", [`not handed over to agent ${data.agent}: ${data.reason}`], true);
        break;
      case "reply.sent":
        if (!turn.replies.some((reply) => reply.id === data.reply_id)) {
          turn.replies.push({ id: data.reply_id, text: data.text, segments: data.segments ?? 1, deliveries: new Map() });
          Object.assign(turn, { draft: "", status: null });
        }
        break;
      case "reply.taken":
      case "reply.delivered":
      case "reply.read":
      case "reply.failed":
        delivered(turn, data);
        break;
      case "turn.completed":
        Object.assign(turn, { state: "completed", draft: "" });
        break;
      case "turn.superseded":
        Object.assign(turn, { state: "superseded", reason: data.reason, supersededBy: data.superseded_by });
        for (const message of turn.messages) message.late = false;
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

  /** Whether a turn's reply was too long for its event. */
  lacksText(turnId) {
    return this.#turns.get(turnId)?.replies.some((reply) => reply.text === undefined) ?? false;
  }

  /** Such a reply, read from its turn. */
  fill(turnId, text) {
    for (const reply of this.#turns.get(turnId)?.replies ?? []) reply.text ??= text;
  }

  #messageAccepted({ data, at, turn_id: turnId }, uncertain) {
    const { kind, text, replay_of: replayOf } = data.message ?? {};
    // Nobody said these: they only let the agent speak.
    if (kind === "follow_up") {
      tell(this.#turn(turnId), "came", ["a follow-up came due"], true);
      return;
    }
    if (kind === "handoff") {
      tell(this.#turn(turnId), "came", [`handed over by another agent${text ? `: ${text}` : ""}`], true);
      return;
    }
    const isNew = !this.#messages.has(data.message_id);
    const message = this.#message(data.message_id, turnId, text);
    message.replayed = Boolean(replayOf);
    const working = this.watchedTurn;
    if (working && working.id === turnId) message.late = working.state === "processing";
    else if (UNDER_WAY.includes(working?.state)) message.behind = { turn: working, why: working.committed ?? "it takes no more messages" };
    // The event can be faster than the answer, or outlive it. Known by its text until an answer says for certain.
    const possible = isNew && uncertain?.text === text && at >= uncertain.at - CLOCKS_APART_MS;
    if (possible && !this.#hasKey(uncertain.key)) message.key = uncertain.key;
  }

  /** What becomes of messages that came while the agent works. */
  #decided(turn, { action, reason, restart_from: from }) {
    turn.decision = { action, reason: from ? `${reason}, from phase ${from}` : reason };
    if (action === "absorb") {
      Object.assign(turn, { draft: "", status: null });
      for (const message of turn.messages) message.late = false;
    } else if (action === "queue" || action === "force_complete") {
      turn.committed = reason;
      for (const message of turn.messages) if (message.late) message.behind = { turn, why: reason };
    }
  }

  /** Messages that came too late for the turn they were offered to are in the next one. */
  #takeQueued(turn) {
    for (const other of this.#turns.values()) {
      if (other === turn || other.state === "superseded") continue;
      const late = other.messages.filter((message) => message.late);
      if (!late.length) continue;
      other.messages = other.messages.filter((message) => !message.late);
      for (const message of late) Object.assign(message, { turn, late: false, behind: message.behind ?? { turn: other } });
      turn.messages.unshift(...late);
    }
  }

  #from(turnId, turn) {
    if (turnId === turn.id) return "its first attempt";
    return this.#turns.get(turnId) ?? { id: turnId };
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
      for (const reply of turn.replies) items.push({ key: `reply-${reply.id}`, type: "reply", turn, text: reply.text, reply, trace: notable(turn) });
      items.push(...outcome(turn, this.#connected, turn.state === "superseded" ? this.#carried(turn) : 0));
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

  /** How many messages a superseded turn handed on: its own, and those it had been handed. */
  #carried(turn) {
    let count = turn.messages.length;
    for (const other of this.#turns.values()) if (other.supersededBy === turn.id) count += this.#carried(other);
    return count;
  }

  #fromMessage(message) {
    const turn = this.#heir(message.turn);
    const { behind, replayed } = message;
    let state = turn.state === "accumulating" ? "accepted" : "in-turn";
    if (behind && (message.late || !turn.startedAt)) state = "queued";
    return { key: `message-${message.key}`, type: "message", state, text: message.text, turn, id: message.id, behind, replayed };
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
      turn = { id, number: this.#count, state: "accumulating", messages: [], replies: [], trace: new Map(), draft: "", gap: false, status: null };
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
function outcome(turn, connected, carried) {
  switch (turn.state) {
    case "accumulating":
    case "processing":
      // Between its reply and its end a turn works on nothing a person waits for; nor does one that has not begun.
      if (turn.replies.length || !turn.startedAt) return [];
      return [{ key: `draft-${turn.id}`, type: "draft", turn, text: turn.draft, connected, trace: [...turn.trace.values()] }];
    case "superseded":
      return [{ key: `attempt-${turn.id}`, type: "attempt", turn, text: turn.draft, carried, trace: [...turn.trace.values()] }];
    case "failed":
    case "cancelled":
      return [{ key: `note-${turn.id}`, type: "note", turn, trace: notable(turn) }];
    default:
      return [];
  }
}

/** Puts a line into what is told of a turn. Told again under its key, it takes the place it had. */
function tell(turn, key, parts, lasts = false) {
  turn.trace.set(key, { key, parts, lasts });
}

/** What is worth telling also when the turn is over. */
function notable(turn) {
  return [...turn.trace.values()].filter(({ lasts }) => lasts);
}

/** How far a segment of a reply got. Receipts come in any order: it only goes forward. */
function delivered(turn, { reply_id: id, status, error }) {
  const reply = turn.replies.find((reply) => base(reply.id) === base(id));
  if (!reply) return;
  const known = reply.deliveries.get(id);
  if (!known || DELIVERY.indexOf(status) > DELIVERY.indexOf(known.status)) reply.deliveries.set(id, { status, error });
}

/** A segment's id without its place in the reply. */
function base(id) {
  return id.replace(/\d+$/, "");
}
