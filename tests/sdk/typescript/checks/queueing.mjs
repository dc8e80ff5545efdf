// Who is next, and what frees a place.

import { expectEqual } from "../expect.mjs";

export const queueing = [
  {
    name: "queueing: the urgent ones first",
    async run(world) {
      const tag = world.tag();
      const { Priority } = world.sdk;
      await world.worker("narrow-priority", "narrow", { slots: 1 });
      const start = (label, priority) => world.workflows.queued.runNoWait({ tag, label }, priority ? { priority } : {});
      const refs = [await start("first")];
      await world.signals.noted(`${tag}.started`);
      refs.push(await start("low 1", Priority.LOW), await start("low 2", Priority.LOW));
      refs.push(await start("medium 1", Priority.MEDIUM), await start("high 1", Priority.HIGH));
      refs.push(await start("medium 2", Priority.MEDIUM), await start("high 2", Priority.HIGH));
      await world.middle();
      world.go(tag);
      const outputs = await Promise.all(refs.map((ref) => ref.output));
      expectEqual(outputs.slice(1).map(({ priority }) => priority), [1, 1, 2, 3, 2, 3], "the priorities the tasks know of");
      world.executed(world.signals.notes(`${tag}.order`), ["first", "high 1", "high 2", "medium 1", "medium 2", "low 1", "low 2"], "the order");
    },
  },
  {
    name: "queueing: a workflow can be urgent by default",
    async run(world) {
      const tag = world.tag();
      await world.worker("narrow-default", "narrow", { slots: 1 });
      const first = await world.workflows.queued.runNoWait({ tag, label: "first" });
      await world.signals.noted(`${tag}.started`);
      const urgent = await world.workflows.urgentByDefault.runNoWait([{ tag, label: "urgent 1" }, { tag, label: "urgent 2" }]);
      const low = await world.workflows.urgentByDefault.runNoWait({ tag, label: "not this one" }, { priority: 1 });
      await world.middle();
      world.go(tag);
      await first.output;
      expectEqual((await Promise.all([...urgent, low].map((ref) => ref.output))).map(({ priority }) => priority), [3, 3, 1], "the priorities the tasks know of");
      world.executed(world.signals.notes(`${tag}.order`), ["first", "urgent 1", "urgent 2", "not this one"], "the order");
    },
  },
  {
    name: "queueing: a task that gives its slot back makes place for another",
    async run(world) {
      const tag = world.tag();
      await world.worker("narrow-release", "narrow", { slots: 1 });
      const first = await world.workflows.letsGo.runNoWait({ tag, label: "first" });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      const second = await world.workflows.letsGo.runNoWait({ tag, label: "second" });
      expectEqual(await second.output, { label: "second" }, "the output of the second, while the first still runs");
      world.go(tag);
      expectEqual(await first.output, { label: "first" }, "the output of the first");
      world.executed(world.signals.notes(`${tag}.started`), ["0"], "the attempts of the first");
    },
  },
];
