// Tasks that fail, are retried, run out of time, or are cancelled.

import { NonRetryableError } from "../sdk.mjs";

export const AWKWARD = 'ümlaut "quoted" \\ back\nnew line\t日本 🎉 %s {json: true} </b> \u2028';

export function failures({ hatchet, signals, held, patient }) {
  // Waits for its cancellation, and says so: what the SDK aborts is told apart from what merely ends.
  const untilAborted = async (input, ctx) => {
    signals.note(`${input.tag}.started`, String(ctx.retryCount()));
    try {
      await signals.noted(`${input.tag}.go`, { signal: ctx.abortController.signal });
    } catch (error) {
      signals.note(`${input.tag}.aborted`, String(ctx.retryCount()));
      throw error;
    }
    return { finished: true };
  };

  const flaky = hatchet.task({
    name: "flaky",
    ...patient,
    retries: 3,
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.attempts`, String(ctx.retryCount()));
      if (ctx.retryCount() === 1) await held(input, ctx);
      if (ctx.retryCount() < 2) throw new Error(`attempt ${ctx.retryCount()}`);
      return { attempt: ctx.retryCount() };
    },
  });

  const patientFlaky = hatchet.task({
    name: "patient-flaky",
    ...patient,
    retries: 2,
    backoff: { factor: 2, maxSeconds: 3 },
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.attempts`, String(Date.now()));
      if (ctx.retryCount() < 2) throw new Error(`attempt ${ctx.retryCount()}`);
      return { attempt: ctx.retryCount() };
    },
  });

  const hopeless = hatchet.task({
    name: "hopeless",
    ...patient,
    retries: 2,
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.attempts`, String(ctx.retryCount()));
      if (ctx.retryCount() === 2) await held(input, ctx);
      throw new Error(`attempt ${ctx.retryCount()} of ${input.tag}`);
    },
  });

  const final = hatchet.task({
    name: "final",
    ...patient,
    retries: 3,
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.attempts`, String(ctx.retryCount()));
      await held(input, ctx);
      throw new NonRetryableError(`no use ${input.tag}`);
    },
  });

  const awkward = hatchet.task({
    name: "awkward",
    ...patient,
    fn: async (input, ctx) => {
      await held(input, ctx);
      const error = new Error(AWKWARD);
      // Exactly what this SDK puts into the event: whatever anybody reads later has to be this text again.
      signals.note(`${input.tag}.sent`, Buffer.from(JSON.stringify({ message: error.message, stack: error.stack })).toString("base64"));
      throw error;
    },
  });

  const nobodyCan = hatchet.task({
    name: "nobody-can",
    executionTimeout: "5m",
    scheduleTimeout: "3s",
    desiredWorkerLabels: { place: { value: "nowhere", required: true } },
    fn: async (input) => signals.note(`${input.tag}.started`),
  });

  const tooSlow = hatchet.task({ name: "too-slow", executionTimeout: "3s", fn: untilAborted });

  const slowOnce = hatchet.task({
    name: "slow-once",
    executionTimeout: "3s",
    retries: 1,
    fn: async (input, ctx) => {
      if (ctx.retryCount() === 0) return untilAborted(input, ctx);
      return { attempt: ctx.retryCount() };
    },
  });

  const cancellable = hatchet.task({ name: "cancellable", ...patient, retries: 2, fn: untilAborted });

  const cancelsItself = hatchet.task({
    name: "cancels-itself",
    ...patient,
    fn: async (input, ctx) => {
      await held(input, ctx);
      await ctx.cancel();
      return { cancelled: ctx.cancelled };
    },
  });

  // Its own workers have one slot: there is a queue.
  const queued = hatchet.task({
    name: "queued",
    ...patient,
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.order`, input.label);
      if (input.label === "first") await held(input, ctx);
      return { label: input.label, priority: ctx.priority() ?? null };
    },
  });
  const urgentByDefault = hatchet.task({
    name: "urgent-by-default",
    ...patient,
    defaultPriority: 3,
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.order`, input.label);
      return { label: input.label, priority: ctx.priority() ?? null };
    },
  });
  const letsGo = hatchet.task({
    name: "lets-go",
    ...patient,
    fn: async (input, ctx) => {
      if (input.label === "first") {
        await ctx.releaseSlot();
        await held(input, ctx);
      }
      return { label: input.label };
    },
  });

  const ordinary = { flaky, patientFlaky, hopeless, final, awkward, nobodyCan, tooSlow, slowOnce, cancellable, cancelsItself };
  return { ordinary, narrow: { queued, urgentByDefault, letsGo } };
}
