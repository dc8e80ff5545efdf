// Workflows of several tasks.

import { expectEqual, failureOf, messageIn } from "../expect.mjs";

export const graphs = [
  {
    name: "graphs: parents give their outputs to their children",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.diamond.runNoWait({ tag, n: 4 });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await ref.output, { first: { n: 4 }, left: { n: 5 }, right: { n: 40 }, join: { sum: 45 } }, "the outputs");
      world.executed(world.signals.notes(`${tag}.join`), [""], "the executions of the last task");
    },
  },
  {
    name: "graphs: conditions on parents skip, cancel and let pass",
    async run(world) {
      const tag = world.tag();
      const start = (n) => world.workflows.branches.runNoWait({ tag, n });
      const [low, high, highest] = [await start(10), await start(70), await start(95)];
      await world.signals.noted(`${tag}.started`, { count: 3 });
      await world.middle();
      world.go(tag);
      const ran = (name) => ({ ran: name });
      const skipped = { skipped: true };
      const common = { waits: ran("waits"), fragile: ran("fragile") };
      const takenSmall = { ran: ["small", null], skipped: [false, true] };
      const takenLarge = { ran: [null, "large"], skipped: [true, false] };
      expectEqual(await low.output, { draw: { n: 10 }, small: ran("small"), large: skipped, ...common, chosen: takenSmall }, "the run with 10");
      expectEqual(await high.output, { draw: { n: 70 }, small: skipped, large: ran("large"), ...common, chosen: takenLarge }, "the run with 70");
      // A cancelled task has neither an error nor an output: the SDK makes an empty object of that.
      const cancelled = { draw: { n: 95 }, small: skipped, large: ran("large"), ...common, fragile: {}, chosen: takenLarge };
      expectEqual(await highest.output, cancelled, "the run with 95");
      const { taskRuns } = await world.status(highest, "CANCELLED");
      expectEqual(taskRuns.fragile.status, "CANCELLED", "the status of the task with the condition to cancel");
      expectEqual(taskRuns.small.status, "COMPLETED", "the status of a skipped task");
    },
  },
  {
    name: "graphs: on success",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.outcome.runNoWait({ tag, fails: false });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const output = await ref.output;
      expectEqual(output.attempt, { fine: tag }, "the output of the task");
      expectEqual(output["on-success-task"], { after: tag }, "the output of the task for success");
      await world.status(ref, "COMPLETED");
      expectEqual(world.signals.notes(`${tag}.on-failure`), [], "the executions of the task for failure");
    },
  },
  {
    name: "graphs: on failure, once the retries are used up",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.outcome.runNoWait({ tag, fails: true });
      const failure = failureOf(ref.output, "the run");
      failure.catch(() => {});
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const errors = await failure;
      expectEqual(errors.map(messageIn), [`broken ${tag}`], "the errors of the run");
      const [seen] = await world.signals.noted(`${tag}.on-failure`);
      expectEqual(Object.keys(JSON.parse(seen)), ["attempt"], "the tasks whose errors the task for failure sees");
      expectEqual(messageIn(JSON.parse(seen).attempt), `broken ${tag}`, "the error the task for failure sees");
      const details = await world.eventually("the task for failure is finished", async () => {
        const found = await world.hatchet.runs.getDetails(ref);
        return found.taskRuns["on-failure-task"]?.status === "COMPLETED" && found;
      });
      expectEqual(details.status, "FAILED", "the status of the run");
      expectEqual(details.taskRuns.attempt.status, "FAILED", "the status of the task");
      expectEqual(details.taskRuns["on-success-task"].status, "CANCELLED", "the status of the task for success");
      expectEqual(details.taskRuns["on-failure-task"].output, { seen: ["attempt"] }, "the output of the task for failure");
      world.executed(world.signals.notes(`${tag}.started`), ["0", "1"], "the attempts");
      expectEqual(world.signals.notes(`${tag}.on-success`), [], "the executions of the task for success");
    },
  },
];
