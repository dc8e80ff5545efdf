// The pages in a real browser: `cargo xtask browser` starts this with Node, without any package.
//
// Each check has a server, a directory and a browser profile of its own. `ONLY=word` runs the checks with that word in
// their names. `PROVE=1` asks the question behind the tests: it breaks the pages or the server in each way a check says
// it would notice, and fails if the check passes all the same.

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";

import { chat } from "./checks/chat.mjs";
import { crash } from "./checks/crash.mjs";
import { interrupts } from "./checks/interrupts.mjs";
import { looks } from "./checks/looks.mjs";
import { publish } from "./checks/publish.mjs";
import { runs } from "./checks/runs.mjs";
import { sessions } from "./checks/sessions.mjs";
import { tools } from "./checks/tools.mjs";
import { webhooks } from "./checks/webhooks.mjs";
import { Chromium } from "./chromium.mjs";
import { Expected } from "./expect.mjs";
import { Server } from "./server.mjs";

/** How long a page may take to show what a check waits for: far longer than it should, so that a busy machine is no failure. */
const PATIENCE_MS = 60_000;
/** The same while proving, where waiting in vain is what usually happens. */
const PROVING_PATIENCE_MS = 8_000;

const CHECKS = [...chat, ...interrupts, ...sessions, ...crash, ...runs, ...tools, ...webhooks, ...publish, ...looks];

const binary = wanted("MAINSPRING_BINARY");
const chromium = wanted("CHROMIUM");
const scratch = wanted("SCRATCH_DIR");
const screenshots = wanted("SCREENSHOTS_DIR");
const proving = process.env.PROVE === "1";

// Whoever stops the test stops its servers too: they go when this process exits.
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
process.exitCode = await main();

async function main() {
  await mkdir(scratch, { recursive: true });
  await mkdir(screenshots, { recursive: true });
  const checks = CHECKS.filter((check) => check.name.includes(process.env.ONLY ?? ""));
  let passed = 0;
  const failed = [];
  const note = (name, fault, began) => {
    const took = `${((Date.now() - began) / 1_000).toFixed(1)} s`;
    if (!fault) passed += 1;
    else failed.push(`${name}: ${fault.split("\n")[0]}`);
    console.log(fault ? `FAILED ${name} (${took})\n       ${fault.replaceAll("\n", "\n       ")}` : `ok     ${name} (${took})`);
  };
  for (const check of checks) {
    if (!proving) {
      const began = Date.now();
      note(check.name, await attempt(check, null), began);
      continue;
    }
    if (!check.breaks?.length) note(`${check.name}: says what it would notice`, "it names no way to break what it checks", Date.now());
    for (const broken of check.breaks ?? []) {
      const began = Date.now();
      const fault = await attempt(check, broken);
      const useless = (broken.patches ?? []).find((patch) => !patch.applied);
      if (useless) {
        note(`${check.name}: can be broken so that ${broken.why}`, `${useless.file} does not hold ${JSON.stringify(useless.from)} (any more)`, began);
        continue;
      }
      note(`${check.name}: notices if ${broken.why}`, fault ? null : "it passed all the same", began);
      if (fault) console.log(`       it says: ${fault.split("\n").slice(0, 2).join(" ")}`);
    }
  }
  if (!proving) console.log(`pictures are in ${screenshots}`);
  if (failed.length) console.log(`failed:\n  ${failed.join("\n  ")}`);
  console.log(`${passed} passed, ${failed.length} failed`);
  return failed.length ? 1 : 0;
}

/** Runs one check; gives what is wrong, or null. */
async function attempt(check, broken) {
  const dir = await mkdtemp(join(scratch, "check-"));
  const patienceMs = broken ? PROVING_PATIENCE_MS : PATIENCE_MS;
  // What stands outside and has to be there before the server.
  const outside = await check.outside?.();
  const server = new Server(binary, dir, { ...check.environment, ...outside?.environment, ...broken?.environment });
  let browser = null;
  let fault = null;
  try {
    await server.start();
    browser = await Chromium.start(chromium, join(dir, "profile"), { patienceMs, patches: broken?.patches ?? [] });
    const pictures = broken ? null : screenshots;
    await check.run({ server, browser, pictures, outside, open: (options) => browser.page(options), broken: broken?.flag });
    const faults = browser.faults();
    if (faults.length) throw new Expected(`the browser complained:\n${faults.join("\n")}`);
  } catch (error) {
    fault = error instanceof Expected ? error.message : (error.stack ?? String(error));
    if (!broken) {
      for (const line of (await browser?.describe().catch(() => null)) ?? []) fault += `\n${line}`;
      await browser?.pictureAll(join(screenshots, `failed-${check.name.replaceAll(/\W+/g, "-")}`)).catch(() => {});
      fault += `\nthe server's last words:\n${await server.lastWords()}`;
    }
  } finally {
    await browser?.close();
    await server.kill();
    outside?.close();
    await rm(dir, { recursive: true, force: true, maxRetries: 5 });
  }
  return fault;
}

function wanted(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run this through 'cargo xtask browser'`);
  return value;
}
