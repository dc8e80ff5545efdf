// The chat as a person reads it: shared by the checks.

import { Expected, expectEqual } from "../expect.mjs";

export const MESSAGE = '[data-testid="message"] .bubble';
export const REPLY = '[data-testid="reply"] .bubble';
export const DRAFT = '[data-testid="draft"]';
export const PANEL = '[data-testid="live-turn"]';

export const TRACE = '[data-testid="trace"]';
/** The control key, as the browser counts modifiers. */
export const CTRL = 2;

/** A long window, so that a slow machine's typing still falls into one turn; and an agent whose work can be watched. */
export const WATCHABLE = { MAINSPRING_DEV_QUIET_MS: "2000", MAINSPRING_DEV_TOOL_MS: "2500" };
export const QUIET_MS = 2_000;
export const TOOL_MS = 2_500;

/** Opens the printed address in a new page. */
export async function openChat({ server, open }, options) {
  const page = await open(options);
  await page.goto(server.address);
  await page.sees('[data-testid="connection"]', "live");
  return page;
}

/** Waits for the reply that quotes these messages and counts them; nothing else may be in it. */
export async function answered(page, messages) {
  const closing = `(${messages.length} messages)`;
  const reply = await page.until(
    `one reply to ${JSON.stringify(messages)}`,
    (selector, first, closing) =>
      [...document.querySelectorAll(selector)].map((element) => element.innerText).find((text) => text.startsWith(first) && text.trimEnd().endsWith(closing)),
    REPLY,
    `> ${messages[0]}`,
    closing,
  );
  const quoted = reply.split("\n").filter((line) => line.startsWith("> ")).map((line) => line.slice(2));
  expectEqual(quoted, messages, "the messages the agent was asked");
  return reply;
}

/**
 * Everything said and answered, in order, and nothing more to come: a last message is sent and answered first, because
 * whatever was underway before it shows before it.
 */
export async function conversation(page, last = "anything else?") {
  await page.until("no turn to be underway", (draft) => !document.querySelector(draft), DRAFT);
  await page.say(last);
  await answered(page, [last]);
  const items = await page.look(() =>
    [...document.querySelectorAll("#items > li")].map((item) => {
      const read = (selector) => (item.querySelector(selector).checkVisibility() ? item.querySelector(selector).innerText : "");
      return [item.dataset.testid, read(".bubble"), read(".caption")];
    }),
  );
  const [reply, question] = [items.pop(), items.pop()];
  if (reply?.[0] !== "reply" || question?.[1] !== last) throw new Expected(`the conversation should end with the last question and its answer, not ${JSON.stringify([question, reply])}`);
  return items.map(([kind, text, caption]) => ({ kind, text, caption }));
}

/** What the live turn's panel says in its four figures. */
export function figures(page, root = PANEL) {
  return page.look(
    (root) => Object.fromEntries([...document.querySelectorAll(`${root} .stats > div`)].map((one) => [one.querySelector("dt").innerText, one.querySelector("dd").innerText])),
    root,
  );
}

/** The rows of a turn's timeline, as they are read. */
export function timeline(page, root = PANEL) {
  return page.look(
    (root) =>
      [...document.querySelectorAll(`${root} [data-testid="step"]`)].map((row) => {
        // An element that is not shown has an innerText all the same.
        const read = (selector) => [...row.querySelectorAll(selector)].find((element) => element.checkVisibility())?.innerText ?? null;
        return { kind: row.dataset.kind, title: read(".title"), text: read(".text"), at: read(".at") ?? "", took: read(".took") ?? "" };
      }),
    root,
  );
}

/** "840 ms" and "2.41 s" as milliseconds; null for anything else. */
export function milliseconds(text) {
  const [, number, unit] = /^\+?([\d.]+) (ms|s)$/.exec(text.trim()) ?? [];
  return number ? Number(number) * (unit === "s" ? 1_000 : 1) : null;
}
