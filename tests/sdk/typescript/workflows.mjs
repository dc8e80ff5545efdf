// All workflows of the test, by the group of workers that offers them.
//
// A group other than "ordinary" belongs to one check, which starts the workers for it: so nobody else takes its tasks.

import { children } from "./workflows/children.mjs";
import { failures } from "./workflows/failures.mjs";
import { graphs } from "./workflows/graphs.mjs";
import { placement } from "./workflows/placement.mjs";
import { tasks } from "./workflows/tasks.mjs";

/** How long held tasks may take: longer than any check, so that only the checks about timeouts see one. */
const PATIENT = { executionTimeout: "5m", scheduleTimeout: "5m" };

/** Declares every workflow with this client; needs no server. `groups` maps a group's name to its workflows. */
export function declare(hatchet, signals) {
  const held = async (input, ctx, point = "started") => {
    signals.note(`${input.tag}.${point}`, String(ctx.retryCount()));
    await signals.noted(`${input.tag}.go`, { signal: ctx.abortController.signal });
  };
  const hands = { hatchet, signals, held, patient: PATIENT };
  const parts = [tasks(hands), graphs(hands), failures(hands), children(hands), placement(hands)];
  const groups = {};
  const workflows = {};
  for (const part of parts) {
    for (const [group, members] of Object.entries(part)) {
      groups[group] = [...(groups[group] ?? []), ...Object.values(members)];
      Object.assign(workflows, members);
    }
  }
  return { workflows, groups };
}

export function groupOf(name, { groups }) {
  if (!groups[name]) throw new Error(`there is no group ${name}, but ${Object.keys(groups).join(", ")}`);
  return groups[name];
}
