// The chat: messages become turns, turns are answered once, and the live turn shows how. What becomes of a message that
// comes while the agent works is checked in `interrupts.mjs`.

import { expect, expectEqual } from "../expect.mjs";
import { CTRL, DRAFT, MESSAGE, PANEL, QUIET_MS, TOOL_MS, TRACE, WATCHABLE, answered, conversation, figures, milliseconds, openChat, timeline } from "./talk.mjs";

const FIVE = ["where is order 1042?", "and 1044?", "I ordered them in March", "a clock and a lamp", "thank you"];

export const chat = [
  {
    name: "five quick messages become one turn, answered once",
    environment: WATCHABLE,
    async run(t) {
      const page = await openChat(t);
      await watchDrafts(page);
      for (const text of FIVE) await page.say(text);
      const reply = await answered(page, FIVE);
      expect(reply.includes("Order 1042, a brass carriage clock, is shipped.") && reply.includes("Order 1044"), `the reply should say where both orders are: ${reply}`);
      const drafts = await page.look(() => window.drafts);
      const grew = drafts.filter((draft, nth) => draft && draft !== drafts[nth - 1]);
      expect(grew.length >= 5, `the answer should be seen as it grows, but was seen in ${grew.length} forms`);
      const strays = grew.filter((draft) => !reply.startsWith(draft));
      expect(strays.length === 0, `what was streamed should be a beginning of the reply, but this was seen: ${strays[0]}`);
      const items = await conversation(page);
      expectEqual(items.map(({ kind }) => kind), ["message", "message", "message", "message", "message", "reply"], "what the conversation holds");
      expectEqual(items.slice(0, 5).map(({ text }) => text), FIVE, "the messages shown");
      expectEqual([...new Set(items.slice(0, 5).map(({ caption }) => caption))], ["in turn 1"], "where the messages are said to be");
      expectEqual(items[5].caption, "turn 1", "the turn the reply is said to be of");
    },
    breaks: [
      { why: "each message gets a turn of its own", environment: { MAINSPRING_DEV_QUIET_MS: "0" } },
      { why: "the answer is not streamed", patches: [{ file: "conversation.js", from: 'case "reply.delta":', to: 'case "never":' }] },
      { why: "a reply is shown twice", patches: [{ file: "conversation.js", from: "for (const reply of turn.replies) items.push(", to: "for (const reply of turn.replies) items.push({ key: `again-${reply.id}`, type: 'reply', turn, text: reply.text }, " }] },
      { why: "messages are shown in another order", patches: [{ file: "conversation.js", from: "turn.messages.push(message)", to: "turn.messages.unshift(message)" }] },
      { why: "a message is not shown", patches: [{ file: "conversation.js", from: "for (const message of turn.messages) items", to: "for (const message of turn.messages.slice(1)) items" }] },
      { why: "the page's draft holds something the reply does not", patches: [{ file: "conversation.js", from: "` … ${data.text}` : data.text", to: "data.text : data.text.toUpperCase()" }] },
    ],
  },
  {
    name: "the live turn shows messages, window, the agent's steps and timings",
    environment: WATCHABLE,
    async run(t) {
      const page = await openChat(t);
      await watchStates(page);
      await page.say("where is order 1042?");
      await page.sees(`${PANEL} .title`, "Listening for more messages");
      await page.say("it is a clock");
      await page.sees(`${PANEL} [data-state="pending"] .title`, "Agent at work");
      await page.sees(`${PANEL} .draft-status`, "asking the carrier");
      // A step is shown as soon as it is recorded, not only when the turn is over.
      await page.sees(`${PANEL} [data-state="processing"] .title`, "look up orders");
      await page.sees(`${PANEL} [data-state="processing"] .title`, "ask the carrier");
      await page.sees(`${PANEL} .draft-text`, "Order 1042");
      await answered(page, ["where is order 1042?", "it is a clock"]);
      await page.sees(`${PANEL} .badge`, "completed");
      const states = await page.look(() => window.states);
      expectEqual(states, ["accumulating", "processing", "completed"], "the states the panel went through");

      const rows = await timeline(page);
      const texts = rows.filter(({ kind }) => kind === "message").map(({ text }) => text);
      expectEqual(texts, ["where is order 1042?", "it is a clock"], "the messages in the panel");
      const titled = (title) => rows.find((row) => row.title === title) ?? expect(false, `the panel should have a row "${title}", it has ${JSON.stringify(rows.map(({ title }) => title))}`);
      const window_ = titled("Window closed: it went quiet");
      expectEqual(window_.text, `waits ${QUIET_MS} ms: configured ${QUIET_MS}`, "why the window was as long as it was");
      expect(milliseconds(window_.took) >= QUIET_MS, `the window should have lasted ${QUIET_MS} ms at least, it says ${window_.took}`);
      for (const step of ["Agent called", "look up orders", "ask the carrier", "write the answer"]) {
        expect(milliseconds(titled(step).took) !== null && milliseconds(titled(step).at) !== null, `the step "${step}" should say when it was and how long it took: ${JSON.stringify(titled(step))}`);
      }
      expect(milliseconds(titled("ask the carrier").took) >= TOOL_MS, `the carrier takes ${TOOL_MS} ms at least, the panel says ${titled("ask the carrier").took}`);
      expect(titled("Reply sent").text.endsWith("(2 messages)"), "the reply should be in the panel");
      titled("Turn completed");
      const order = ["Window closed: it went quiet", "Agent called", "look up orders", "ask the carrier", "write the answer", "Reply sent", "Turn completed"];
      expectEqual(rows.map(({ title }) => title).filter((title) => order.includes(title)), order, "the order of the panel's rows");

      const { Messages, Window, Processing, Total } = await figures(page);
      expectEqual(Messages, "2", "the number of messages in the panel");
      const [waited, worked, total] = [Window, Processing, Total].map(milliseconds);
      expect(waited >= QUIET_MS && worked >= TOOL_MS, `the panel's figures should be times that can be: ${Window}, ${Processing}`);
      // Each is rounded to three figures, and between the two the turn waits for a write to the log.
      expect(Math.abs(total - waited - worked) < 0.25 * total, `window and processing should make up the total: ${Window} + ${Processing} = ${Total}?`);
      expect((await page.texts(`${PANEL} .draft-text`)).length === 0, "nothing should be left of the draft");
    },
    breaks: [
      { why: "the panel does not follow the turn", patches: [{ file: "live-turn.js", from: "this.#timer = setTimeout(() => this.#fetch(), SETTLE_MS)", to: "this.#timer ??= setTimeout(() => this.#fetch(), SETTLE_MS)" }] },
      { why: "the panel shows steps only when the turn is over", patches: [{ file: "live-turn.js", from: "LOOK_MS = 2_000", to: "LOOK_MS = 500_000" }, { file: "live-turn.js", from: "      this.look();\n    }\n  }", to: "    }\n  }" }, { file: "live-turn.js", from: '?.textContent) this.look();', to: '?.textContent) void 0;' }] },
      { why: "the panel shows no draft", patches: [{ file: "live-turn.js", from: "draft.hidden = ", to: "draft.hidden = true || " }] },
      { why: "the draft stays when the reply is there", patches: [{ file: "live-turn.js", from: "if (!this.unfinished || ", to: "if (false && " }] },
      { why: "steps do not say how long they took", patches: [{ file: "style.css", from: ".timeline .title {", to: ".timeline .took { font-size: 0; display: none } .timeline .title {" }] },
      { why: "the messages are not in the panel", patches: [{ file: "page", from: 'data-kind="message"', to: 'data-kind="massage"' }] },
    ],
  },
  {
    name: "the window counts down, says why it is as long as it is, and how it ended",
    environment: { MAINSPRING_DEV_TOOL_MS: "1500" },
    async run(t) {
      const why = "waits 1100 ms: web 600, a greeting +500";
      const page = await openChat(t);
      await watchWindow(page);
      await page.say("hello");
      await page.sees(`${DRAFT} ${TRACE}`, why);
      await page.sees(`${DRAFT} ${TRACE}`, `window: it went quiet after 1.10 s (${why})`);
      await answered(page, ["hello"]);
      const seen = await page.look(() => window.seen);
      const left = seen.map(({ caption }) => Number(/listening for more, ([\d.]+) s left/.exec(caption)?.[1] ?? NaN)).filter(Number.isFinite);
      expect(left.length >= 3 && left[0] > left.at(-1) && left[0] <= 1.1, `the time left should go down from 1.1 s, it was seen as ${left.join(", ")}`);
      const bars = seen.map(({ bar }) => bar).filter((bar) => bar !== null);
      expect(bars.length >= 3 && bars[0] > bars.at(-1), `the bar should run out, it was seen at ${bars.join(", ")}`);
      const panel = seen.map(({ panel }) => panel).filter(Boolean);
      expect(panel.some((text) => text.includes(why)), `the panel should say why while the window is open, it said ${JSON.stringify(panel)}`);
      await page.sees(`${PANEL} .badge`, "completed");
      expectEqual((await timeline(page)).find(({ kind }) => kind === "window")?.text, why, "what the panel says of the window afterwards");

      // Whoever is done need not wait.
      await page.click('[data-testid="composer"]');
      await page.type("that is all, where is 1042?");
      await page.press("Enter", 13, CTRL);
      await page.sees(`${DRAFT} ${TRACE}`, "you said that nothing follows after 0 ms");
      await answered(page, ["that is all, where is 1042?"]);
      await page.sees(`${PANEL} .title`, "Window closed: the person was done");
    },
    breaks: [
      { why: "every window is as long", environment: { MAINSPRING_DEV_QUIET_MS: "1100" } },
      { why: "nobody hears that a window is open", patches: [{ file: "stream.js", from: '["turn.window", ', to: "[" }] },
      { why: "the time left stands still", patches: [{ file: "lib.js", from: "Math.max(0, until - now())", to: "Math.max(0, until - until + 1_100)" }] },
      { why: "the bar stands still", patches: [{ file: "chat-log.js", from: "Math.max(0, window.until - now())", to: "window.quiet_ms" }] },
      { why: "the panel does not say why while the window is open", patches: [{ file: "page", from: "waits 1100 ms: web 600, a greeting +500", to: "" }] },
      { why: "it is not said how the window ended", patches: [{ file: "conversation.js", from: "${WINDOW_ENDS[data.ended_by] ?? ", to: "${'' ?? " }] },
      { why: "the control key ends nothing", patches: [{ file: "outbox.js", from: "entry.end ?", to: "entry.ended ?" }] },
    ],
  },
  {
    name: "markup in a message is shown as text, everywhere",
    environment: { MAINSPRING_DEV_QUIET_MS: "300", MAINSPRING_DEV_TOOL_MS: "200" },
    async run(t) {
      const markup = `<img src="/nowhere" onerror="window.harmed = 1"><script>window.harmed = 2</script><b>bold</b> &amp; "'{{ 7 * 7 }}`;
      const page = await openChat(t);
      await page.say(markup);
      await answered(page, [markup]);
      const [shown] = await page.texts(MESSAGE);
      expectEqual(shown, markup, "the message in the chat");
      await page.sees(`${PANEL} .badge`, "completed");
      await harmless(page, "the chat");
      const turn = await page.look((panel) => document.querySelector(`${panel} .turn-head a`).getAttribute("href"), PANEL);
      await page.goto(t.server.url + turn);
      expectEqual((await timeline(page, "main")).find(({ kind }) => kind === "message")?.text, markup, "the message on the turn's page");
      await harmless(page, "the turn's page");
      await page.goto(`${t.server.url}${turn.replace("turns", "runs")}`);
      await page.sees("pre", "onerror");
      await harmless(page, "the run's page");
      await page.goto(`${t.server.url}/chat?agent=${encodeURIComponent(`"><img src=/nowhere>`)}&as=${encodeURIComponent(`"><img src=/nowhere>`)}`);
      await page.until("the chat to be shown", () => !document.getElementById("chat").hidden);
      await harmless(page, "the chat opened with markup in its address");
      // A name that no session can have is refused by the server; that is all that may go wrong here.
      page.faults = page.faults.filter((fault) => !/\/v1\/sessions\/%22%3E.*status 4\d\d/.test(fault));
    },
    breaks: [
      { why: "the chat takes messages for markup", patches: [{ file: "lib.js", from: "element.textContent = text", to: "element.innerHTML = text" }] },
      { why: "the page does not escape", patches: [{ file: "page", from: "&lt;", to: "<" }] },
    ],
  },
];

/** Nothing of the markup became part of the page. */
async function harmless(page, where) {
  const found = await page.look(() => ({ harmed: window.harmed ?? null, elements: document.querySelectorAll('main img[src="/nowhere"], main b:not(.banner b), main script:not([src])').length }));
  expectEqual(found, { harmed: null, elements: 0 }, `what the markup did to ${where}`);
}

/** Keeps every form the draft in the chat takes. */
function watchDrafts(page) {
  return page.look((selector) => {
    window.drafts = [];
    const look = () => {
      const text = document.querySelector(`${selector} .bubble`)?.textContent ?? "";
      if (text !== window.drafts.at(-1)) window.drafts.push(text);
    };
    new MutationObserver(look).observe(document.getElementById("items"), { childList: true, subtree: true, characterData: true });
  }, DRAFT);
}

/** Keeps what is seen of a window while it is open: in the chat and in the panel. */
function watchWindow(page) {
  return page.look(
    (draft, panel) => {
      window.seen = [];
      setInterval(() => {
        const bar = document.querySelector(`${draft} [data-testid="wait"]`);
        const shown = (element) => element?.checkVisibility();
        window.seen.push({
          caption: document.querySelector(`${draft} .caption`)?.textContent ?? "",
          bar: shown(bar) ? bar.value : null,
          panel: document.querySelector(`${panel} [data-kind="window"][data-state="pending"] .text`)?.textContent ?? null,
        });
      }, 40);
    },
    DRAFT,
    PANEL,
  );
}

/** Keeps every state the panel shows. */
function watchStates(page) {
  return page.look((panel) => {
    window.states = [];
    const look = () => {
      const state = document.querySelector(`${panel} [data-testid="turn-state"]`)?.innerText;
      if (state && state !== window.states.at(-1)) window.states.push(state);
    };
    new MutationObserver(look).observe(document.querySelector(panel), { childList: true, subtree: true, characterData: true, attributes: true });
  }, PANEL);
}
