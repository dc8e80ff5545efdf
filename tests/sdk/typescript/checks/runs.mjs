// Looking at runs, and running them again.

import { expectEqual, failureOf, messageIn } from "../expect.mjs";

export const runs = [
  {
    name: "runs: details, before and after the end",
    async run(world) {
      const tag = world.tag();
      const { hatchet } = world;
      const ref = await world.workflows.diamond.runNoWait({ tag, n: 2 }, { additionalMetadata: { tag } });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      const before = await world.eventually("the details say that 'first' is done", async () => {
        const details = await hatchet.runs.getDetails(ref);
        return details.taskRuns.first?.status === "COMPLETED" && details;
      });
      expectEqual([before.status, before.done, before.input, before.additionalMetadata], ["RUNNING", false, { tag, n: 2 }, { tag }], "status, end, input and metadata of the running run");
      expectEqual([before.taskRuns.left.status, before.taskRuns.left.output], ["RUNNING", null], "status and output of the running task");
      expectEqual((await hatchet.runs.get_status(ref)), "RUNNING", "the status asked for alone");
      world.go(tag);
      await ref.output;
      const after = await world.status(ref, "COMPLETED");
      expectEqual([after.done, after.input], [true, { tag, n: 2 }], "end and input of the finished run");
      expectEqual(Object.keys(after.taskRuns).sort(), ["first", "join", "left", "right"], "the tasks");
      expectEqual([after.taskRuns.join.readableId, after.taskRuns.join.output], ["join", { sum: 23 }], "name and output of the last task");
      expectEqual((await hatchet.runs.get_status(ref)), "COMPLETED", "the status asked for alone, after the end");
      const { run, tasks, shape } = await hatchet.runs.get(ref);
      expectEqual([run.metadata.id, run.status, run.additionalMetadata], [await ref.runId, "COMPLETED", { tag }], "id, status and metadata of the run");
      expectEqual(tasks.map(({ status }) => status), Array(4).fill("COMPLETED"), "the statuses of the tasks");
      expectEqual(shape.map(({ taskName }) => taskName).sort(), ["first", "join", "left", "right"], "the names in the shape of the run");
      // The details of a single task can be asked for by the id of the task too.
      const join = await hatchet.runs.getDetails(after.taskRuns.join.externalId);
      expectEqual(join.taskRuns.join.output, { sum: 23 }, "the output found by the task's own id");
    },
  },
  {
    name: "runs: lists with filters",
    async run(world) {
      const tag = world.tag();
      const { hatchet, workflows } = world;
      const additionalMetadata = { tag };
      const list = async (filters) => (await hatchet.runs.list({ additionalMetadata, ...filters })).rows;
      const done = await workflows.add.runNoWait([1, 2, 3].map((a) => ({ a, b: 1 })), { additionalMetadata });
      await Promise.all(done.map((ref) => ref.output));
      const held = await workflows.add.runNoWait({ tag, a: 1, b: 1 }, { additionalMetadata });
      const graph = await workflows.diamond.runNoWait({ tag, n: 1 }, { additionalMetadata });
      await world.signals.noted(`${tag}.started`, { count: 2 });
      await world.middle();
      const ids = async (refs) => (await Promise.all(refs.map((ref) => ref.runId))).sort();
      const listed = async (filters, wanted) => {
        const expected = await ids(wanted);
        const rows = await world.eventually(`${expected.length} runs are listed`, async () => {
          const found = await list(filters);
          return found.length === expected.length && found;
        });
        expectEqual(rows.map(({ metadata }) => metadata.id).sort(), expected, `the runs listed with ${JSON.stringify(filters)}`);
      };
      await listed({}, [...done, held, graph]);
      await listed({ statuses: ["COMPLETED"] }, done);
      await listed({ statuses: ["RUNNING", "FAILED"] }, [held, graph]);
      await listed({ workflowNames: ["diamond"] }, [graph]);
      await listed({ workflowNames: ["add", "diamond"], statuses: ["RUNNING"] }, [held, graph]);
      expectEqual(await list({ additionalMetadata: { tag, other: "value" } }), [], "the runs that have other metadata too");
      expectEqual(await list({ since: new Date(Date.now() + 3_600_000) }), [], "the runs of the future");
      const pages = [...(await list({ limit: 2, offset: 0 })), ...(await list({ limit: 2, offset: 2 })), ...(await list({ limit: 2, offset: 4 }))];
      expectEqual(pages.map(({ metadata }) => metadata.id).sort(), await ids([...done, held, graph]), "the runs page by page");
      world.go(tag);
      await Promise.all([held.output, graph.output]);
      await world.eventually("all are listed as completed", async () => (await list({ statuses: ["COMPLETED"] })).length === 5);
      // Four single tasks, and the four tasks of the graph.
      await world.eventually("the tasks alone are listed", async () => (await list({ onlyTasks: true })).length === 8);
    },
  },
  {
    name: "runs: a finished run again",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.replayed.runNoWait({ tag, word: "hello" });
      expectEqual(await ref.output, { turn: 0, word: "hello" }, "the first output");
      await ref.replay();
      const again = world.hatchet.runRef(await ref.runId).output;
      again.catch(() => {});
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const { replayed } = await again;
      expectEqual(replayed.word, "hello", "the input of the second time");
      if (!world.crashing) expectEqual(replayed.turn, 1, "the turn");
      await world.status(ref, "COMPLETED");
    },
  },
  {
    name: "runs: a failed run again, and this time it works",
    async run(world) {
      const tag = world.tag();
      const ref = await world.workflows.replayed.runNoWait({ tag, failsFirst: true, word: "hello" });
      const errors = await failureOf(ref.output, "the first time");
      expectEqual(errors.map(messageIn), [`not yet ${tag}`], "the errors");
      await world.hatchet.runs.replay({ ids: [await ref.runId] });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      const { replayed } = await world.hatchet.runRef(await ref.runId).output;
      expectEqual(replayed.word, "hello", "the input of the second time");
      await world.status(ref, "COMPLETED");
    },
  },
  {
    name: "runs: a finished graph again",
    async run(world) {
      const tag = world.tag();
      // Not held the first time, so that there is something to run again.
      world.go(tag);
      const ref = await world.workflows.diamond.runNoWait({ tag, n: 3 });
      const wanted = { first: { n: 3 }, left: { n: 4 }, right: { n: 30 }, join: { sum: 34 } };
      expectEqual(await ref.output, wanted, "the first outputs");
      world.stay(tag);
      await ref.replay();
      const again = world.hatchet.runRef(await ref.runId).output;
      again.catch(() => {});
      await world.signals.noted(`${tag}.started`, { count: 2 });
      await world.middle();
      world.go(tag);
      expectEqual(await again, wanted, "the second outputs");
      world.executed(world.signals.notes(`${tag}.first`), ["", ""], "the executions of the first task");
      world.executed(world.signals.notes(`${tag}.join`), ["", ""], "the executions of the last task");
    },
  },
];
