// A `mainspring dev` process under test: started, killed, started again on the same port and directory.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";

import { LoggedProcess } from "./process.mjs";
import { sleep } from "./signals.mjs";

const READY_MAX_MS = 30_000;
const LOOK_EVERY_MS = 20;

export class Server extends LoggedProcess {
  #binary;
  #dir;
  #port = 0;

  constructor(binary, scratch) {
    super(join(scratch, "server.log"));
    this.#binary = binary;
    this.#dir = join(scratch, "data");
  }

  get url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Starts it and waits until it says that it is ready. */
  async start() {
    this.#port ||= await freePort();
    this.launch(this.#binary, ["dev", "--dir", this.#dir, "--listen", `127.0.0.1:${this.#port}`], {});
    const end = Date.now() + READY_MAX_MS;
    while (!(await this.#ready())) {
      if (!this.alive || Date.now() > end) {
        throw new Error(`the server did not become ready (${this.alive ? "too slow" : await this.ended()}):\n${await this.lastWords()}`);
      }
      await sleep(LOOK_EVERY_MS);
    }
  }

  async #ready() {
    return fetch(`${this.url}/readyz`).then((answer) => answer.status === 200, () => false);
  }

  /** `kill -9`, then a new process for the same directory on the same port. */
  async crash() {
    await this.end("SIGKILL");
    await this.start();
  }

  async token() {
    return (await readFile(join(this.#dir, "keys", "dev.token"), "utf8")).trim();
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
