// What becomes of a message that comes while the agent works: it supersedes, is absorbed, or is queued; and the page says
// which, and why.

import { expect, expectEqual } from "../expect.mjs";
import { DRAFT, PANEL, TRACE, WATCHABLE, answered, conversation, openChat, timeline } from "./talk.mjs";

const QUEUED = '[data-testid="message"][data-state="queued"] .caption';

export const interrupts = [
  {
    name: "a message typed while the agent works supersedes its work; all of it is answered once",
    environment: WATCHABLE,
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await page.sees(`${DRAFT} .caption`, "asking the carrier");
      await page.say("sorry, I meant 1044");
      await page.sees(`${PANEL} .title`, "Takes over from turn");
      const reply = await answered(page, ["where is order 1042?", "sorry, I meant 1044"]);
      const rows = await timeline(page);
      expectEqual(rows.filter(({ kind }) => kind === "message").map(({ text }) => text), ["where is order 1042?", "sorry, I meant 1044"], "the messages of the turn that took over");
      const items = await conversation(page);
      expectEqual(items.map(({ kind }) => kind), ["message", "message", "attempt", "reply"], "what the conversation holds");
      const stopped = "turn 1 superseded: another message came while the agent worked (policy: supersede); 2 messages carried over";
      expectEqual(items[2].caption, stopped, "what is said of the stopped work");
      expectEqual([items[0].caption, items[1].caption, items[3].caption], ["in turn 2", "in turn 2", "turn 2"], "where everything is said to be");
      expectEqual(items[3].text, reply.trimEnd(), "the answer");
      // The stopped work's own page says where it went.
      await page.click('[data-testid="attempt"] .caption a');
      await page.sees('[data-testid="turn-state"]', "superseded");
      await page.sees(".banner", "answers instead");
    },
    breaks: [
      { why: "the policy is to queue", environment: { MAINSPRING_DEV_ON_MESSAGE: "queue" } },
      { why: "it is not said what was carried over", patches: [{ file: "conversation.js", from: "let count = turn.messages.length", to: "let count = 0 * turn.messages.length" }] },
      { why: "a superseded turn is not shown as such", patches: [{ file: "conversation.js", from: 'case "turn.superseded":', to: 'case "never":' }] },
      { why: "messages are said to be in the turn that was stopped", patches: [{ file: "conversation.js", from: "const turn = this.#heir(message.turn)", to: "const turn = message.turn" }] },
      { why: "the turn's page does not say what answers instead", patches: [{ file: "page", from: "answers instead", to: "" }] },
    ],
  },
  {
    name: "with the policy to queue, a message typed while the agent works is the next turn's",
    environment: { ...WATCHABLE, MAINSPRING_DEV_ON_MESSAGE: "queue" },
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await page.sees(`${DRAFT} .caption`, "asking the carrier");
      const working = await page.look((panel) => document.querySelector(`${panel} article`).dataset.turnId, PANEL);
      await page.say("and 1044?");
      await page.sees(QUEUED, "queued for turn 2, behind turn 1: it takes no more messages");
      // The panel stays with the turn that is at work; the next one has not begun.
      await page.sees(`${PANEL} .draft-text`, "Order 1042");
      expectEqual(await page.look((panel) => document.querySelector(`${panel} article`).dataset.turnId, PANEL), working, "the turn in the panel");
      await answered(page, ["where is order 1042?"]);
      await answered(page, ["and 1044?"]);
      const items = await conversation(page);
      const got = items.map(({ kind, caption }) => [kind, caption]);
      expectEqual(got, [["message", "in turn 1"], ["reply", "turn 1"], ["message", "in turn 2, queued behind turn 1"], ["reply", "turn 2"]], "the conversation");
    },
    breaks: [
      { why: "the policy is to supersede", environment: { MAINSPRING_DEV_ON_MESSAGE: "supersede" } },
      { why: "the panel turns to a turn that has not begun", patches: [{ file: "conversation.js", from: "begun.find((turn) => UNDER_WAY.includes(turn.state)) ??", to: "[...this.#turns.values()].at(-1) ??" }] },
      { why: "turns are numbered wrongly", patches: [{ file: "conversation.js", from: "number: this.#count", to: "number: 1" }] },
    ],
  },
  {
    name: "what a superseded attempt found out is used again, and the page says so",
    // Half of it passes between the carrier's answer and the first word: that is when the second message comes.
    environment: { MAINSPRING_DEV_QUIET_MS: "600", MAINSPRING_DEV_TOOL_MS: "4000" },
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await page.sees(`${DRAFT} .caption`, "writing the answer");
      await page.sees(`${DRAFT} ${TRACE}`, "carrier: result kept");
      const second = t.broken === "another order" ? "and order 1044?" : "please hurry";
      await page.say(second);
      await page.sees('[data-testid="attempt"] .caption', "2 messages carried over");
      await page.sees(`${DRAFT} ${TRACE}`, "carrier: used again from turn 1");
      await answered(page, ["where is order 1042?", second]);
      await page.sees(`[data-testid="reply"] ${TRACE}`, "carrier: used again from turn 1");
      expectEqual((await t.server.toolCalls()).length, 1, "the number of times the carrier was asked");

      await page.sees(`${PANEL} .badge`, "completed");
      await page.sees(`${PANEL} [data-testid="artifacts"] li`, "used again once");
      await page.sees(`${PANEL} [data-testid="chain"]`, "1 turn superseded before it");
      await page.click(`${PANEL} [data-testid="artifacts"] a`);
      await page.sees('[data-testid="turn-state"]', "superseded");
      const decided = (await timeline(page, "main")).find(({ kind }) => kind === "decision");
      expectEqual([decided?.title, decided?.text], ["A message came: begun anew in another turn", "policy: supersede"], "what the superseded turn's page says was decided");
    },
    breaks: [
      { why: "the carrier has to be asked again", flag: "another order" },
      { why: "the page does not say that a result was used again", patches: [{ file: "conversation.js", from: 'case "artifact.reused":', to: 'case "never":' }] },
      { why: "the answer does not say it any more", patches: [{ file: "conversation.js", from: "this.#from(data.from_turn, turn)], true)", to: "this.#from(data.from_turn, turn)], false)" }] },
      { why: "the turn's page does not have the phases", patches: [{ file: "page", from: 'data-testid="artifacts"', to: "hidden" }] },
      { why: "the turn's page does not have the chain", patches: [{ file: "page", from: 'data-testid="chain"', to: "hidden" }] },
      { why: "the turn's page does not say what was decided", patches: [{ file: "page", from: "policy: supersede", to: "" }] },
    ],
  },
  {
    name: "a message after the first word of the answer is queued, and says why",
    environment: { MAINSPRING_DEV_QUIET_MS: "600", MAINSPRING_DEV_TOOL_MS: "1000", MAINSPRING_DEV_WORD_MS: "150" },
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await page.sees(`${DRAFT} .bubble`, "> where is");
      await page.say("and 1044?");
      await page.sees(QUEUED, "queued for turn 2, behind turn 1: past the commit point, its answer has begun");
      await answered(page, ["where is order 1042?"]);
      await answered(page, ["and 1044?"]);
      const items = await conversation(page);
      const got = items.map(({ kind, caption }) => [kind, caption]);
      expectEqual(got, [["message", "in turn 1"], ["reply", "turn 1"], ["message", "in turn 2, queued behind turn 1"], ["reply", "turn 2"]], "the conversation");
      await page.click('[data-testid="reply"]:nth-child(4) .caption a');
      await page.sees('[data-kind="message"] .title', "Message accepted, and queued for this turn");
    },
    breaks: [
      { why: "the page does not say why", patches: [{ file: "conversation.js", from: 'turn.committed ??= "past the commit point, its answer has begun"', to: "turn.seen = true" }] },
      { why: "a queued message looks like any other", patches: [{ file: "conversation.js", from: 'state = "queued"', to: 'state = "accepted"' }] },
      { why: "nobody can tell afterwards", patches: [{ file: "chat-log.js", from: '(behind ? [", queued behind "', to: '(false ? [", queued behind "' }] },
      { why: "the turn's page does not tell it from one brought along", patches: [{ file: "page", from: "accepted, and queued for this turn", to: "brought along" }] },
      { why: "the answer is there before anything can be written", environment: { MAINSPRING_DEV_WORD_MS: "0" } },
    ],
  },
  {
    name: "with the policy to absorb, the same turn begins anew with both messages",
    environment: { ...WATCHABLE, MAINSPRING_DEV_ON_MESSAGE: "absorb" },
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await page.sees(`${DRAFT} .caption`, "asking the carrier");
      await page.say("I meant 1044");
      await page.sees(`${DRAFT} ${TRACE}`, "1 message absorbed, begun anew (policy: absorb)");
      await answered(page, ["where is order 1042?", "I meant 1044"]);
      await page.sees(`${PANEL} .badge`, "completed");
      const decided = (await timeline(page)).find(({ kind }) => kind === "decision");
      expectEqual([decided?.title, decided?.text], ["A message came: absorbed, begun anew in this turn", "policy: absorb"], "what the panel says was decided");
      const items = await conversation(page);
      expectEqual(items.map(({ kind, caption }) => [kind, caption]), [["message", "in turn 1"], ["message", "in turn 1"], ["reply", "turn 1"]], "the conversation");
    },
    breaks: [
      { why: "the policy is to supersede", environment: { MAINSPRING_DEV_ON_MESSAGE: "supersede" } },
      { why: "the page does not say that it was absorbed", patches: [{ file: "conversation.js", from: 'case "turn.message_absorbed":', to: 'case "never":' }] },
      { why: "the panel does not say what was decided", patches: [{ file: "page", from: 'data-kind="decision"', to: 'data-kind="step"' }] },
    ],
  },
];
