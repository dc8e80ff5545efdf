// Single tasks that succeed: results, metadata, logs, streams, events, rate limits, time.

import { RateLimitDuration } from "../sdk.mjs";
import { sleep } from "../signals.mjs";

const TICK_EVERY_MS = 50;
const WORK_STEP_MS = 50;

export function tasks({ hatchet, signals, held, patient }) {
  const add = hatchet.task({
    name: "add",
    ...patient,
    fn: async (input, ctx) => {
      if (input.tag) await held(input, ctx);
      return { sum: input.a + input.b, text: input.text ?? null };
    },
  });

  // The SDK writes workflow names and action ids in lower case, and looks results up under the name as it is here.
  const mixedCase = hatchet.task({ name: "MixedCase", fn: async (input) => ({ twice: input.n * 2 }) });

  const nothing = hatchet.task({ name: "nothing", fn: async () => {} });

  const many = hatchet.task({
    name: "many",
    ...patient,
    fn: async (input, ctx) => {
      if (input.tag) await held(input, ctx);
      return { n: input.n, twice: input.n * 2 };
    },
  });

  const about = hatchet.task({
    name: "about",
    ...patient,
    fn: async (input, ctx) => {
      await held(input, ctx);
      return {
        metadata: ctx.additionalMetadata(),
        workflowRunId: ctx.workflowRunId(),
        taskRunId: ctx.taskRunExternalId(),
        taskName: ctx.taskName(),
        workflow: ctx.workflowNameV1(),
        priority: ctx.priority() ?? null,
      };
    },
  });

  // A call that fails while the server is away, and is without retries in the SDK; a log line would be lost silently.
  const untilReachable = async (ctx) => {
    for (;;) {
      try {
        return await ctx.refreshTimeout("1s");
      } catch {
        await sleep(TICK_EVERY_MS);
      }
    }
  };

  const logs = hatchet.task({
    name: "logs",
    ...patient,
    fn: async (input, ctx) => {
      await ctx.logger.info(`first ${input.tag}`);
      await ctx.logger.warn("second: careful");
      await held(input, ctx);
      await untilReachable(ctx);
      await ctx.logger.error("third: broken");
      await ctx.logger.debug("fourth: detail");
      return { lines: 4 };
    },
  });

  // Nobody stores what is streamed, so it ticks until the test says that it is listening: before each half.
  const streams = hatchet.task({
    name: "streams",
    ...patient,
    fn: async (input, ctx) => {
      for (const half of [0, 1]) {
        while (signals.notes(`${input.tag}.listening-${half}`).length === 0) {
          ctx.throwIfCancelled();
          await ctx.putStream(`tick-${half}`);
          await sleep(TICK_EVERY_MS);
        }
        for (let i = 0; i < input.itemsPerHalf; i += 1) await ctx.putStream(`item-${half * input.itemsPerHalf + i} of ${input.tag}`);
        await signals.noted(`${input.tag}.half-${half}`, { signal: ctx.abortController.signal });
      }
      return { streamed: 2 * input.itemsPerHalf };
    },
  });

  const onOrder = hatchet.task({
    name: "on-order",
    ...patient,
    onEvents: ["ts:order:created"],
    fn: async (input, ctx) => {
      await held(input, ctx);
      return {
        number: input.number,
        byEvent: ctx.triggeredByEvent(),
        event: ctx.triggeringEventId() ?? null,
        key: ctx.triggeringEventKey() ?? null,
        colour: ctx.additionalMetadata().colour ?? null,
      };
    },
  });

  const onAnyPayment = hatchet.task({
    name: "on-any-payment",
    onEvents: ["ts:payment:*"],
    fn: async (input) => {
      signals.note(`${input.tag}.payment`, String(input.number));
      return { number: input.number };
    },
  });

  const onVipOrder = hatchet.task({
    name: "on-vip-order",
    onEvents: ["ts:vip:order"],
    defaultFilters: [{ scope: "vip", expression: "input.amount > 10", payload: { rate: 2 } }],
    fn: async (input, ctx) => ({ amount: input.amount, filter: ctx.filterPayload() }),
  });

  const pushes = hatchet.task({
    name: "pushes",
    ...patient,
    fn: async (input, ctx) => {
      await held(input, ctx);
      const event = await hatchet.events.push("ts:from-a-task", { tag: input.tag }, { additionalMetadata: { colour: "green" } });
      return { event: event.eventId, metadata: JSON.parse(event.additionalMetadata ?? "{}") };
    },
  });

  const limitedPerMinute = hatchet.task({
    name: "limited-per-minute",
    ...patient,
    rateLimits: [{ staticKey: "ts-per-minute", units: 1 }],
    fn: async (input) => {
      signals.note(`${input.tag}.ran`, String(input.n));
      return { n: input.n };
    },
  });

  const limitedPerSecond = hatchet.task({
    name: "limited-per-second",
    ...patient,
    rateLimits: [{ staticKey: "ts-per-second", units: 1 }],
    fn: async (input) => ({ n: input.n, at: Date.now() }),
  });

  const limitedPerUser = hatchet.task({
    name: "limited-per-user",
    ...patient,
    rateLimits: [{ dynamicKey: "input.user", units: 1, limit: 2, duration: RateLimitDuration.MINUTE }],
    fn: async (input) => {
      signals.note(`${input.user}.ran`, String(input.n));
      return { n: input.n };
    },
  });

  const extended = hatchet.task({
    name: "extended",
    executionTimeout: "3s",
    fn: async (input, ctx) => {
      await ctx.refreshTimeout("60s");
      signals.note(`${input.tag}.started`, String(ctx.retryCount()));
      const end = Date.now() + 5_000;
      while (Date.now() < end) {
        ctx.throwIfCancelled();
        await sleep(WORK_STEP_MS);
      }
      return { attempt: ctx.retryCount() };
    },
  });

  const replayed = hatchet.task({
    name: "replayed",
    ...patient,
    fn: async (input, ctx) => {
      const turn = signals.notes(`${input.tag}.turn`).length;
      signals.note(`${input.tag}.turn`, String(turn));
      if (turn > 0) await held(input, ctx);
      else if (input.failsFirst) throw new Error(`not yet ${input.tag}`);
      return { turn, word: input.word };
    },
  });

  const ordinary = { add, mixedCase, nothing, many, about, logs, streams, onOrder, onAnyPayment, onVipOrder, pushes };
  return { ordinary: { ...ordinary, limitedPerMinute, limitedPerSecond, limitedPerUser, extended, replayed } };
}
