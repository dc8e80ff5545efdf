// Tasks that throw: retries, backoff, giving up, and the text of the error.

import { expect, expectEqual, failureOf, messageIn } from "../expect.mjs";

/** Our worker and the server read different clocks, and timers round. */
const SLACK_MS = 150;
const BACKOFF_MAX_MS = 20_000;

export const failing = [
  {
    name: "failing: retries at once, until it works",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.flaky.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await ref.output, { attempt: 2 }, "the output");
      world.executed(world.signals.notes(`${tag}.attempts`), ["0", "1", "2"], "the attempts");
      const { tasks } = await world.hatchet.runs.get(ref);
      expectEqual(tasks.map(({ status, retryCount }) => [status, retryCount]), [["COMPLETED", 2]], "status and retries of the task");
    },
  },
  {
    name: "failing: retries with backoff",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.patientFlaky.runNoWait({ tag });
      await world.signals.noted(`${tag}.attempts`);
      // In the middle of the first pause: the server has to know after its death when that is over.
      await world.middle();
      expectEqual(await ref.output, { attempt: 2 }, "the output");
      const times = world.signals.notes(`${tag}.attempts`).map(Number);
      if (!world.crashing) expectEqual(times.length, 3, "the number of attempts");
      const pauses = times.slice(1).map((at, i) => at - times[i]);
      // Two to the power of the retry, but at most the three seconds it allows. After a crash, an attempt whose
      // failure was not recorded may come once more without a pause; the two real pauses are the longest ones.
      const [second, first] = [...pauses].sort((a, b) => b - a);
      const ordered = world.crashing ? [first, second] : pauses;
      expect(ordered[0] >= 2_000 - SLACK_MS && ordered[1] >= 3_000 - SLACK_MS, `the pauses should be at least 2 s and 3 s, not ${pauses} ms`);
      expect(ordered.every((pause) => pause < BACKOFF_MAX_MS), `the pauses should be near 2 s and 3 s, not ${pauses} ms`);
    },
  },
  {
    name: "failing: gives up after the last retry, with the last error",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.hopeless.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const errors = await failureOf(ref.output, "the run");
      expectEqual(errors.map(messageIn), [`attempt 2 of ${tag}`], "the errors");
      world.executed(world.signals.notes(`${tag}.attempts`), ["0", "1", "2"], "the attempts");
      const details = await world.status(ref, "FAILED");
      expectEqual(details.done, true, "whether the run is done");
    },
  },
  {
    name: "failing: a NonRetryableError is final",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.final.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const errors = await failureOf(ref.output, "the run");
      expectEqual(errors.map(messageIn), [`no use ${tag}`], "the errors");
      await world.status(ref, "FAILED");
      world.executed(world.signals.notes(`${tag}.attempts`), ["0"], "the attempts");
    },
  },
  {
    name: "failing: the text of an error arrives as it was sent",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.awkward.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const errors = await failureOf(ref.output, "the run");
      const sent = Buffer.from(world.signals.notes(`${tag}.sent`).at(-1), "base64").toString("utf8");
      expectEqual(errors, [sent], "the errors of the run");
      const details = await world.status(ref, "FAILED");
      expectEqual(details.taskRuns.awkward.error, sent, "the error in the details of the run");
      const { tasks } = await world.hatchet.runs.get(ref);
      expectEqual(tasks.map(({ errorMessage }) => errorMessage), [sent], "the error message of the task");
    },
  },
];
