// Draws a conversation's items, and changes only what differs from what is drawn.

import { counted, left, make, now, write } from "./lib.js";

// Closer than this to the end, the reader follows the conversation.
const FOLLOW_PX = 80;

export class ChatLog {
  #log;
  #list;
  #empty;
  #actions;
  #drawn = new Map();

  /** `actions` has `retry(key)` and `discard(key)`, for messages the server refused. */
  constructor(log, actions) {
    this.#log = log;
    this.#list = log.querySelector("ol");
    this.#empty = log.querySelector(".log-empty");
    this.#actions = actions;
  }

  draw(items) {
    const follow = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < FOLLOW_PX;
    const wanted = new Set(items.map((item) => item.key));
    for (const [key, element] of this.#drawn) {
      if (!wanted.has(key)) {
        element.remove();
        this.#drawn.delete(key);
      }
    }
    let place = this.#list.firstChild;
    for (const item of items) {
      let element = this.#drawn.get(item.key);
      if (!element) {
        element = create(item, this.#actions);
        this.#drawn.set(item.key, element);
      }
      update(element, item);
      if (element === place) place = place.nextSibling;
      else this.#list.insertBefore(element, place);
    }
    this.#empty.hidden = items.length > 0;
    if (follow) this.toEnd();
  }

  toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}

function create(item, actions) {
  const element = make(
    "li",
    { class: `item ${item.type}`, "data-testid": { message: "message", reply: "reply", draft: "draft" }[item.type] ?? item.type },
    make("p", { class: "bubble" }),
    make("p", { class: "caption" }),
    make("ul", { class: "trace", "data-testid": "trace" }),
  );
  // Seen, and said in words beside it.
  if (item.type === "draft") element.append(make("progress", { class: "wait", "aria-hidden": "true", "data-testid": "wait" }));
  if (item.type === "message") {
    const again = make("button", { type: "button", class: "plain" }, "Try again");
    const discard = make("button", { type: "button", class: "plain" }, "Discard");
    // The entry's key is in the item's: a refused message has no other.
    again.addEventListener("click", () => actions.retry(element.dataset.entry));
    discard.addEventListener("click", () => actions.discard(element.dataset.entry));
    element.append(make("p", { class: "choices" }, again, discard));
  }
  return element;
}

function update(element, item) {
  const [bubble, caption, trace, last] = element.children;
  const { turn } = item;
  element.dataset.turn = turn?.id ?? "";
  if (item.type === "message") {
    element.dataset.state = item.state;
    element.dataset.entry = item.entryKey ?? "";
    last.hidden = item.state !== "refused";
  } else {
    element.dataset.state = turn.state;
  }
  write(bubble, textOf(item));
  bubble.hidden = textOf(item) === "";
  describe(caption, captionOf(item));
  if (item.type === "draft") countDown(last, turn.window);
  lines(trace, item);
}

/** The bar that runs out while the window is open. */
function countDown(bar, window) {
  bar.hidden = !window;
  if (!window) return;
  bar.max = Math.max(1, window.quiet_ms);
  bar.value = Math.min(bar.max, Math.max(0, window.until - now()));
}

/** What is told of a turn beside its words, a line for each. */
function lines(list, item) {
  const wanted = [...(item.trace ?? [])];
  if (item.type === "draft" && item.turn.window) wanted.push({ key: "window", parts: [item.turn.window.explanation] });
  list.hidden = wanted.length === 0;
  while (list.children.length > wanted.length) list.lastChild.remove();
  wanted.forEach(({ key, parts }, nth) => {
    const line = list.children[nth] ?? list.appendChild(make("li"));
    line.dataset.told = key;
    describe(line, parts.map((part) => (part.id ? link(part) : part)));
  });
}

function textOf(item) {
  // Never blank while something is being worked on: the dots say so.
  if (item.type === "note") return item.turn.reason ?? "";
  return item.text ?? "";
}

/** A caption is a list of texts and of `{turn, text}`, which links to the turn. */
function captionOf(item) {
  const { turn } = item;
  switch (item.type) {
    case "message":
      return messageCaption(item);
    case "reply":
      return [link(turn), ...deliveryOf(item.reply)];
    case "draft":
      if (!item.connected) return [link(turn), " goes on at the server; this page catches up"];
      if (turn.window) return [`listening for more, ${left(turn.window.until)}`];
      if (turn.state === "accumulating") return [`listening… ${(Math.max(0, now() - (turn.startedAt ?? now())) / 1_000).toFixed(1)} s`];
      return [turn.status ?? (turn.draft ? "writing…" : "thinking…")];
    case "attempt":
      return [link(turn), " superseded", turn.reason ? `: ${words(turn.reason)}` : "", ...heirOf(item)];
    case "note":
      return [link(turn), ` ${turn.state}`];
    default:
      return [];
  }
}

function messageCaption({ state, problem, turn, behind, replayed }) {
  const again = replayed ? ["sent again, "] : [];
  switch (state) {
    case "sent":
      return ["sending"];
    case "retrying":
      return [`not accepted yet (${problem}), trying again`];
    case "refused":
      return [`refused: ${problem}`];
    case "queued":
      // Which turn will have it is not known if it was offered to the one that goes on.
      return [...again, "queued ", ...(turn === behind.turn ? [] : ["for ", link(turn), ", "]), "behind ", link(behind.turn), `: ${behind.why}`];
    case "accepted":
      return [...again, "accepted, ", link(turn)];
    default:
      return [...again, "in ", link(turn), ...(behind ? [", queued behind ", link(behind.turn)] : [])];
  }
}

/** Where a superseded turn's messages went. */
function heirOf({ turn, carried }) {
  if (!turn.supersededBy || !carried) return [];
  return [`; ${counted(carried, "message")} carried over`];
}

/** How far a reply got, as far as a channel told: its slowest segment, or that one failed. */
function deliveryOf({ deliveries, segments }) {
  const known = [...deliveries.values()];
  const failed = known.find(({ status }) => status === "failed");
  if (failed) return [`, ✕ not delivered${failed.error ? `: ${failed.error}` : ""}`];
  if (known.length === 0) return [];
  if (known.length < segments) return [`, ✓ ${known.length} of ${segments} sent`];
  for (const [status, tick] of [["sent", "✓"], ["delivered", "✓✓"], ["read", "✓✓"]]) {
    if (known.some((one) => one.status === status)) return [`, ${tick} ${status}`];
  }
  return [];
}

function link(turn) {
  return { turn: turn.id, text: turn.number ? `turn ${turn.number}` : "an earlier turn" };
}

function words(reason) {
  return String(reason).replaceAll("_", " ");
}

function describe(caption, parts) {
  // Rebuilt only when it reads differently, so that a link keeps its focus while the seconds of others tick.
  const reads = parts.map((part) => part.text ?? part).join("") + parts.map((part) => part.turn ?? "").join();
  if (caption.dataset.reads === reads) return;
  caption.dataset.reads = reads;
  caption.replaceChildren(
    ...parts.map((part) => (part.turn ? make("a", { href: `/turns/${encodeURIComponent(part.turn)}`, title: part.turn }, part.text) : part)),
  );
}
