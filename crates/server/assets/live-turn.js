// One turn as it happens: on its own page, and beside the chat.
//
// The server renders a turn in one place. This fetches that page again whenever a durable event says that something
// changed, and takes over what differs; only text that streams in is written here. Hints can be missed, so an
// unfinished turn is also looked at now and then.

import { fetchPage, tick, write } from "./lib.js";
import { morph } from "./morph.js";

// A turn's events come in bursts: one look per burst.
const SETTLE_MS = 60;
const LOOK_MS = 2_000;

export class LiveTurn {
  #root;
  #turnId = null;
  #timer;
  #looking = false;
  #again = false;
  #missed = false;

  /** `root` holds, or will hold, the rendered turn. */
  constructor(root) {
    this.#root = root;
    this.#turnId = this.#article?.dataset.turnId ?? null;
    setInterval(() => {
      if ((this.unfinished || this.#missed) && !document.hidden) this.look();
    }, LOOK_MS);
  }

  get #article() {
    return this.#root.querySelector("article.turn");
  }

  get session() {
    return this.#article?.dataset.session;
  }

  get unfinished() {
    return this.#article?.hasAttribute("data-unfinished") ?? false;
  }

  /** Shows another turn. */
  show(turnId) {
    if (turnId === this.#turnId) return;
    this.#turnId = turnId;
    this.look();
  }

  /** Shows none, but `placeholder`. */
  clear(placeholder) {
    this.#turnId = null;
    this.#root.replaceChildren(placeholder);
  }

  /** Takes an event of the session in. */
  apply(event) {
    // The session's state is shown with the turn, whoever changed it.
    if (event.turn_id !== this.#turnId && event.name !== "session.state_changed") return;
    if (event.durable || event.name === "turn.window") {
      this.look();
    } else if (event.name === "reply.delta") {
      // The first words mean that a step ended and another began. The words after it mean nothing of the kind.
      if (!this.#article?.querySelector(".draft-text")?.textContent) this.look();
      this.#draft((text) => [text + event.data.text, ""]);
    } else if (event.name === "agent.status") {
      this.#draft((text) => [text, event.data.text]);
      // An agent says what it does when it does something else: its steps are recorded, but nobody is told of each.
      this.look();
    }
  }

  /** Looks at the turn again, soon. */
  look() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fetch(), SETTLE_MS);
  }

  async #fetch() {
    if (this.#turnId === null) return;
    // On a narrow screen there is no room for it beside the chat. The next look after it was made wider finds it.
    this.#missed = this.#root.getClientRects().length === 0;
    if (this.#missed) return;
    if (this.#looking) {
      this.#again = true;
      return;
    }
    this.#looking = true;
    const wanted = this.#turnId;
    try {
      const fresh = (await fetchPage(`/turns/${encodeURIComponent(wanted)}`)).querySelector("article.turn");
      if (fresh && wanted === this.#turnId) this.#take(fresh);
    } catch (fault) {
      // The stream says when the connection is back, and then there is another look.
      console.info(`the turn could not be looked at: ${fault.message}`);
    } finally {
      this.#looking = false;
      if (this.#again || wanted !== this.#turnId) {
        this.#again = false;
        this.look();
      }
    }
  }

  #take(fresh) {
    const shown = this.#article;
    if (shown?.dataset.turnId === fresh.dataset.turnId) morph(shown, fresh);
    else this.#root.replaceChildren(document.importNode(fresh, true));
    tick(this.#root);
    // What was streamed is in the timeline now, or came to nothing.
    if (!this.unfinished || this.#root.querySelector('[data-kind="reply"]')) this.#draft(() => ["", ""]);
  }

  #draft(change) {
    const draft = this.#article?.querySelector(".draft");
    if (!draft) return;
    const [status, text] = [draft.querySelector(".draft-status"), draft.querySelector(".draft-text")];
    const [newText, newStatus] = change(text.textContent, status.textContent);
    write(text, newText);
    write(status, newStatus || (newText ? "writing…" : ""));
    draft.hidden = !newText && !newStatus;
  }
}
