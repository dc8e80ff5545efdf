// A process under test with its output in a file: none may outlive the test, however that ends.

import { fork, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";

const LINES_SHOWN = 40;

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

export class LoggedProcess {
  #log;
  #child = null;
  #ended = Promise.resolve(null);
  #fault = null;

  constructor(log) {
    this.#log = log;
  }

  /** With a channel (for a Node program) the child ends by itself when the test is gone, even if that was killed. */
  launch(command, args, { env, channel = false }) {
    const log = openSync(this.#log, "a");
    const stdio = ["ignore", log, log, ...(channel ? ["ipc"] : [])];
    const options = { env: { ...process.env, ...env }, stdio };
    const child = channel ? fork(command, args, options) : spawn(command, args, options);
    closeSync(log);
    running.add(child);
    this.#child = child;
    this.#fault = null;
    this.#ended = new Promise((resolve) => {
      child.on("exit", (code, signal) => resolve(signal ?? code));
      child.on("error", (error) => {
        this.#fault = error;
        resolve(String(error));
      });
    }).then((how) => {
      running.delete(child);
      return how;
    });
    return child;
  }

  get alive() {
    const child = this.#child;
    return Boolean(child) && !this.#fault && child.exitCode === null && child.signalCode === null;
  }

  /** SIGTERM by default; SIGKILL lets it do nothing more. Gives the exit code, or the name of the signal it died of. */
  async end(signal) {
    if (this.alive) this.#child.kill(signal);
    return this.#ended;
  }

  ended() {
    return this.#ended;
  }

  async logSize() {
    return stat(this.#log).then(({ size }) => size, () => 0);
  }

  /** The last lines of the log, of those written after `from` bytes. */
  async lastWords(from = 0) {
    const text = await readFile(this.#log).then((bytes) => bytes.subarray(from).toString("utf8"), () => "");
    return text.split("\n").slice(-LINES_SHOWN).join("\n").trim();
  }
}
