// How the test and the tasks in the worker processes talk past the server: through files in one directory.
//
// A task notes that it has come to a point, and waits there until the test lets it go on. So a check knows what is in
// flight when the server is killed, without guessing with sleeps, and counts how often something was really executed.

import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

const LOOK_EVERY_MS = 20;
/** Far longer than any check: a task that waits is let go by the check, its cancellation, or the end of its process. */
const WAIT_MAX_MS = 300_000;

export class Signals {
  #dir;
  #waitMaxMs;

  constructor(dir, waitMaxMs = WAIT_MAX_MS) {
    this.#dir = dir;
    this.#waitMaxMs = waitMaxMs;
    mkdirSync(dir, { recursive: true });
  }

  /** Adds a line; appending is atomic for lines as short as ours, so several processes may write. */
  note(name, text = "") {
    appendFileSync(join(this.#dir, name), `${text}\n`);
  }

  forget(name) {
    rmSync(join(this.#dir, name), { force: true });
  }

  notes(name) {
    const file = join(this.#dir, name);
    return existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
  }

  /** Waits until somebody noted this at least `count` times. With a signal, rejects as soon as that is aborted. */
  async noted(name, { count = 1, signal = null } = {}) {
    const end = Date.now() + this.#waitMaxMs;
    while (this.notes(name).length < count) {
      if (signal?.aborted) throw signal.reason ?? new Error("aborted");
      if (Date.now() > end) throw new Error(`waited in vain for ${count} notes of "${name}"; there are ${this.notes(name).length}`);
      await sleep(LOOK_EVERY_MS);
    }
    return this.notes(name);
  }
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
