// Waiting too long for a worker, and working too long.

import { expect, expectEqual, failureOf } from "../expect.mjs";

export const timeouts = [
  {
    name: "timeouts: nobody takes it in time: cancelled",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.nobodyCan.runNoWait({ tag });
      await world.middle();
      expectEqual(await ref.output, {}, "what the SDK makes of the result of a cancelled task");
      const details = await world.status(ref, "CANCELLED");
      expectEqual(details.taskRuns["nobody-can"].status, "CANCELLED", "the status of the task");
      expectEqual(world.signals.notes(`${tag}.started`), [], "the attempts");
    },
  },
  {
    name: "timeouts: it works too long: aborted and failed",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.tooSlow.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      const errors = await failureOf(ref.output, "the run");
      expectEqual(errors.length, 1, "the number of errors");
      expect(/time ?out/i.test(errors[0]), `the error should speak of the timeout, not say ${JSON.stringify(errors[0])}`);
      await world.status(ref, "FAILED");
      // A worker that was not listening when the time was over cannot have been told.
      if (!world.crashing) expectEqual(await world.signals.noted(`${tag}.aborted`), ["0"], "the aborted attempts");
    },
  },
  {
    name: "timeouts: an attempt that took too long is retried",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.slowOnce.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      expectEqual(await ref.output, { attempt: 1 }, "the output");
      if (!world.crashing) expectEqual(await world.signals.noted(`${tag}.aborted`), ["0"], "the aborted attempts");
    },
  },
  {
    name: "timeouts: a task can ask for more time",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.extended.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      expectEqual(await ref.output, { attempt: 0 }, "the output");
    },
  },
];
