// Tasks that start others: one, many, the same twice, ones that fail, ones on the same worker.

export function children({ hatchet, signals, held, patient }) {
  const child = hatchet.task({
    name: "child",
    ...patient,
    fn: async (input, ctx) => {
      if (input.noteAs) signals.note(input.noteAs, String(input.n));
      if (input.hold) await held(input, ctx);
      if (input.fails) throw new Error(`child ${input.n} is broken`);
      return { n: input.n, twice: input.n * 2 };
    },
  });

  const childAbout = hatchet.task({
    name: "child-about",
    fn: async (_, ctx) => ({
      index: ctx.childIndex() ?? null,
      key: ctx.childKey() ?? null,
      parent: ctx.parentWorkflowRunId() ?? null,
      metadata: ctx.additionalMetadata(),
    }),
  });

  const childGraph = hatchet.workflow({ name: "child-graph", taskDefaults: patient });
  const one = childGraph.task({ name: "one", fn: async (input) => ({ n: input.n }) });
  childGraph.task({ name: "two", parents: [one], fn: async (_, ctx) => ({ n: (await ctx.parentOutput(one)).n + 1 }) });

  const family = hatchet.task({
    name: "family",
    ...patient,
    fn: async (input, ctx) => {
      const held = await child.run({ n: 1, hold: true, tag: input.tag });
      const alone = await ctx.runChild(child, { n: 2 });
      const graph = await childGraph.run({ n: 3 });
      const bulk = await ctx.bulkRunChildren(Array.from({ length: 10 }, (_, i) => ({ workflow: child, input: { n: 10 + i } })));
      const array = await child.run(Array.from({ length: 10 }, (_, i) => ({ n: 20 + i })));
      return { held, alone, graph, bulk, array };
    },
  });

  const namesChildren = hatchet.task({
    name: "names-children",
    ...patient,
    fn: async (input, ctx) => {
      const first = await childAbout.run({}, { additionalMetadata: { ...ctx.additionalMetadata(), extra: "one" } });
      await held(input, ctx);
      const second = await ctx.runChild(childAbout, {}, { key: "by-name", additionalMetadata: { extra: "two" } });
      return { own: ctx.taskRunExternalId(), first, second };
    },
  });

  const twins = hatchet.task({
    name: "twins",
    ...patient,
    fn: async (input, ctx) => {
      const noteAs = `${input.tag}.children`;
      const start = (n, childKey) => child.runNoWait({ n, noteAs, tag: input.tag }, { childKey });
      const [a, b, other] = [await start(1, "same"), await start(2, "same"), await start(3, "other")];
      await held(input, ctx);
      const later = await start(4, "same");
      const ids = await Promise.all([a, b, other, later].map((ref) => ref.runId));
      // One after the other: in this SDK a second wait for the same run replaces the first, which then never ends.
      const outputs = [];
      for (const ref of [a, b, other, later]) outputs.push(await ref.output);
      return { ids, outputs };
    },
  });

  const secondTry = hatchet.task({
    name: "second-try",
    ...patient,
    retries: 1,
    fn: async (input, ctx) => {
      const ref = await child.runNoWait({ n: 7, noteAs: `${input.tag}.children` });
      const output = await ref.output;
      signals.note(`${input.tag}.ids`, await ref.runId);
      await held(input, ctx);
      if (ctx.retryCount() === 0) throw new Error("once more");
      return { output };
    },
  });

  const catches = hatchet.task({
    name: "catches",
    ...patient,
    fn: async (input, ctx) => {
      await held(input, ctx);
      try {
        return { output: await child.run({ n: 5, fails: true }) };
      } catch (errors) {
        return { caught: errors.map((error) => JSON.parse(error).message) };
      }
    },
  });

  const where = async (_, ctx) => ({ worker: ctx.worker.id() });
  const stickyChild = hatchet.task({ name: "sticky-child", ...patient, sticky: "hard", fn: where });
  const stickyParent = hatchet.task({
    name: "sticky-parent",
    ...patient,
    fn: async (input, ctx) => {
      await held(input, ctx);
      // Only these two ways carry the wish for this worker to the server; `child.run(.., { sticky: true })` does not.
      const alone = await ctx.runChild(stickyChild, {}, { sticky: true });
      const bulk = await ctx.bulkRunChildren(Array.from({ length: 5 }, () => ({ workflow: stickyChild, input: {}, options: { sticky: true } })));
      return { worker: ctx.worker.id(), children: [alone, ...bulk].map(({ worker }) => worker) };
    },
  });

  const ordinary = { child, childAbout, childGraph, family, namesChildren, twins, secondTry, catches };
  return { ordinary, sticky: { stickyChild, stickyParent } };
}
