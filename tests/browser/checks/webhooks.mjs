// Webhooks on their page: verified, tried, given up, sent again, paused.

import { createServer } from "node:http";
import { once } from "node:events";

import { expect, expectEqual } from "../expect.mjs";
import { openChat } from "./talk.mjs";

const STATE = '[data-testid="webhook-state"]';

/** An endpoint that answers challenges, and everything else with what it is told to. */
async function endpoint() {
  const inside = { status: 204, taken: [] };
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const said = JSON.parse(body);
    if (said.type === "webhook.verification") return response.end(JSON.stringify({ challenge: said.challenge }));
    inside.taken.push({ id: request.headers["webhook-id"], status: inside.status });
    response.writeHead(inside.status).end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return Object.assign(inside, { url: `http://127.0.0.1:${server.address().port}/hook`, close: () => (server.closeAllConnections(), server.close()) });
}

export const webhooks = [
  {
    name: "a webhook is verified, tried, given up, sent again and paused with buttons",
    outside: endpoint,
    async run(t) {
      const page = await openChat(t);
      const id = await page.look(async (url) => {
        const made = await fetch("/v1/webhooks", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ name: "crm", url, events: ["*"] }) });
        if (!made.ok) throw new Error(await made.text());
        return (await made.json()).id;
      }, t.outside.url);
      await page.click('nav a[href="/webhooks"]');
      await page.click(`a[href="/webhooks/${id}"]`);
      await page.sees(STATE, "pending");
      await page.click('[data-testid="verify"]');
      await page.sees(".form-state", "Verified");
      await page.reload();
      await page.sees(STATE, "active");

      await page.click('[data-testid="test"]');
      await page.sees('[data-testid="attempt-row"] .badge', "delivered");
      t.outside.status = 400;
      await page.reload();
      await page.click('[data-testid="test"]');
      await page.sees('[data-testid="dead-row"]', "400");
      const dead = t.outside.taken.find((one) => one.status === 400);
      t.outside.status = 204;
      await page.reload();
      await page.click('[data-testid="replay"]');
      await page.sees(".form-state", "Accepted");
      for (const until = Date.now() + 30_000; ; ) {
        if (t.outside.taken.some((one) => one.id === dead.id && one.status === 204)) break;
        expect(Date.now() < until, `the dead letter ${dead.id} should arrive under its id: ${JSON.stringify(t.outside.taken)}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      await page.click('[data-testid="pause"]');
      await page.sees(".form-state", "Paused");
      await page.reload();
      await page.sees(STATE, "paused");
      await page.click('[data-testid="resume"]');
      await page.sees(".form-state", "Resumed");
      await page.reload();
      await page.sees(STATE, "active");
      expectEqual(new Set(t.outside.taken.map((one) => one.id)).size, 2, "how many events were sent");
    },
    breaks: [
      { why: "the page does not refresh", patches: [{ file: "refresh.js", from: "morph(shown, fresh);", to: "" }] },
      { why: "what was given up is not shown", patches: [{ file: "page", from: 'data-testid="dead-row"', to: "hidden" }] },
    ],
  },
];
