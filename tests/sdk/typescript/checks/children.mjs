// Tasks that start other tasks.

import { expectEqual } from "../expect.mjs";

const output = (n) => ({ n, twice: n * 2 });

export const children = [
  {
    name: "children: one, several at once, and a graph",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.family.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const ten = (from) => Array.from({ length: 10 }, (_, i) => output(from + i));
      const wanted = { held: output(1), alone: output(2), graph: { one: { n: 3 }, two: { n: 4 } }, bulk: ten(10), array: ten(20) };
      expectEqual(await ref.output, wanted, "what the parent got from its children");
      const rows = await world.eventually("all children are listed", async () => {
        const list = await world.hatchet.runs.list({ parentTaskRunExternalId: await ref.runId, limit: 100 });
        return list.rows.length >= 23 && list.rows;
      });
      expectEqual(rows.length, 23, "the number of children in the list");
    },
  },
  {
    name: "children: know their index, key, parent and metadata",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.namesChildren.runNoWait({ tag }, { additionalMetadata: { colour: "red" } });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const { own, first, second } = await ref.output;
      expectEqual([first.index, first.key, first.parent], [0, null, own], "index, key and parent of the first child");
      expectEqual([second.index, second.key, second.parent], [1, "by-name", own], "index, key and parent of the second child");
      // This SDK passes on what the task says, and nothing of its own.
      expectEqual([first.metadata.colour, first.metadata.extra], ["red", "one"], "the metadata passed on to the first child");
      expectEqual(second.metadata.extra, "two", "the metadata of the second child");
    },
  },
  {
    name: "children: the same key is the same child",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.twins.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const { ids, outputs } = await ref.output;
      expectEqual(ids.map((id) => ids.indexOf(id)), [0, 0, 2, 0], "which of the four children are the same");
      expectEqual(outputs, [1, 1, 3, 1].map(output), "the outputs of the four children");
      world.executed(world.signals.notes(`${tag}.children`).sort(), ["1", "3"], "the children that were executed");
    },
  },
  {
    name: "children: a retried parent finds the child it had",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.secondTry.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await ref.output, { output: output(7) }, "the output");
      world.executed(world.signals.notes(`${tag}.children`), ["7"], "the executions of the child");
      expectEqual(new Set(world.signals.notes(`${tag}.ids`)).size, 1, "the number of different children");
    },
  },
  {
    name: "children: a parent can catch the failure of a child",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.catches.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await ref.output, { caught: ["child 5 is broken"] }, "what the parent caught");
    },
  },
  {
    name: "children: sticky ones run on the worker of their parent",
    async run(world) {
      const tag = world.tag();
      const workers = [await world.worker("sticky-a", "sticky"), await world.worker("sticky-b", "sticky")];
      const parents = await world.workflows.stickyParent.runNoWait([{ tag }, { tag }, { tag }, { tag }]);
      await world.signals.noted(`${tag}.started`, { count: 4 });
      await world.middle();
      world.go(tag);
      for (const { worker, children: placed } of await Promise.all(parents.map((ref) => ref.output))) {
        expectEqual(workers.some(({ id }) => id === worker), true, "whether the parent ran on one of the two workers");
        expectEqual(placed, Array(6).fill(worker), "the workers of the children");
      }
    },
  },
];
