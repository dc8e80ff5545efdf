// A `mainspring dev` process under test: started, killed, started again on the same port and directory.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";

const READY_MAX_MS = 30_000;
const LOOK_EVERY_MS = 20;

/** Servers that run: none may outlive the test, however that ends. */
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

export class Server {
  #binary;
  #dir;
  #log;
  #environment;
  #port = 0;
  #process = null;
  /** The address it printed last, with the code that signs a browser in. */
  address = null;

  constructor(binary, dir, environment) {
    this.#binary = binary;
    this.#dir = join(dir, "data");
    this.#log = join(dir, "server.log");
    this.#environment = environment;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Starts it and waits until it prints its address. */
  async start() {
    this.#port ||= await freePort();
    const log = openSync(this.#log, "a");
    const before = (await this.#printed()).length;
    const args = ["dev", "--listen", `127.0.0.1:${this.#port}`, "--dir", this.#dir];
    const started = spawn(this.#binary, args, { env: { ...process.env, ...this.#environment }, stdio: ["ignore", log, log] });
    this.#process = started;
    running.add(started);
    started.on("exit", () => running.delete(started));
    closeSync(log);
    let fault = null;
    started.on("error", (error) => (fault = error));
    const end = Date.now() + READY_MAX_MS;
    for (;;) {
      const address = /Open this\s+(\S+)/.exec((await this.#printed()).slice(before))?.[1];
      if (address) {
        this.address = address;
        return;
      }
      if (fault || started.exitCode !== null || Date.now() > end) {
        throw new Error(`the server did not become ready (${fault ?? started.exitCode ?? "too slow"}):\n${await this.lastWords()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  }

  /** SIGKILL: it gets to do nothing more. */
  async kill() {
    const child = this.#process;
    this.#process = null;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  /** How often the example agent's slow tool was really called. */
  async toolCalls() {
    const text = await readFile(join(this.#dir, "orders-agent", "side-effects.jsonl"), "utf8").catch(() => "");
    return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  }

  async lastWords() {
    return (await this.#printed()).split("\n").slice(-15).join("\n");
  }

  async #printed() {
    return readFile(this.#log, "utf8").catch(() => "");
  }
}

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}
