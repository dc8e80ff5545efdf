// What a session shows beside its conversation: how far replies got, its state, and turns whose messages are sent again.

import { createServer } from "node:http";
import { once } from "node:events";

import { expect, expectEqual } from "../expect.mjs";
import { DRAFT, PANEL, answered, openChat } from "./talk.mjs";

const QUICK = { MAINSPRING_DEV_QUIET_MS: "300", MAINSPRING_DEV_TOOL_MS: "200" };
const CAPTION = '[data-testid="reply"] .caption';

export const sessions = [
  {
    name: "a reply shows how far its channel says it got",
    environment: QUICK,
    outside: channel,
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await answered(page, ["where is order 1042?"]);
      await page.sees(CAPTION, "turn 1, ✓ sent");
      const [reply_id] = t.outside.delivered;
      for (const [status, shown] of [["delivered", "✓✓ delivered"], ["read", "✓✓ read"]]) {
        await api(page, "POST", "/receipts", { reply_id, status });
        await page.sees(CAPTION, `turn 1, ${shown}`);
      }
      // One that comes late changes nothing.
      await api(page, "POST", "/receipts", { reply_id, status: "delivered" });
      t.outside.refuses = true;
      await page.say("and 1044?");
      await answered(page, ["and 1044?"]);
      await page.sees(CAPTION, "turn 2, ✕ not delivered");
      await page.sees(CAPTION, "turn 1, ✓✓ read");
      expectEqual((await page.texts('[data-testid="reply"]')).length, 2, "the number of replies shown");
    },
    breaks: [
      { why: "receipts are not listened to", patches: [{ file: "stream.js", from: '  "reply.delivered",\n  "reply.read",\n  "reply.failed",\n', to: "" }] },
      { why: "it is not known whose a receipt is", patches: [{ file: "stream.js", from: "event.turn_id ?? data.turn_id ?? null", to: "event.turn_id" }] },
      { why: "it is not heard that the channel took it", patches: [{ file: "conversation.js", from: 'case "reply.taken":', to: 'case "reply.nothing":' }] },
      { why: "nobody delivers", environment: { MAINSPRING_DEV_DELIVER_URL: "http://127.0.0.1:9/" } },
    ],
  },
  {
    name: "a session's state is shown beside its turn, and kept current",
    environment: QUICK,
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await answered(page, ["where is order 1042?"]);
      await page.sees(`${PANEL} .badge`, "completed");
      expectEqual(await page.texts(`${PANEL} [data-testid="session-state"]`), [], "what is shown of a state that there is not");
      for (const version of [1, 2]) {
        await api(page, "PUT", "/state", { address: `Sonnenallee ${version}` }, { "if-match": String(version - 1) });
        await page.sees(`${PANEL} [data-testid="session-state"] summary`, `version ${version}`);
      }
      await page.click(`${PANEL} [data-testid="session-state"] summary`);
      await page.sees(`${PANEL} [data-testid="session-state"] pre`, "Sonnenallee 2");
    },
    breaks: [
      { why: "the panel does not hear of a change", patches: [{ file: "live-turn.js", from: '&& event.name !== "session.state_changed"', to: "" }] },
      { why: "the page does not have it", patches: [{ file: "page", from: 'data-testid="session-state"', to: "hidden" }] },
    ],
  },
  {
    name: "the messages of a turn that was cancelled can be sent again",
    environment: { MAINSPRING_DEV_QUIET_MS: "300", MAINSPRING_DEV_TOOL_MS: "600000" },
    async run(t) {
      const page = await openChat(t);
      await page.say("where is order 1042?");
      await page.sees(`${DRAFT} .caption`, "asking the carrier");
      const turn = await page.look((panel) => document.querySelector(`${panel} article`).dataset.turnId, PANEL);
      await page.look((turn) => fetch(`/v1/runs/${turn}/cancel`, { method: "POST", headers: { "content-type": "application/json" }, body: '{"reason":"too slow"}' }).then(() => true), turn);
      await page.sees('[data-testid="note"] .caption', "turn 1 cancelled");
      await page.sees(`${PANEL} [data-testid="turn-state"]`, "cancelled");
      await page.sees(`${PANEL} [data-testid="replay"]`, "Send its messages again");

      await page.goto(`${t.server.url}/turns/${turn}`);
      await page.click('[data-testid="replay"]');
      await page.sees(".form-state", "Sent again");
      await page.click(".form-state a");
      await page.sees('[data-testid="turn-state"]', "processing");
      await page.sees('[data-kind="message"] .text', "where is order 1042?");
      expect((await page.texts('[data-testid="replay"]')).length === 0, "a turn that goes on should not offer to send its messages again");
      await page.click('.crumbs a[href^="/chat"]');
      await page.sees('[data-testid="message"] .caption', "sent again, in turn 2");
    },
    breaks: [
      { why: "nothing is offered", patches: [{ file: "page", from: 'data-testid="replay"', to: "hidden" }] },
      { why: "the button does nothing", patches: [{ file: "forms.js", from: 'method: "POST"', to: 'method: "PUT"' }] },
      { why: "it is not said where they went", patches: [{ file: "forms.js", from: "if (leads && turn)", to: "if (false)" }] },
      { why: "the chat does not tell them from new ones", patches: [{ file: "conversation.js", from: "Boolean(replayOf)", to: "false" }] },
    ],
  },
];

/** A channel's endpoint, which books what it is given. */
async function channel() {
  const booked = { delivered: [], refuses: false };
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    booked.delivered.push(JSON.parse(body).reply_id);
    response.writeHead(booked.refuses ? 400 : 200, { "content-type": "application/json" });
    response.end(booked.refuses ? "{}" : JSON.stringify({ provider_message_id: `p${booked.delivered.length}` }));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  booked.environment = { MAINSPRING_DEV_DELIVER_URL: `http://127.0.0.1:${server.address().port}/` };
  booked.close = () => server.close();
  return booked;
}

/** Asks the API about the session that is shown, as a program of the person's would. */
function api(page, method, path, body, headers = {}) {
  return page.look(
    async (method, path, body, headers) => {
      const [agent, name] = ["agent", "interlocutor"].map((id) => encodeURIComponent(document.getElementById(id).value));
      const url = `/v1/sessions/${agent}/${name}/web${path}`;
      const response = await fetch(url, { method, headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });
      if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${await response.text()}`);
      return true;
    },
    method,
    path,
    body,
    headers,
  );
}
