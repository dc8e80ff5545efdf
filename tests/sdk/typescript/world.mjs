// What a check has in its hands: a client, the server, workers, and the middle.

import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Expected, expectEqual } from "./expect.mjs";
import { LoggedProcess } from "./process.mjs";
import { Signals, sleep } from "./signals.mjs";

const WORKER = fileURLToPath(new URL("./worker.mjs", import.meta.url));
const ORDINARY_SLOTS = 50;
/**
 * The SDK's worker counts the connections it lost less than 20 s after they were made. Each after the first costs it
 * ten seconds instead of five, and after twenty it gives up. Nobody's server dies that often, so it gets a successor.
 */
const CRASHES_PER_WORKER = 3;
const WORKER_READY_MAX_MS = 60_000;
const LOOK_EVERY_MS = 50;
/** How long something may take to become true; shorter than a check may take, so that it can say what it waited for. */
const PATIENCE_MS = 50_000;

class Worker extends LoggedProcess {
  constructor(name, log) {
    super(log);
    this.name = name;
    this.id = null;
  }

  async start({ group, slots, labels }, env) {
    const child = this.launch(WORKER, [this.name, group, String(slots), JSON.stringify(labels)], { env, channel: true });
    const ready = new Promise((resolve) => child.on("message", (message) => resolve(message)));
    const first = await Promise.race([ready, this.ended(), sleep(WORKER_READY_MAX_MS)]);
    if (!first?.id) throw new Error(`the worker ${this.name} did not become ready:\n${await this.lastWords()}`);
    this.id = first.id;
  }
}

export class World {
  #scratch;
  #crashing;
  #token;
  #ordinary = null;
  #special = [];
  #tags = [];
  #middles = 0;
  #crashesSeen = 0;

  /** `sdk` is the loaded module: it can only be loaded once it is known where it is installed. */
  constructor({ server, scratch, crashing, sdk, declare, token }) {
    this.server = server;
    this.sdk = sdk;
    this.signals = new Signals(join(scratch, "signals"), PATIENCE_MS);
    this.#scratch = scratch;
    this.#crashing = crashing;
    this.#token = token;
    this.hatchet = sdk.connect({ logger: clientLog(join(scratch, "client.log")) });
    Object.assign(this, declare(this.hatchet, this.signals));
  }

  get crashing() {
    return this.#crashing;
  }

  /** A name for one run's signals and metadata. Everybody still held under it is let go when the check is over. */
  tag() {
    const tag = randomUUID().slice(0, 13);
    this.#tags.push(tag);
    return tag;
  }

  go(tag) {
    this.signals.note(`${tag}.go`);
  }

  /** Takes that back: whoever comes now is held again. */
  stay(tag) {
    this.signals.forget(`${tag}.go`);
  }

  /** Called in the middle of each check, with something in flight. With --crash, the server dies here and comes back. */
  async middle() {
    this.#middles += 1;
    if (!this.#crashing) return;
    this.#crashesSeen += 1;
    await this.server.crash();
  }

  /** Waits until the ordinary worker takes work: after a crash its SDK waits five seconds before it listens again. */
  async settled() {
    expectEqual(await this.workflows.add.run({ a: 1, b: 1 }), { sum: 2, text: null }, "the result of a task after the middle");
  }

  /** Polls until `look` gives something truthy. Errors count as "not yet": reads are not retried by the SDK. */
  async eventually(what, look) {
    const end = Date.now() + PATIENCE_MS;
    let last = null;
    for (;;) {
      try {
        const found = await look();
        if (found) return found;
        last = found;
      } catch (error) {
        last = error;
      }
      if (Date.now() > end) throw new Expected(`it should have come to pass: ${what} (last: ${last?.message ?? JSON.stringify(last)})`);
      await sleep(LOOK_EVERY_MS);
    }
  }

  /** Waits until the run has this status, and gives its details. */
  async status(run, wanted) {
    let last = null;
    return this.eventually(`the run is ${wanted}`, async () => {
      const details = await this.hatchet.runs.getDetails(run);
      if (details.status !== last) last = details.status;
      if (details.status === wanted) return details;
      throw new Error(`its status is ${last}`);
    });
  }

  /** In plain mode exactly as often; after a crash, work may have been done once more. */
  executed(lines, wanted, what) {
    if (this.#crashing && lines.length > wanted.length) expectEqual([...new Set(lines)], [...new Set(wanted)], what);
    else expectEqual(lines, wanted, what);
  }

  /** A worker for one check, stopped after it. */
  async worker(name, group, { slots = 10, labels = {} } = {}) {
    const worker = new Worker(name, join(this.#scratch, `worker-${name}.log`));
    this.#special.push(worker);
    await worker.start({ group, slots, labels }, this.#environment());
    return worker;
  }

  get ordinaryWorkerId() {
    return this.#ordinary.id;
  }

  /** What must be true before each check, whatever the one before has left. */
  async begin() {
    this.#middles = 0;
    if (!this.server.alive) await this.server.start();
    if (this.#crashesSeen >= CRASHES_PER_WORKER) await this.#ordinary?.end("SIGKILL");
    if (this.#ordinary?.alive) return;
    this.#crashesSeen = 0;
    const worker = new Worker("ordinary", join(this.#scratch, "worker-ordinary.log"));
    await worker.start({ group: "ordinary", slots: ORDINARY_SLOTS, labels: { place: "home" } }, this.#environment());
    this.#ordinary = worker;
  }

  /** Lets everybody go who is still held, and stops the workers of the check. Gives what is wrong with the check itself. */
  async end() {
    for (const tag of this.#tags.splice(0)) this.go(tag);
    for (const worker of this.#special.splice(0)) await worker.end("SIGKILL");
    if (!this.#ordinary?.alive) return "the ordinary worker did not survive it";
    return this.#middles === 1 ? null : `the check has ${this.#middles} middles instead of one`;
  }

  async close() {
    await this.end();
    await this.#ordinary?.end("SIGKILL");
    await this.server.end("SIGKILL");
  }

  /** Everybody with a log, for the report on a failure. */
  logs() {
    return [["server", this.server], ...(this.#ordinary ? [["ordinary worker", this.#ordinary]] : []), ...this.#special.map((worker) => [`worker ${worker.name}`, worker])];
  }

  #environment() {
    return { HATCHET_CLIENT_TOKEN: this.#token, HATCHET_CLIENT_TLS_STRATEGY: "none", HATCHET_CLIENT_LOG_LEVEL: "WARN", SIGNALS_DIR: join(this.#scratch, "signals") };
  }
}

/** The SDK's own words go to a file: while the server is dead it has much to say, and it is right. */
function clientLog(file) {
  return (context) => {
    const line = (level) => (message, error) => appendFileSync(file, `${level} ${context}: ${message}${error ? ` ${error}` : ""}\n`);
    return { debug: () => {}, info: line("info"), green: line("info"), warn: line("warn"), error: line("error"), util: () => {} };
  };
}
