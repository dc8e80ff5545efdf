// The published TypeScript SDK of MCP, unmodified, lists and reads our tools: node run.mjs --catalogue BIN --packages DIR
//
// BIN is the example `catalogue` of crates/mcp, DIR is where the SDK is installed, exactly as locked.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const HERE = dirname(fileURLToPath(import.meta.url));
const SDK = "@modelcontextprotocol/sdk";
const NAMED = ["calendar.look", "gmail.label", "hotel.book", "money.refund"];

const { values: options } = parseArgs({ options: { catalogue: { type: "string" }, packages: { type: "string" } } });
if (!options.catalogue || !options.packages) {
  console.error("node run.mjs --catalogue BIN --packages DIR");
  process.exit(2);
}
await install(options.packages);
const require = createRequire(pathToFileURL(join(options.packages, "package.json")));
const { Client } = await import(pathToFileURL(require.resolve(`${SDK}/client/index.js`)));
const { StreamableHTTPClientTransport } = await import(pathToFileURL(require.resolve(`${SDK}/client/streamableHttp.js`)));

const catalogue = spawn(options.catalogue, { stdio: ["ignore", "pipe", "inherit"] });
process.on("exit", () => catalogue.kill("SIGKILL"));
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(name, () => process.exit(1));
const url = await new Promise((resolve) => createInterface({ input: catalogue.stdout }).once("line", resolve));

let failed = 0;
const checks = { lists, reads, executesNothing, shutsOut };
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}\n${error.stack}`);
  }
}
console.log(`${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);

async function connected(token, query, use) {
  const client = new Client({ name: "test", version: "1" });
  const requestInit = { headers: { authorization: `Bearer ${token}` } };
  await client.connect(new StreamableHTTPClientTransport(new URL(`${url}${query}`), { requestInit }));
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

async function lists() {
  await connected("acme", "", async (client) => {
    assert.equal(client.getServerVersion().name, "mainspring");
    const { tools } = await client.listTools();
    assert.deepEqual(tools.map((tool) => tool.name), NAMED);
    assert.equal(tools[0].annotations.readOnlyHint, true);
    assert.equal(tools[3].annotations.destructiveHint, true);
    assert.equal(tools[3]._meta["mainspring/policy"], "irreversible");
  });
  const names = await connected("acme", "?agent=trips", async (client) => (await client.listTools()).tools.map((tool) => tool.name));
  assert.deepEqual(names, NAMED.slice(0, 3));
}

async function reads() {
  await connected("trips-of-acme", "", async (client) => {
    const { resources } = await client.listResources();
    assert.equal(resources.length, 4);
    assert.equal((await client.listResourceTemplates()).resourceTemplates.length, 2);
    const read = async (uri) => JSON.parse((await client.readResource({ uri })).contents[0].text);
    const unavailable = await read("mainspring://tools/agent/trips/unavailable");
    assert.deepEqual(unavailable.tools.map((tool) => [tool.name, tool.why_not[0].code]), [["money.refund", "not_enabled"]]);
    const seen = [];
    for (let uri = resources[0].uri; uri; ) {
      const page = await read(uri);
      seen.push(...page.tools.map((tool) => tool.name));
      uri = page.next;
    }
    assert.equal(new Set(seen).size, 234);
    await assert.rejects(read("mainspring://tools/agent/other/enabled"), /another agent/);
  });
}

async function executesNothing() {
  const result = await connected("acme", "", (client) => client.callTool({ name: "money.refund", arguments: { subject: "x" } }));
  assert.equal(result.isError, true);
  assert.match(result.content[0].text, /POST \/v1\/tools\/money\.refund\/execute/);
}

async function shutsOut() {
  await assert.rejects(connected("nonsense", "", (client) => client.listTools()), /401|Unauthorized|this token is not known/);
}

async function install(dir) {
  const wanted = JSON.parse(await readFile(join(HERE, "package.json"), "utf8")).dependencies[SDK];
  const found = await readFile(join(dir, "node_modules", SDK, "package.json"), "utf8").then((text) => JSON.parse(text).version, () => null);
  if (found === wanted) return;
  await mkdir(dir, { recursive: true });
  for (const file of ["package.json", "package-lock.json"]) await copyFile(join(HERE, file), join(dir, file));
  console.log(`installing ${SDK} ${wanted} into ${dir}`);
  // No package needs its install scripts here, and a test has no business running them.
  const npm = spawnSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: dir, stdio: ["ignore", "inherit", "inherit"] });
  if (npm.status !== 0) throw new Error(`npm ci in ${dir} ended with ${npm.error ?? npm.status ?? npm.signal}`);
}
