// `kill -9` of the server in the middle of a turn, with the page open.

import { expect, expectEqual } from "../expect.mjs";
import { DRAFT, PANEL, WATCHABLE, answered, conversation, openChat, timeline } from "./talk.mjs";

const LOST = '[data-testid="connection-lost"]';

export const crash = [
  {
    name: "kill -9 in the middle of a turn: the page comes back by itself, the turn is finished, nothing is doubled",
    // Queueing, so that what is written during the outage is a turn of its own, whoever is faster.
    environment: { ...WATCHABLE, MAINSPRING_DEV_ON_MESSAGE: "queue" },
    async run(t) {
      const page = await openChat(t);
      await page.look(() => (window.neverReloaded = true));
      await page.say("where is order 1042?");
      await page.say("and 1044?");
      await page.sees(`${DRAFT} .caption`, "asking the carrier");
      await page.sees(`${PANEL} [data-kind="step"] .title`, "look up orders");

      page.serverIsGone();
      await t.server.kill();
      await page.sees(LOST, "Nothing accepted is lost");
      await page.sees('[data-testid="connection"]', "reconnecting");
      await page.say("are you still there?");
      await page.sees('[data-testid="message"] .caption', "not accepted yet");
      if (t.broken === "stays down") await new Promise((resolve) => setTimeout(resolve, 1_000));
      else await t.server.start();

      await page.sees('[data-testid="connection"]', "live");
      await page.until("the warning to go", (lost) => document.querySelector(lost).hidden, LOST);
      page.serverIsBack();
      expect(page.outages > 0, "the page should have noticed the outage by a failed request");
      await answered(page, ["where is order 1042?", "and 1044?"]);
      await answered(page, ["are you still there?"]);
      const items = await conversation(page);
      const wanted = [["message", "in turn 1"], ["message", "in turn 1"], ["reply", "turn 1"], ["message", "in turn 2"], ["reply", "turn 2"]];
      // Whether the last one had to queue depends on who was faster.
      expectEqual(items.map(({ kind, caption }) => [kind, caption.replace(", queued behind turn 1", "")]), wanted, "the conversation after the restart");
      expect(await page.look(() => window.neverReloaded === true), "the page should have come back without being loaded again");

      // The panel shows the last turn by now; the interrupted one has a page.
      const calls = await t.server.toolCalls();
      expectEqual(calls.length, 3, "the number of times the carrier was asked, in three turns");
      expectEqual(new Set(calls.map(({ turn }) => turn)).size, 3, "the number of turns it was asked for");

      // And the same again for somebody who comes only now.
      const before = await page.texts("#items .bubble");
      await page.reload();
      await page.until("the conversation to be shown again", (count) => document.querySelectorAll("#items .bubble").length >= count, before.length);
      expectEqual(await page.texts("#items .bubble"), before, "the conversation after loading the page again");
      await page.click('[data-testid="reply"] .caption a');
      await page.sees('[data-testid="turn-state"]', "completed");
      const steps = (await timeline(page, "main")).map(({ title }) => title).filter((title) => ["look up orders", "ask the carrier", "write the answer", "Reply sent"].includes(title));
      expectEqual(steps, ["look up orders", "ask the carrier", "write the answer", "Reply sent"], "the steps of the turn that was interrupted");
    },
    breaks: [
      { why: "the server stays down", flag: "stays down" },
      { why: "the page does not open its stream again", patches: [{ file: "stream.js", from: "this.#timer = setTimeout(() => this.#open()", to: "this.#timer = setTimeout(() => this.#path" }] },
      { why: "the page does not say that the connection is lost", patches: [{ file: "chat.js", from: 'lost.hidden = state === "open"', to: 'lost.hidden = true || state === "open"' }] },
      { why: "messages get another key each time they are sent", patches: [{ file: "outbox.js", from: '"idempotency-key": entry.key', to: '"idempotency-key": newKey()' }, { file: "outbox.js", from: "if (response.ok) return body?.message_id ?", to: "if (response.ok) return body?.message_id && (post.sent = (post.sent ?? 0) + 1) !== 3 ?" }] },
      { why: "the page forgets what could not be sent", patches: [{ file: "outbox.js", from: "if (outcome.again) {", to: "if (outcome.again) { this.#entries = [];" }] },
      { why: "the conversation is not there after loading again", patches: [{ file: "chat.js", from: "after: 0,", to: "after: null," }] },
    ],
  },
];
