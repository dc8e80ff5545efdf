// Events that start runs.

import { expect, expectEqual } from "../expect.mjs";

/** The runs an event has started, once there are as many as wanted. */
async function runsOf(world, event, count) {
  return world.eventually(`event ${event.key} has started ${count} runs`, async () => {
    const { rows } = await world.hatchet.runs.list({ triggeringEventExternalId: event.eventId });
    return rows.length >= count && rows;
  });
}

export const events = [
  {
    name: "events: one starts a run, with metadata and scope",
    async run(world) {
      const tag = world.tag();
      const { hatchet, signals } = world;
      const event = await hatchet.events.push("ts:order:created", { tag, number: 7 }, { additionalMetadata: { colour: "red" }, scope: "shop" });
      expectEqual([event.key, event.scope, JSON.parse(event.payload)], ["ts:order:created", "shop", { tag, number: 7 }], "the event as the server gives it back");
      await signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const rows = await runsOf(world, event, 1);
      expectEqual(rows.map(({ workflowName }) => workflowName), ["on-order"], "the runs it started");
      const wanted = { number: 7, byEvent: true, event: event.eventId, key: "ts:order:created", colour: "red" };
      expectEqual(await hatchet.runRef(rows[0].workflowRunExternalId).output, { "on-order": wanted }, "the output of the run");
      const { rows: found } = await hatchet.events.list({ eventIds: [event.eventId] });
      expectEqual(found.map(({ key, scope, additionalMetadata }) => [key, scope, additionalMetadata]), [["ts:order:created", "shop", { colour: "red" }]], "the event in the list");
    },
  },
  {
    name: "events: several at once",
    async run(world) {
      const tag = world.tag();
      const inputs = [1, 2, 3, 4, 5].map((number) => ({ payload: { tag, number }, additionalMetadata: { colour: `colour-${number}` } }));
      const { events: pushed } = await world.hatchet.events.bulkPush("ts:order:created", inputs);
      expectEqual(pushed.length, 5, "the number of events");
      await world.signals.noted(`${tag}.started`, { count: 5 });
      await world.middle();
      world.go(tag);
      const outputs = [];
      for (const event of pushed) {
        const [row] = await runsOf(world, event, 1);
        outputs.push((await world.hatchet.runRef(row.workflowRunExternalId).output)["on-order"]);
      }
      expectEqual(outputs.map(({ number, colour }) => [number, colour]), inputs.map(({ payload, additionalMetadata }) => [payload.number, additionalMetadata.colour]), "number and colour of each run");
    },
  },
  {
    name: "events: a pattern of keys",
    async run(world) {
      const tag = world.tag();
      const push = (key, number) => world.hatchet.events.push(key, { tag, number });
      const [paid, refused, other] = [await push("ts:payment:paid", 1), await push("ts:payment:card:refused", 2), await push("ts:refund:paid", 3)];
      await world.middle();
      await runsOf(world, paid, 1);
      await runsOf(world, refused, 1);
      await world.signals.noted(`${tag}.payment`, { count: 2 });
      expectEqual((await world.hatchet.runs.list({ triggeringEventExternalId: other.eventId })).rows, [], "the runs of the event with another key");
      world.executed(world.signals.notes(`${tag}.payment`).sort(), ["1", "2"], "the events that were worked on");
    },
  },
  {
    name: "events: what is registered but not executed yet is refused when it is used, in words",
    async run(world) {
      await world.middle();
      const refused = await world.hatchet.events.push("ts:vip:order", { amount: 20 }, { scope: "vip" }).then(
        () => "nothing",
        (error) => error.message,
      );
      expect(/filters on events .*not executed yet/.test(refused), `an event for a workflow with a filter should be refused in words, not with: ${refused}`);
    },
  },
  {
    name: "events: a task can push one, which says where it comes from",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.pushes.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const { event, metadata } = await ref.output;
      const id = await ref.runId;
      expect(event.length > 0, "the event should have an id");
      expectEqual(metadata, { colour: "green", hatchet__source_workflow_run_id: id, hatchet__source_step_run_id: id }, "the metadata of the event");
    },
  },
];
