// Orders something and waits for the result: `node run.mjs`, while the worker runs.

import { HatchetClient } from "@hatchet-dev/typescript-sdk";

const hatchet = HatchetClient.init();
const input = { city: "Lisbon", items: [{ count: 2, each: 20 }, { count: 1, each: 5 }] };
const run = await hatchet.runNoWait("order", input);
console.log("started run", await run.runId);
console.log(await run.output);
process.exit(0);
