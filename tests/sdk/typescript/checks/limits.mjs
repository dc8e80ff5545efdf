// Rate limits: fixed ones, ones per value of the input, and their refilling.

import { expect, expectEqual } from "../expect.mjs";

const PER_SECOND = 2;
const RUNS = 6;

/** Waits until as many of these runs are completed; gives those that are not. */
async function waiting(world, refs, completed) {
  return world.eventually(`${completed} runs are completed`, async () => {
    const all = await Promise.all(refs.map(async (ref) => ({ ref, ...(await world.hatchet.runs.getDetails(ref)) })));
    return all.filter(({ status }) => status === "COMPLETED").length === completed && all.filter(({ status }) => status !== "COMPLETED");
  });
}

async function cancelAll(world, left) {
  await world.hatchet.runs.cancel({ ids: await Promise.all(left.map(({ ref }) => ref.runId)) });
  for (const { ref } of left) await world.status(ref, "CANCELLED");
}

export const limits = [
  {
    name: "limits: no more than the limit in its time",
    async run(world) {
      const tag = world.tag();
      const { RateLimitDuration } = world.sdk;
      await world.hatchet.ratelimits.upsert({ key: "ts-per-minute", limit: 3, duration: RateLimitDuration.MINUTE });
      const refs = await world.workflows.limitedPerMinute.runNoWait([1, 2, 3, 4, 5].map((n) => ({ tag, n })));
      await waiting(world, refs, 3);
      await world.middle();
      await world.settled();
      const left = await waiting(world, refs, 3);
      expectEqual(left.map(({ status }) => status), ["QUEUED", "QUEUED"], "the statuses of those over the limit");
      const { rows } = await world.hatchet.ratelimits.list({ search: "ts-per-minute" });
      expectEqual(rows.map(({ key, limitValue, value }) => [key, limitValue, value]), [["ts-per-minute", 3, 0]], "key, limit and what is left of it");
      await cancelAll(world, left);
      expectEqual(world.signals.notes(`${tag}.ran`).length, 3, "the number of executions");
    },
  },
  {
    name: "limits: what waited for the limit goes on when it is refilled",
    async run(world) {
      const { RateLimitDuration } = world.sdk;
      await world.hatchet.ratelimits.upsert({ key: "ts-per-second", limit: PER_SECOND, duration: RateLimitDuration.SECOND });
      const refs = await world.workflows.limitedPerSecond.runNoWait(Array.from({ length: RUNS }, (_, n) => ({ n })));
      await world.middle();
      const times = (await Promise.all(refs.map((ref) => ref.output))).map(({ at }) => at).sort((a, b) => a - b);
      const took = times.at(-1) - times[0];
      // Six at two per second need three fillings, and there is a second between two of them.
      expect(took >= 1_500, `${RUNS} runs with ${PER_SECOND} in a second should take about 2 s, not ${took} ms`);
    },
  },
  {
    name: "limits: one for each user",
    async run(world) {
      const [anna, bert] = [world.tag(), world.tag()];
      const start = (user, count) => world.workflows.limitedPerUser.runNoWait(Array.from({ length: count }, (_, n) => ({ user, n })));
      const [many, few] = [await start(anna, 4), await start(bert, 2)];
      await Promise.all(few.map((ref) => ref.output));
      await waiting(world, many, 2);
      await world.middle();
      await world.settled();
      const left = await waiting(world, many, 2);
      expectEqual(left.map(({ status }) => status), ["QUEUED", "QUEUED"], "the statuses of those over the limit");
      await cancelAll(world, left);
      expectEqual([world.signals.notes(`${anna}.ran`).length, world.signals.notes(`${bert}.ran`).length], [2, 2], "the executions for each user");
    },
  },
];
