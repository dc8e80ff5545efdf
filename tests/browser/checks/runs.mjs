// The list of runs, a run's page, and why something waits.

import { expect, expectEqual } from "../expect.mjs";
import { PANEL, answered, openChat } from "./talk.mjs";

const ROW = '[data-testid="run-row"]';

export const runs = [
  {
    name: "the list of runs leads to a run's page with its tasks and journal",
    environment: { MAINSPRING_DEV_QUIET_MS: "300", MAINSPRING_DEV_TOOL_MS: "200" },
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1043?");
      await answered(page, ["where is order 1043?"]);
      await page.click('nav a[href="/runs"]');
      await page.sees("h1", "Runs");
      await page.until("both runs to be completed", (row) => [...document.querySelectorAll(`${row} .badge`)].map((badge) => badge.innerText).join() === "completed,completed", ROW);
      const names = await page.texts(`${ROW} .strong`);
      expectEqual(names.sort(), ["orders-agent", "turn"], "the workflows listed");

      await page.look(() => (document.querySelector('select[name="state"]').value = "failed"));
      await page.click('.filters button[type="submit"]');
      await page.sees(".empty", "No run matches");
      await page.click(".filters > a");
      await page.sees(ROW, "orders-agent");

      const id = await page.look((row) => {
        const found = [...document.querySelectorAll(row)].find((one) => one.innerText.includes("orders-agent"));
        found.querySelector("a").id = "wanted";
        return found.dataset.key;
      }, ROW);
      await page.click("#wanted");
      await page.sees("h1", "orders-agent");
      expect((await page.address()).endsWith(`/runs/${id}`), "the row should lead to its run");
      await page.sees('[data-testid="run-state"]', "completed");
      await page.sees('[data-testid="task"] header', "attempt 1 of");
      const journal = await page.texts('[data-testid="journal-row"] .name');
      expectEqual(journal.filter(Boolean), ["look up orders", "ask the carrier", "write the answer"], "the names in the journal");
      await page.sees('[data-key="output"] pre', "two mainsprings, 12 mm, is packed");
    },
    breaks: [
      { why: "a filter is not applied", patches: [{ file: "page", from: '<option value="failed"', to: '<option value="completed"' }] },
      { why: "rows do not lead anywhere", patches: [{ file: "page", from: 'href="/runs/', to: 'href="/turns/' }] },
      { why: "the journal is not shown", patches: [{ file: "page", from: 'data-testid="journal-row"', to: "hidden" }] },
      { why: "the output is not shown", patches: [{ file: "page", from: 'data-key="output"', to: "hidden" }] },
      { why: "the list shows each run under one name", patches: [{ file: "page", from: 'class="strong">orders-agent', to: 'class="strong">turn' }] },
    ],
  },
  {
    name: "whatever waits says why; cancelling ends the waiting",
    environment: { MAINSPRING_DEV_QUIET_MS: "600000", MAINSPRING_DEV_TOOL_MS: "600000" },
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      const why = "waits for a message";
      await page.sees(`${PANEL} [data-testid="waiting-for"]`, why);
      const turn = await page.look((panel) => document.querySelector(panel).querySelector("article").dataset.turnId, PANEL);
      await page.goto(`${t.server.url}/turns/${turn}`);
      await page.sees('[data-testid="waiting-for"]', why);

      await page.goto(`${t.server.url}/runs?state=running`);
      await page.click(`${ROW} a`);
      await page.sees("h1", "turn");
      await page.sees('[data-testid="run-state"]', "running");
      await page.sees('[data-testid="waiting-for"]', why);
      await page.until("what it waits for to be in the journal too", () => {
        const rows = [...document.querySelectorAll('[data-testid="journal-row"]')].map((row) => row.innerText);
        return rows.some((row) => row.includes("receive") && row.includes("pending"));
      });

      // Without a reload.
      await page.click('[data-testid="cancel"]');
      await page.click('input[name="reason"]');
      await page.type("nobody asks any more");
      await page.click('[data-testid="cancel-confirm"]');
      await page.sees('[data-testid="run-state"]', "cancelled");
      await page.until("the reason for waiting to go", () => !document.querySelector('[data-testid="waiting-for"]'));
      await page.sees(".banner", "nobody asks any more");
    },
    breaks: [
      { why: "the pages do not say why", patches: [{ file: "page", from: 'data-testid="waiting-for"', to: "hidden" }] },
      { why: "nothing has to wait", environment: { MAINSPRING_DEV_QUIET_MS: "0" } },
      { why: "cancelling does nothing", patches: [{ file: "forms.js", from: 'method: "POST"', to: 'method: "PUT"' }] },
      { why: "the page does not refresh", patches: [{ file: "refresh.js", from: "morph(shown, fresh);", to: "" }] },
    ],
  },
];
