// The published TypeScript SDK, unmodified, against a `mainspring dev` process.
//
// node run.mjs --binary PATH [--crash] [--only WORD] [--packages DIR] [--keep]
//
// Plain, the checks ask whether each feature does what it should. With --crash they ask the same with a server that is
// killed in the middle of each check and started again: clients and workers must find back by themselves.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { cancelling } from "./checks/cancelling.mjs";
import { children } from "./checks/children.mjs";
import { events } from "./checks/events.mjs";
import { failing } from "./checks/failing.mjs";
import { graphs } from "./checks/graphs.mjs";
import { limits } from "./checks/limits.mjs";
import { output } from "./checks/output.mjs";
import { queueing } from "./checks/queueing.mjs";
import { results } from "./checks/results.mjs";
import { runs } from "./checks/runs.mjs";
import { timeouts } from "./checks/timeouts.mjs";
import { workers } from "./checks/workers.mjs";
import { Expected } from "./expect.mjs";
import { installed } from "./packages.mjs";
import { Server } from "./server.mjs";
import { World } from "./world.mjs";

const CHECKS = [...results, ...graphs, ...failing, ...timeouts, ...cancelling, ...children, ...events, ...output, ...runs, ...queueing, ...workers, ...limits];
const PATIENCE_PLAIN_MS = 60_000;
const PATIENCE_CRASH_MS = 120_000;

const { values: options } = parseArgs({
  options: {
    binary: { type: "string" },
    crash: { type: "boolean", default: false },
    only: { type: "string", default: "" },
    packages: { type: "string" },
    keep: { type: "boolean", default: false },
  },
});
if (!options.binary) {
  console.error("which server? node run.mjs --binary PATH [--crash] [--only WORD] [--packages DIR] [--keep]");
  process.exit(2);
}

// Whoever stops the test stops its processes too: they go when this one exits.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));
// The SDK lets errors of its streams escape; they belong to the check that runs, and must not end the others.
const escaped = [];
process.on("unhandledRejection", (reason) => escaped.push(reason));

process.exit(await main());

async function main() {
  process.env.SDK_PACKAGES_DIR = await installed(options.packages);
  const scratch = await mkdtemp(join(tmpdir(), "mainspring-sdk-typescript-"));
  const server = new Server(options.binary, scratch);
  const failed = [];
  let passed = 0;
  let world = null;
  try {
    await server.start();
    const token = await server.token();
    Object.assign(process.env, { HATCHET_CLIENT_TOKEN: token, HATCHET_CLIENT_TLS_STRATEGY: "none" });
    const sdk = await import("./sdk.mjs");
    const { declare } = await import("./workflows.mjs");
    world = new World({ server, scratch, crashing: options.crash, sdk, declare, token });
    for (const check of CHECKS.filter(({ name }) => name.includes(options.only))) {
      const began = Date.now();
      const fault = await attempt(world, check);
      const took = `${((Date.now() - began) / 1_000).toFixed(1)} s`;
      if (fault) failed.push(`${check.name}: ${fault.split("\n")[0]}`);
      else passed += 1;
      console.log(fault ? `FAILED ${check.name} (${took})\n       ${fault.replaceAll("\n", "\n       ")}` : `ok     ${check.name} (${took})`);
    }
  } catch (error) {
    console.log(`FAILED to begin: ${error.stack ?? error}`);
    failed.push(`beginning: ${String(error).split("\n")[0]}`);
  } finally {
    await (world ?? { close: () => server.end("SIGKILL") }).close();
  }
  console.log(`${passed} passed, ${failed.length} failed`);
  // One line each, which `cargo xtask sdk` says once more at its end.
  for (const one of failed) console.log(`failed: ${one}`);
  if (passed + failed.length === 0) console.log("nothing was checked");
  if (failed.length || options.keep) console.log(`the logs are in ${scratch}`);
  else await rm(scratch, { recursive: true, force: true, maxRetries: 5 });
  return failed.length || passed === 0 ? 1 : 0;
}

/** Runs one check; gives what is wrong, or null. */
async function attempt(world, check) {
  const sizes = new Map();
  escaped.length = 0;
  let fault = null;
  try {
    await world.begin();
    for (const [name, logged] of world.logs()) sizes.set(name, await logged.logSize());
    const patienceMs = (world.crashing ? PATIENCE_CRASH_MS : PATIENCE_PLAIN_MS) * (check.patience ?? 1);
    await inTime(check.run(world), patienceMs);
    if (escaped.length) throw new Expected(`the SDK let errors escape: ${escaped.join("; ")}`);
  } catch (error) {
    fault = error instanceof Expected ? error.message : Array.isArray(error) ? `a run failed: ${error.join("; ")}` : (error.stack ?? String(error));
    for (const [name, logged] of world.logs()) {
      const words = await logged.lastWords(sizes.get(name) ?? 0);
      if (words) fault += `\n${name}:\n  ${words.replaceAll("\n", "\n  ")}`;
    }
  }
  const broken = await world.end();
  return fault ?? broken;
}

async function inTime(running, patienceMs) {
  let timer = null;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Expected(`it was not done after ${patienceMs / 1_000} s`)), patienceMs);
  });
  // When it is late, what it still throws has nobody to go to.
  running.catch(() => {});
  try {
    await Promise.race([running, late]);
  } finally {
    clearTimeout(timer);
  }
}
