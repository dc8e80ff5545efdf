// What a task gives back: its output, its metadata, what it knows about itself; one of them, and five hundred.

import { expect, expectEqual } from "../expect.mjs";

const MANY = 500;

export const results = [
  {
    name: "results: a task gives its output",
    async run(world) {
      const tag = world.tag();
      const { add } = world.workflows;
      const text = 'ümlaut "quoted" \\ 日本 🎉';
      const ref = await add.runNoWait({ tag, a: 2, b: 3, text });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await ref.output, { sum: 5, text }, "the output");
      expectEqual(await ref.output, { sum: 5, text }, "the output asked for again, when the run is long finished");
      world.executed(world.signals.notes(`${tag}.started`), ["0"], "the attempts");
    },
  },
  {
    name: "results: names keep their case, and a task without a result gives null",
    async run(world) {
      const mixed = await world.workflows.mixedCase.runNoWait({ n: 21 });
      await world.middle();
      expectEqual(await mixed.output, { twice: 42 }, "the output of the task with capital letters");
      expectEqual(await world.workflows.nothing.run({}), null, "the output of the task that returns nothing");
    },
  },
  {
    name: "results: five hundred runs started at once",
    async run(world) {
      const tag = world.tag();
      const inputs = Array.from({ length: MANY }, (_, n) => ({ n, ...(n === 0 ? { tag } : {}) }));
      const refs = await world.workflows.many.runNoWait(inputs, { additionalMetadata: { batch: tag } });
      expectEqual(refs.length, MANY, "the number of runs");
      expectEqual(new Set(await Promise.all(refs.map((ref) => ref.runId))).size, MANY, "the number of different run ids");
      const outputs = Promise.all(refs.map((ref) => ref.output));
      outputs.catch(() => {});
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual(await outputs, inputs.map(({ n }) => ({ n, twice: n * 2 })), "the outputs, in the order of the inputs");
      const { rows } = await world.hatchet.runs.list({ additionalMetadata: { batch: tag }, limit: MANY });
      expectEqual(rows.length, MANY, "the number of runs in the list");
    },
  },
  {
    name: "results: a task knows its metadata, ids, names and priority",
    async run(world) {
      const tag = world.tag();
      const additionalMetadata = { tag, colour: "red", nested: { n: 1 } };
      const ref = await world.workflows.about.runNoWait({ tag }, { additionalMetadata, priority: world.sdk.Priority.HIGH });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const about = await ref.output;
      const id = await ref.runId;
      const wanted = { metadata: additionalMetadata, workflowRunId: id, taskRunId: id, taskName: "about", workflow: "about", priority: 3 };
      expectEqual(about, wanted, "what the task knows of itself");
      const { run } = await world.hatchet.runs.get(id);
      expectEqual(run.additionalMetadata, additionalMetadata, "the metadata of the run");
    },
  },
  {
    name: "results: many runs with options of their own",
    async run(world) {
      const tag = world.tag();
      const { about } = world.workflows;
      const refs = await about.runManyNoWait([1, 2, 3].map((n) => ({ input: { tag }, opts: { additionalMetadata: { n }, priority: n } })));
      await world.signals.noted(`${tag}.started`, { count: 3 });
      await world.middle();
      world.go(tag);
      const outputs = await Promise.all(refs.map((ref) => ref.output));
      expectEqual(outputs.map(({ metadata, priority }) => [metadata, priority]), [1, 2, 3].map((n) => [{ n }, n]), "metadata and priority of each run");
      expect(new Set(outputs.map(({ taskRunId }) => taskRunId)).size === 3, "each run should have a task of its own");
    },
  },
];
