// Cancelling what waits, what runs, and whole runs.

import { expectEqual } from "../expect.mjs";

export const cancelling = [
  {
    name: "cancelling: a queued run is never executed",
    async run(world) {
      const tag = world.tag();
      await world.worker("narrow-cancel", "narrow", { slots: 1 });
      const start = (label) => world.workflows.queued.runNoWait({ tag, label });
      const first = await start("first");
      await world.signals.noted(`${tag}.started`);
      const [second, third] = [await start("second"), await start("third")];
      await world.middle();
      await world.hatchet.runs.cancel({ ids: [await second.runId] });
      await world.status(second, "CANCELLED");
      world.go(tag);
      expectEqual((await first.output).label, "first", "the output of the first run");
      expectEqual((await third.output).label, "third", "the output of the third run");
      expectEqual(await second.output, {}, "what the SDK makes of the result of a cancelled task");
      world.executed(world.signals.notes(`${tag}.order`), ["first", "third"], "the runs that were executed");
    },
  },
  {
    name: "cancelling: a running task is told to stop, and is not retried",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.cancellable.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      await world.settled();
      const { data } = await world.hatchet.runs.cancel({ ids: [await ref.runId] });
      expectEqual(data.ids, [await ref.runId], "the ids of what was cancelled");
      world.executed(await world.signals.noted(`${tag}.aborted`), ["0"], "the aborted attempts");
      expectEqual(await ref.output, {}, "what the SDK makes of the result of a cancelled task");
      await world.status(ref, "CANCELLED");
      world.executed(world.signals.notes(`${tag}.started`), ["0"], "the attempts");
    },
  },
  {
    name: "cancelling: a whole run of several tasks",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.diamond.runNoWait({ tag, n: 1 });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      await world.settled();
      await ref.cancel();
      const { taskRuns } = await world.status(ref, "CANCELLED");
      expectEqual([taskRuns.first.status, taskRuns.left.status, taskRuns.join.status], ["COMPLETED", "CANCELLED", "CANCELLED"], "the statuses of first, left and join");
      world.go(tag);
      await world.settled();
      expectEqual(world.signals.notes(`${tag}.join`), [], "the executions of the last task");
    },
  },
  {
    name: "cancelling: runs found by their metadata",
    async run(world) {
      const tag = world.tag();
      const start = (group) => world.workflows.cancellable.runNoWait({ tag }, { additionalMetadata: { tag, group } });
      const [a, b, other] = [await start("red"), await start("red"), await start("blue")];
      await world.signals.noted(`${tag}.started`, { count: 3 });
      await world.middle();
      await world.settled();
      await world.eventually("the runs are listed", async () => (await world.hatchet.runs.list({ additionalMetadata: { tag } })).rows.length === 3);
      await world.hatchet.runs.cancel({ filters: { additionalMetadata: { tag, group: "red" } } });
      await world.status(a, "CANCELLED");
      await world.status(b, "CANCELLED");
      await world.signals.noted(`${tag}.aborted`, { count: 2 });
      world.go(tag);
      expectEqual(await other.output, { finished: true }, "the output of the run with other metadata");
    },
  },
  {
    name: "cancelling: a task cancels itself",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.cancelsItself.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await ref.output, {}, "what the SDK makes of the result of a cancelled task");
      await world.status(ref, "CANCELLED");
    },
  },
];
