// Workflows of several tasks: outputs of parents, conditions between them, what follows success and failure.

export function graphs({ hatchet, signals, held, patient }) {
  const diamond = hatchet.workflow({ name: "diamond", taskDefaults: patient });
  const first = diamond.task({
    name: "first",
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.first`);
      return { n: input.n };
    },
  });
  const left = diamond.task({
    name: "left",
    parents: [first],
    fn: async (input, ctx) => {
      await held(input, ctx);
      return { n: (await ctx.parentOutput(first)).n + 1 };
    },
  });
  const right = diamond.task({ name: "right", parents: [first], fn: async (_, ctx) => ({ n: (await ctx.parentOutput("first")).n * 10 }) });
  diamond.task({
    name: "join",
    parents: [left, right],
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.join`);
      return { sum: (await ctx.parentOutput(left)).n + (await ctx.parentOutput(right)).n };
    },
  });

  const branches = hatchet.workflow({ name: "branches", taskDefaults: patient });
  const draw = branches.task({
    name: "draw",
    fn: async (input, ctx) => {
      await held(input, ctx);
      return { n: input.n };
    },
  });
  const ran = async (_, ctx) => ({ ran: ctx.taskName() });
  const small = branches.task({ name: "small", parents: [draw], skipIf: [{ parent: draw, expression: "output.n > 50" }], fn: ran });
  const large = branches.task({ name: "large", parents: [draw], skipIf: [{ parent: draw, expression: "output.n <= 50" }], fn: ran });
  branches.task({ name: "waits", parents: [draw], waitFor: [{ parent: draw, expression: "output.n >= 0" }], fn: ran });
  branches.task({ name: "fragile", parents: [draw], cancelIf: [{ parent: draw, expression: "output.n > 90" }], fn: ran });
  branches.task({
    name: "chosen",
    parents: [small, large],
    fn: async (_, ctx) => {
      const outputs = [await ctx.parentOutput(small), await ctx.parentOutput(large)];
      return { ran: outputs.map((output) => output.ran ?? null), skipped: outputs.map((output) => output.skipped ?? false) };
    },
  });

  // Ends well or not as its input says, with somebody waiting for either.
  const outcome = hatchet.workflow({ name: "outcome", taskDefaults: patient });
  const attempt = outcome.task({
    name: "attempt",
    retries: 1,
    fn: async (input, ctx) => {
      await held(input, ctx);
      if (input.fails) throw new Error(`broken ${input.tag}`);
      return { fine: input.tag };
    },
  });
  outcome.onFailure({
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.on-failure`, JSON.stringify(ctx.errors()));
      return { seen: Object.keys(ctx.errors()) };
    },
  });
  outcome.onSuccess({
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.on-success`);
      return { after: (await ctx.parentOutput(attempt)).fine };
    },
  });

  return { ordinary: { diamond, branches, outcome } };
}
