// Configuration as a person publishes it: a draft, what is wrong with it, versions, a canary, the way back; over a crash.

import { join } from "node:path";

import { expect, expectEqual } from "../expect.mjs";
import { SCREENS, fits, readable } from "./looks.mjs";
import { openChat } from "./talk.mjs";

const VERSION = '[data-testid="current-version"]';
const STATUS = '[data-testid="publish-status"]';
const stage = (name, state) => `[data-testid="stage"][data-stage="${name}"][data-state="${state}"]`;
const row = (version) => `[data-testid="version-row"][data-version="${version}"]`;

/** Puts a draft whose greeting is this text, from a page that is signed in. */
function putDraft(page, text, more = {}) {
  const draft = { templates: [{ id: "hello", text }], rules: [{ id: "polite", template: "hello" }], ...more };
  return page.look(async (draft) => {
    const put = await fetch("/v1/agents/orders/config/draft", { method: "PUT", body: JSON.stringify(draft) });
    if (!put.ok) throw new Error(await put.text());
  }, draft);
}

/** Presses a button that asks once more, and says yes. */
async function press(page, name, within = "") {
  await page.click(`${within} [data-testid="${name}"]`);
  await page.click(`${within} [data-testid="${name}-confirm"]`);
}

/** Says something in a session of its own; gives the version its turn goes by. */
function versionOf(page, person) {
  return page.look(async (person) => {
    const json = async (...asked) => (await fetch(...asked)).json();
    const sent = await json(`/v1/sessions/orders/${person}/web/messages`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ text: "hello" }) });
    for (;;) {
      const turn = await json(`/v1/turns/${sent.turn_id}`);
      if (turn.config) return turn.config.version;
      if (["failed", "cancelled"].includes(turn.state)) throw new Error(JSON.stringify(turn));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }, person);
}

export const publish = [
  {
    name: "a draft is published, tried on some, and taken back",
    environment: { MAINSPRING_DEV_QUIET_MS: "100", MAINSPRING_DEV_TOOL_MS: "50" },
    async run(t) {
      const page = await openChat(t);
      await putDraft(page, "Hello");
      await page.click('nav a[href="/agents"]');
      await page.sees("h1", "Agents");
      await page.click('a[href="/agents/orders/config"]');
      await page.sees(VERSION, "nothing is published");
      await press(page, "publish");
      await page.sees(VERSION, "version 1");
      await page.click('[data-testid="publish-row"] a');
      await page.sees(STATUS, "completed");
      const stages = await page.look(() => [...document.querySelectorAll('[data-testid="stage"]')].map((one) => `${one.dataset.stage} ${one.dataset.state}`));
      expectEqual(stages, ["accept", "validate", "compile", "apply", "write_bundles", "swap_pointer", "invalidate_cache", "notify"].map((name) => `${name} done`), "the stages");
      expectEqual(await versionOf(page, "ann"), 1, "who came first goes by version 1");

      // What is wrong is told by line, and nothing is published.
      await putDraft(page, "Hello", { rules: [{ id: "polite", template: "goodbye" }] });
      await page.goto(`${t.server.url}/agents/orders/config`);
      await page.sees('[data-testid="unpublished"]', "rules");
      await press(page, "publish");
      await page.sees('[data-testid="publish-row"] .badge[data-state="failed"]');
      await page.click('[data-testid="publish-row"] a');
      await page.sees('[data-testid="publish-error"]', "nothing was published");
      await page.sees('[data-testid="finding"]', "/0/template");
      await page.sees(stage("swap_pointer", "pending"), "not reached");

      // A second version, over a crash of the server: it goes on where it was.
      await putDraft(page, "Good morning");
      await page.goto(`${t.server.url}/agents/orders/config`);
      await press(page, "publish");
      await page.until("the third publish to be listed", () => document.querySelectorAll('[data-testid="publish-row"]').length === 3);
      page.serverIsGone();
      await t.server.kill();
      await t.server.start();
      await page.goto(t.server.address);
      page.serverIsBack();
      await page.goto(`${t.server.url}/agents/orders/config`);
      const second = Number((await page.sees(VERSION, "version 3")).match(/\d+/)[0]);
      expectEqual(await versionOf(page, "ann"), 1, "who was there before stays with version 1");
      await page.until("the session to be counted", (row) => document.querySelector(`${row} [data-testid="pinned"]`)?.innerText.trim() === "1", row(1));

      // Back, then a canary for all new sessions, which is promoted.
      await press(page, "rollback", row(1));
      await page.sees(VERSION, "version 1");
      await page.sees(`${row(second)} .badge`, "withdrawn");
      await putDraft(page, "Good evening");
      await page.goto(`${t.server.url}/agents/orders/config`);
      await page.click(`${row(second)} [data-testid="canary"]`);
      await page.look((field) => (document.querySelector(field).value = "100"), `${row(second)} input[name="percent"]`);
      await page.click(`${row(second)} [data-testid="canary-confirm"]`);
      await page.sees('[data-testid="canary-version"]', "100 %");
      expectEqual(await versionOf(page, "bob"), second, "who comes now gets the canary");
      await press(page, "promote");
      await page.sees(VERSION, `version ${second}`);
      await page.click('nav a[href="/agents"]');
      await page.sees("tbody tr", String(second));
    },
    breaks: [
      { why: "the page does not refresh", patches: [{ file: "refresh.js", from: "morph(shown, fresh);", to: "" }] },
      { why: "what is wrong is not told", patches: [{ file: "page", from: 'data-testid="finding"', to: "hidden" }] },
    ],
  },
  ...SCREENS.filter((screen) => ["light", "phone-dark"].includes(screen.name)).map((screen) => ({
    name: `pages of configuration, streams and webhooks fit and are readable: ${screen.name}`,
    async run(t) {
      const page = await openChat(t, screen);
      await putDraft(page, "Hello");
      const hook = await page.look(async () => {
        const ask = async (method, path, body) => {
          const answer = await fetch(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
          if (!answer.ok) throw new Error(await answer.text());
          return answer.json();
        };
        await ask("POST", "/v1/agents/orders/publish", {});
        await ask("PUT", "/v1/streams/events.inbound", { partitions: 2 });
        await ask("POST", "/v1/streams/events.inbound/entries", { entries: [1, 2, 3].map((n) => ({ key: `s${n}`, body: { n } })) });
        await ask("POST", "/v1/streams/events.inbound/groups/billing/take", { consumer: "b1", max: 1 });
        return (await ask("POST", "/v1/webhooks", { name: "crm", url: "http://127.0.0.1:9/hook", events: ["turn.*"] })).id;
      });
      for (const [name, path, selector] of [
        ["agents", "/agents", "tbody tr"],
        ["config", "/agents/orders/config", row(1)],
        ["streams", "/streams", '[data-testid="stream-row"]'],
        ["stream", "/streams/events.inbound", '[data-testid="part-row"]'],
        ["webhooks", "/webhooks", "tbody tr"],
        ["webhook", `/webhooks/${hook}`, '[data-testid="verify"]'],
      ]) {
        await page.goto(t.server.url + path);
        await page.sees(selector);
        await fits(page, name);
        await readable(page, name, screen.dark);
        if (t.pictures) await page.picture(join(t.pictures, `${name}-${screen.name}.png`));
      }
    },
    breaks: [{ why: "a page is wider than the screen", patches: [{ file: "style.css", from: ".foot { display: flex", to: ".foot { width: 1300px; display: flex" }] }],
  })),
];
