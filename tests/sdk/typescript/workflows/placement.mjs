// Tasks that tell which worker ran them: labels, pausing, draining, dying.

import { WorkerLabelComparator } from "../sdk.mjs";

export function placement({ hatchet, signals, held, patient }) {
  const place = async (input, ctx) => {
    if (input.tag) await held(input, ctx);
    return { place: ctx.worker.labels().place };
  };
  const southOnly = hatchet.task({ name: "south-only", ...patient, desiredWorkerLabels: { place: { value: "south", required: true } }, fn: place });
  const bigOnly = hatchet.task({
    name: "big-only",
    ...patient,
    desiredWorkerLabels: { memory: { value: 100, required: true, comparator: WorkerLabelComparator.GREATER_THAN } },
    fn: place,
  });
  const ratherNorth = hatchet.task({
    name: "rather-north",
    ...patient,
    desiredWorkerLabels: { place: { value: "north", weight: 200 }, memory: { value: 100, weight: 10, comparator: WorkerLabelComparator.GREATER_THAN } },
    fn: place,
  });
  const anywhere = hatchet.task({ name: "anywhere", ...patient, fn: place });
  const moves = hatchet.task({
    name: "moves",
    ...patient,
    desiredWorkerLabels: { place: { value: "south", required: true } },
    fn: async (input, ctx) => {
      await ctx.worker.upsertLabels({ ...ctx.worker.labels(), place: input.to });
      return { place: ctx.worker.labels().place };
    },
  });

  const name = process.argv[2];
  const drained = hatchet.task({
    name: "drained",
    ...patient,
    fn: async (input, ctx) => {
      if (input.hold) await held(input, ctx);
      return { worker: name, attempt: ctx.retryCount() };
    },
  });
  const pausable = hatchet.task({ name: "pausable", ...patient, fn: async () => ({ worker: name }) });

  const doomed = hatchet.task({
    name: "doomed",
    ...patient,
    fn: async (input, ctx) => {
      signals.note(`${input.tag}.started`, name);
      if (signals.notes(`${input.tag}.started`).length === 1) await signals.noted(`${input.tag}.never`);
      return { worker: name };
    },
  });

  return { placed: { southOnly, bigOnly, ratherNorth, anywhere, moves }, drained: { drained }, pausable: { pausable }, doomed: { doomed } };
}
