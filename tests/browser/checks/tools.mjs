// Tools: the catalogue, an execution as it is undone (over a crash), and the queue of what waits for a person.

import { join } from "node:path";

import { expect, expectEqual } from "../expect.mjs";
import { SCREENS, fits, readable } from "./looks.mjs";
import { callTool, providers, putTools, trip } from "./providers.mjs";
import { openChat } from "./talk.mjs";

const STATUS = '[data-testid="execution-status"]';
const ITEM = '[data-testid="attention-item"]';
const COUNT = '[data-testid="waiting-count"]';
const step = (name, state) => `[data-testid="plan-step"][data-step="${name}"]${state ? `[data-state="${state}"]` : ""}`;

/** A task for a person, and a call that needs a yes: both built in, so that they wait as long as it takes. */
const MORE = {
  "visa.check": { policy: "irreversible", provider: { kind: "person", prompt: "Is {{args.traveller}}'s passport good for {{args.to}}?", assignee: "travel desk", form: { type: "object", required: ["good"] } } },
};

export const tools = [
  {
    name: "a trip that fails is undone on its page, also over kill -9 in the middle of undoing",
    outside: () => providers({ undoMs: 2_500 }),
    async run(t) {
      const page = await openChat(t);
      await putTools(page, t.outside);
      await page.click('nav a[href="/tools"]');
      await page.sees("h1", "Tools");
      const row = await page.sees('[data-testid="tool-row"]', "trip.book");
      for (const told of ["compensatable", "available", "a plan: flight, payment, hotel", "its steps"]) expect(row.includes(told), `the row of trip.book should say "${told}": ${row}`);
      await page.sees('[data-testid="tool-row"]', "flight.cancel");

      const id = await callTool(page, "trip.book", trip("Atlantis"));
      await page.click('[data-testid="executions-link"]');
      await page.sees('[data-testid="execution-row"]', "trip.book");
      await page.click('[data-testid="execution-row"] a');
      await page.sees(`${step("payment")} [data-testid="undo"]`, "Being undone by payment.refund");
      expect((await page.address()).endsWith(`/tools/executions/${id}`), "the row should lead to its execution");
      page.serverIsGone();
      await t.server.kill();
      expect(!(await t.outside.acts()).includes("undo flight"), "the server should be killed before everything is undone");
      await page.sees(".refresh-state", "connection lost");
      await t.server.start();
      await page.sees(STATUS, "compensated");
      page.serverIsBack();
      await page.sees(step("payment", "compensated"), "Undone by payment.refund");
      await page.sees(step("flight", "compensated"), "Undone by flight.cancel");
      await page.sees(step("hotel", "failed"), "no room in Atlantis");
      expectEqual(await t.outside.acts(), ["flight", "payment", "undo payment", "undo flight"], "what the providers really did");
      const lines = await page.texts('[data-testid="try-row"] .name');
      for (const name of ["flight", "payment", "hotel", "undo payment", "undo flight"]) expect(lines.includes(name), `the journal should have "${name}": ${lines}`);
      const given = await page.texts('[data-testid="arguments"]');
      expect(given[0].includes("Atlantis") && !(await page.text()).includes("4111"), `the arguments without the card: ${given}`);
      await page.click('[data-testid="run-link"]');
      await page.sees("h1", "tool-call");
      expect(!(await page.text()).includes("4111"), "the run's page should not show the card either");
    },
    breaks: [
      { why: "the page does not refresh", patches: [{ file: "refresh.js", from: "morph(shown, fresh);", to: "" }] },
      { why: "steps do not say what undoes them", patches: [{ file: "page", from: 'data-testid="undo"', to: "hidden" }] },
      { why: "what undoes is not in the catalogue's page", patches: [{ file: "page", from: "flight.cancel", to: "flight.keep" }] },
    ],
  },
  {
    name: "what waits for a person is settled with a button",
    outside: () => providers({ undoMs: 100 }),
    async run(t) {
      const page = await openChat(t);
      await putTools(page, t.outside, MORE);
      const unknown = await callTool(page, "trip.book", trip("Limbo"));
      const asked = await callTool(page, "trip.book", trip("Lisbon", { budget: 2_500 }));
      const task = await callTool(page, "visa.check", { traveller: "anna", to: "Lisbon" });
      await page.click('nav a[href="/attention"]');
      await page.sees(`${ITEM}[data-kind="unknown"]`, "nobody knows whether hotel.book was carried out");
      await page.sees(`${ITEM}[data-kind="confirmation"]`, "Book a trip to Lisbon for anna, 3 nights, 2500 euros?");
      await page.sees(`${ITEM}[data-kind="task"]`, "Is anna's passport good for Lisbon?");
      await page.sees(COUNT, "3");
      const kinds = await page.look(() => [...document.querySelectorAll('[data-testid="attention-group"]')].map((group) => group.dataset.kind));
      expectEqual(kinds, ["unknown", "confirmation", "task"], "the groups");
      expect(!(await page.text()).includes("4111"), "the card should not be shown");

      // A slip does no harm, and is told where it was made.
      const unknownItem = `${ITEM}[data-kind="unknown"]`;
      await page.click(`${unknownItem} [data-testid="result"]`);
      await page.type('{"booking": ');
      await page.click(`${unknownItem} [data-testid="verb-done"]`);
      await page.sees(`${unknownItem} .form-state`, "That is no JSON");
      await page.click(`${unknownItem} [data-testid="result"]`);
      await page.press("End", 35);
      await page.type('"H-7"}');
      await page.click(`${unknownItem} [data-testid="verb-done"]`);
      await page.until("the unknown one to go", (item) => !document.querySelector(item), unknownItem);

      // The form of a task is checked where it is kept.
      const taskItem = `${ITEM}[data-kind="task"]`;
      await page.click(`${taskItem} [data-testid="result"]`);
      await page.type("{}");
      await page.click(`${taskItem} [data-testid="verb-done"]`);
      await page.sees(`${taskItem} .form-state`, "good");
      page.faults = page.faults.filter((fault) => !/\/settle: status 422/.test(fault));
      await page.look((field) => (document.querySelector(field).value = ""), `${taskItem} [data-testid="result"]`);
      await page.click(`${taskItem} [data-testid="result"]`);
      await page.type('{"good": true}');
      await page.click(`${taskItem} [data-testid="verb-done"]`);
      await page.until("the task to go", (item) => !document.querySelector(item), taskItem);
      await page.click(`${ITEM}[data-kind="confirmation"] [data-testid="verb-yes"]`);
      await page.sees(".empty", "Nothing waits for a person");
      await page.until("the menu to count nothing", (count) => document.querySelector(count).hidden, COUNT);

      for (const [id, told] of [[unknown, "H-7"], [asked, '"hotel"'], [task, '"good": true']]) {
        await page.goto(`${t.server.url}/tools/executions/${id}`);
        await page.sees(STATUS, "done");
        await page.sees('[data-key="result"] pre', told);
      }
      const acts = await t.outside.acts();
      expectEqual(acts.filter((act) => act === "hotel").length, 2, "the hotels booked: in Limbo and in Lisbon");
      expect(!acts.some((act) => act.startsWith("undo")), `nothing should be undone: ${acts}`);
    },
    breaks: [
      { why: "a button does not say which it is", patches: [{ file: "forms.js", from: "new FormData(form, event.submitter)", to: "new FormData(form)" }] },
      { why: "what is written as JSON is sent as text", patches: [{ file: "forms.js", from: "pair[1] = JSON.parse(pair[1])", to: "JSON.parse(pair[1])" }] },
      { why: "the menu does not count", patches: [{ file: "page", from: 'data-testid="waiting-count"', to: "hidden" }] },
      { why: "what is settled stays on the page", patches: [{ file: "refresh.js", from: "morph(shown, fresh);", to: "" }] },
    ],
  },
  ...SCREENS.map((screen) => ({
    name: `every page about tools fits and is readable: ${screen.name}`,
    outside: () => providers({ undoMs: 100 }),
    async run(t) {
      const page = await openChat(t, screen);
      await putTools(page, t.outside, MORE);
      const undone = await callTool(page, "trip.book", trip("Atlantis"));
      const unknown = await callTool(page, "trip.book", trip("Limbo"));
      await callTool(page, "trip.book", trip("A-place-whose-name-nobody-can-break-".padEnd(120, "0123456789"), { budget: 2_500 }));
      await callTool(page, "visa.check", { traveller: "anna", to: "Lisbon" });
      for (const [name, path, selector, text] of [
        ["tools", "/tools", '[data-testid="tool-row"]', "trip.book"],
        ["attention", "/attention", `${ITEM}[data-kind="unknown"]`, ""],
        ["execution-undone", `/tools/executions/${undone}`, STATUS, "compensated"],
        ["execution-unknown", `/tools/executions/${unknown}`, ITEM, ""],
        ["executions", "/tools/executions", '[data-testid="execution-row"]', "trip.book"],
        ["executions-none", "/tools/executions?tool=nothing", ".empty", ""],
      ]) {
        await page.goto(t.server.url + path);
        await page.sees(selector, text);
        await fits(page, name);
        await readable(page, name, screen.dark);
        if (t.pictures) await page.picture(join(t.pictures, `${name}-${screen.name}.png`));
      }
    },
    breaks: [
      { why: "long words are not broken", patches: [{ file: "style.css", from: "overflow-wrap: anywhere", to: "overflow-wrap: normal" }] },
      { why: "captions are too pale", patches: [{ file: "style.css", from: screen.dark ? "--muted: #a59f94" : "--muted: #67625a", to: screen.dark ? "--muted: #605d57" : "--muted: #a8a49c" }] },
    ],
  })),
];
