// What a task says while it runs: stream events and log lines.

import { expectEqual } from "../expect.mjs";

/** Sent before the middle, and again after it: enough that some overtake each other, as each is a call of its own. */
const ITEMS_PER_HALF = 50;

export const output = [
  {
    name: "output: a stream arrives in order",
    async run(world) {
      const tag = world.tag();
      const { signals } = world;
      const ref = await world.workflows.streams.runNoWait({ tag, itemsPerHalf: ITEMS_PER_HALF });
      const got = [];
      const listening = (async () => {
        for await (const text of world.hatchet.runs.subscribeToStream(await ref.runId)) {
          got.push(text);
          // The second half's ticks are the sign that we listen again after the middle.
          for (const half of [0, 1]) if (text === `tick-${half}` && !signals.notes(`${tag}.listening-${half}`).length) signals.note(`${tag}.listening-${half}`);
        }
      })();
      listening.catch(() => {});
      const items = () => got.filter((text) => text.startsWith("item-"));
      await world.eventually("the first half arrived", () => new Set(items()).size === ITEMS_PER_HALF);
      await world.middle();
      signals.note(`${tag}.half-0`);
      await world.eventually("the second half arrived", () => new Set(items()).size === 2 * ITEMS_PER_HALF);
      signals.note(`${tag}.half-1`);
      const wanted = Array.from({ length: 2 * ITEMS_PER_HALF }, (_, i) => `item-${i} of ${tag}`);
      // A crash between delivering an item and acknowledging it makes the worker send that item again.
      expectEqual(world.crashing ? [...new Set(items())] : items(), wanted, "the items of the stream");
      await listening;
      expectEqual(await ref.output, { streamed: 2 * ITEMS_PER_HALF }, "the output of the task");
    },
  },
  {
    name: "output: the stream of a finished run ends",
    async run(world) {
      const ref = await world.workflows.add.runNoWait({ a: 1, b: 2 });
      await ref.output;
      await world.middle();
      const got = [];
      for await (const text of world.hatchet.runs.subscribeToStream(await ref.runId)) got.push(text);
      expectEqual(got, [], "what was streamed");
    },
  },
  {
    name: "output: log lines can be read",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.logs.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await ref.output, { lines: 4 }, "the output of the task");
      const id = await ref.runId;
      const { logs } = world.hatchet;
      const { V1LogLineLevel, V1LogLineOrderByDirection } = world.sdk;
      const ordered = { orderByDirection: V1LogLineOrderByDirection.ASC };
      const rows = await world.eventually("all lines are there", async () => {
        const list = await logs.list(id, ordered);
        return list.rows.length >= 4 && list.rows;
      });
      const wanted = [[`first ${tag}`, "INFO"], ["second: careful", "WARN"], ["third: broken", "ERROR"], ["fourth: detail", "DEBUG"]];
      expectEqual(rows.map(({ message, level }) => [message, level]), wanted, "the lines");
      const loud = await logs.list(id, { ...ordered, levels: [V1LogLineLevel.WARN, V1LogLineLevel.ERROR] });
      expectEqual(loud.rows.map(({ level }) => level), ["WARN", "ERROR"], "the levels of the warnings and errors");
      const found = await logs.list(id, { search: "careful" });
      expectEqual(found.rows.map(({ message }) => message), ["second: careful"], "the lines with 'careful'");
      const backwards = await logs.list(id, { orderByDirection: V1LogLineOrderByDirection.DESC, limit: 1 });
      expectEqual(backwards.rows.map(({ message }) => message), ["fourth: detail"], "the last line");
    },
  },
];
