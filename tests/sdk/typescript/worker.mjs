// A worker process: `node worker.mjs NAME GROUP SLOTS LABELS`, where LABELS is a JSON object.
//
// It is an ordinary Hatchet worker. The only thing it knows about the test is the directory with the signals.

import { connect } from "./sdk.mjs";
import { Signals } from "./signals.mjs";
import { declare, groupOf } from "./workflows.mjs";

const [name, group, slots, labels] = process.argv.slice(2);
// The channel closes when the test is gone: nothing may keep running after it.
process.on("disconnect", () => process.exit(1));

const hatchet = connect();
const workflows = groupOf(group, declare(hatchet, new Signals(process.env.SIGNALS_DIR)));
const worker = await hatchet.worker(name, { workflows, slots: Number(slots), labels: JSON.parse(labels) });
const stopped = worker.start();
stopped.catch((error) => {
  console.error("the worker could not go on:", error);
  process.exit(1);
});
await worker.waitUntilReady(30_000);
// The public interface does not tell the worker's id outside of a task.
process.send({ id: worker._internal.workerId });
await stopped;
