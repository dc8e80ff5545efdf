// Which worker gets a task: labels, pausing, draining, dying.

import { expect, expectEqual } from "../expect.mjs";

/** The server gives a worker up 30 s after its last heartbeat, and only then somebody else gets its task. */
const LEASE_PATIENCE = 2;
const RUNS = 5;

export const workers = [
  {
    name: "workers: labels decide who may and who should",
    async run(world) {
      const tag = world.tag();
      const { southOnly, bigOnly, ratherNorth, anywhere, moves } = world.workflows;
      await world.worker("placed-north", "placed", { labels: { place: "north", memory: 64 } });
      await world.worker("placed-south", "placed", { labels: { place: "south", memory: 512 } });
      const places = async (task, input = {}, options = {}) => {
        const refs = await task.runNoWait(Array.from({ length: RUNS }, () => input), options);
        return Promise.all(refs.map(async (ref) => (await ref.output).place));
      };
      const all = (place) => Array(RUNS).fill(place);
      expectEqual(await places(southOnly), all("south"), "where what must be in the south runs");
      const held = await southOnly.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      world.go(tag);
      expectEqual((await held.output).place, "south", "where the held one runs");
      // The labels of both were told only once, before the middle.
      expectEqual(await places(bigOnly), all("south"), "where what needs memory runs");
      expectEqual(await places(anywhere, {}, { desiredWorkerLabels: { place: { value: "north", required: true } } }), all("north"), "where a run that asks for the north runs");
      await world.eventually("what had rather be in the north runs there", async () => (await places(ratherNorth)).every((place) => place === "north"));
      const { place } = await moves.run({ to: "west" });
      expectEqual(place, "west", "the new label of the worker in the south");
      expectEqual(await places(anywhere, {}, { desiredWorkerLabels: { place: { value: "west", required: true } } }), all("west"), "where a run that asks for the west runs");
    },
  },
  {
    name: "workers: a paused one gets nothing until it may go on",
    async run(world) {
      const { hatchet } = world;
      const [a, b] = [await world.worker("pausable-a", "pausable"), await world.worker("pausable-b", "pausable")];
      const whoWorks = async () => {
        const refs = await world.workflows.pausable.runNoWait(Array.from({ length: RUNS }, () => ({})));
        return Promise.all(refs.map(async (ref) => (await ref.output).worker));
      };
      await hatchet.workers.pause(a.id);
      expectEqual([await hatchet.workers.isPaused(a.id), await hatchet.workers.isPaused(b.id)], [true, false], "who is paused");
      expectEqual(await whoWorks(), Array(RUNS).fill(b.name), "who works while the first is paused");
      await world.middle();
      expectEqual(await hatchet.workers.isPaused(a.id), true, "whether the first is still paused");
      expectEqual(await whoWorks(), Array(RUNS).fill(b.name), "who works while the first is still paused");
      await hatchet.workers.unpause(a.id);
      await hatchet.workers.pause(b.id);
      expectEqual(await whoWorks(), Array(RUNS).fill(a.name), "who works while the second is paused");
      const { rows } = await hatchet.workers.list();
      expectEqual(rows.filter(({ metadata }) => metadata.id === b.id).map(({ name, status }) => [name, status]), [[b.name, "PAUSED"]], "the second in the list");
    },
  },
  {
    name: "workers: a stopped one finishes what it has, and gets nothing new",
    async run(world) {
      const tag = world.tag();
      const a = await world.worker("drained-a", "drained");
      const ref = await world.workflows.drained.runNoWait({ tag, hold: true });
      await world.signals.noted(`${tag}.started`);
      await world.middle();
      const stopped = a.end("SIGTERM");
      await world.eventually("the stopped worker is paused or gone", async () => (await world.hatchet.workers.get(a.id)).status !== "ACTIVE");
      const b = await world.worker("drained-b", "drained");
      const others = await world.workflows.drained.runNoWait(Array.from({ length: RUNS }, () => ({})));
      expectEqual(await Promise.all(others.map(async (other) => (await other.output).worker)), Array(RUNS).fill(b.name), "who works while the first drains");
      world.go(tag);
      expectEqual(await ref.output, { worker: a.name, attempt: 0 }, "the output of what the first had");
      expectEqual(await stopped, 0, "the exit code of the first");
      world.executed(world.signals.notes(`${tag}.started`), ["0"], "the attempts");
    },
  },
  {
    name: "workers: the task of a killed one goes to another",
    patience: LEASE_PATIENCE,
    async run(world) {
      const tag = world.tag();
      const a = await world.worker("doomed-a", "doomed");
      // No retries in its definition: that a worker dies is not the task's fault.
      const ref = await world.workflows.doomed.runNoWait({ tag });
      await world.signals.noted(`${tag}.started`);
      const b = await world.worker("doomed-b", "doomed");
      expectEqual(await a.end("SIGKILL"), "SIGKILL", "how the first ended");
      await world.middle();
      expectEqual(await ref.output, { worker: b.name }, "the output");
      expectEqual(world.signals.notes(`${tag}.started`), [a.name, b.name], "who began it");
      const { status } = await world.hatchet.workers.get(a.id);
      expect(status === "INACTIVE", `the killed worker should be INACTIVE, not ${status}`);
    },
  },
];
