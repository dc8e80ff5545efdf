// A headless Chromium, spoken to over two pipes (the DevTools protocol, https://chromedevtools.github.io/devtools-protocol).
//
// A pipe rather than a socket, because Node speaks pipes by itself: no package to install, no port to choose.

import { spawn } from "node:child_process";
import { once } from "node:events";

import { Page } from "./page.mjs";

const CALL_MAX_MS = 30_000;
const CLOSE_MAX_MS = 5_000;

const FLAGS = [
  "--headless=new",
  "--remote-debugging-pipe",
  "--no-first-run",
  "--no-default-browser-check",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-extensions",
  "--disable-sync",
  "--hide-scrollbars",
  "--force-color-profile=srgb",
  // A container's /dev/shm is often too small for it.
  "--disable-dev-shm-usage",
];

export class Chromium {
  #process;
  #said = "";
  #next = 1;
  #calls = new Map();
  #sessions = new Map();
  #pages = [];
  #options;

  static async start(executable, profile, options) {
    const browser = new Chromium(executable, profile, options);
    await browser.call("Browser.getVersion");
    return browser;
  }

  /** `options`: `patienceMs`, and `patches` to what the server sends (see `page.mjs`). */
  constructor(executable, profile, options) {
    this.#options = options;
    // Chromium's sandbox refuses to work for root, as which containers run.
    const sandbox = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
    const stdio = ["ignore", "ignore", "pipe", "pipe", "pipe"];
    this.#process = spawn(executable, [...FLAGS, ...sandbox, `--user-data-dir=${profile}`, "about:blank"], { stdio });
    this.#process.stderr.on("data", (bytes) => (this.#said = (this.#said + bytes).slice(-4_000)));
    this.#process.on("error", (error) => this.#fail(error));
    this.#process.on("exit", (code) => this.#fail(new Error(`Chromium ended with ${code}: ${this.#said}`)));
    this.#process.stdio[3].on("error", () => {});
    let pending = [];
    this.#process.stdio[4].on("data", (bytes) => {
      for (let end; (end = bytes.indexOf(0)) >= 0; bytes = bytes.subarray(end + 1)) {
        const message = Buffer.concat([...pending, bytes.subarray(0, end)]).toString();
        pending = [];
        this.#take(JSON.parse(message));
      }
      if (bytes.length) pending.push(bytes);
    });
  }

  /** A page in a profile of its own: `{width, height, dark, phone, scale}`. */
  async page(options = {}) {
    const { browserContextId } = await this.call("Target.createBrowserContext");
    const { targetId } = await this.call("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.call("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page((method, params) => this.call(method, params, sessionId), { ...this.#options, ...options });
    this.#sessions.set(sessionId, page);
    this.#pages.push(page);
    await page.prepare();
    return page;
  }

  /** What all its pages complained about. */
  faults() {
    return this.#pages.flatMap((page) => page.faults);
  }

  /** For a failure's report: what the pages show. */
  async describe() {
    return Promise.all(this.#pages.map(async (page) => `${await page.address()} shows:\n${(await page.text()).slice(0, 2_000)}`));
  }

  async pictureAll(path) {
    for (const [nth, page] of this.#pages.entries()) await page.picture(`${path}-${nth + 1}.png`);
  }

  call(method, params = {}, sessionId = undefined) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id, null, new Error(`${method} was not answered in ${CALL_MAX_MS} ms`)), CALL_MAX_MS);
      this.#calls.set(id, { method, resolve, reject, timer });
      this.#process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  async close() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = once(this.#process, "exit");
    this.call("Browser.close").catch(() => {});
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), CLOSE_MAX_MS);
    await ended;
    clearTimeout(timer);
  }

  #take(message) {
    if (message.id) {
      const { error } = message;
      this.#settle(message.id, message.result, error && new Error(`${this.#calls.get(message.id)?.method}: ${error.message}`));
    } else {
      this.#sessions.get(message.sessionId)?.take(message.method, message.params);
    }
  }

  #settle(id, result, error) {
    const call = this.#calls.get(id);
    if (!call) return;
    this.#calls.delete(id);
    clearTimeout(call.timer);
    if (error) call.reject(error);
    else call.resolve(result);
  }

  #fail(error) {
    for (const id of [...this.#calls.keys()]) this.#settle(id, null, error);
  }
}
