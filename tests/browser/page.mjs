// One page: goes to addresses, types and clicks as a person does, waits for what becomes visible, and keeps a book of
// everything the browser complains about.

import { writeFile } from "node:fs/promises";

import { Expected } from "./expect.mjs";

const LOOK_EVERY_MS = 50;
/** What a request to a killed server ends with. */
const OUTAGE = /ERR_(CONNECTION_(REFUSED|RESET|CLOSED|ABORTED)|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING|SOCKET_NOT_CONNECTED)/;

export class Page {
  /** Complaints: console errors, exceptions, failed and refused requests. */
  faults = [];
  /** Failed requests while the server was known to be gone. */
  outages = 0;
  #call;
  #options;
  #requests = new Map();
  #outage = false;
  #loaded = () => {};

  constructor(call, { width = 1280, height = 800, dark = false, phone = false, scale = 1, patienceMs, patches }) {
    this.#call = call;
    this.#options = { width, height, dark, phone, scale, patienceMs, patches };
  }

  async prepare() {
    const { width, height, dark, phone, scale, patches } = this.#options;
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.#call(`${domain}.enable`);
    await this.#call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: scale, mobile: phone });
    await this.#call("Emulation.setTouchEmulationEnabled", { enabled: phone });
    const features = [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }];
    await this.#call("Emulation.setEmulatedMedia", { features });
    if (patches.length) {
      // Never the event stream: its body has no end to wait for.
      const of = (urlPattern, resourceType) => ({ urlPattern, resourceType, requestStage: "Response" });
      await this.#call("Fetch.enable", { patterns: [of("*/assets/*"), of("*", "Document"), of("*/turns/*"), of("*/runs*"), of("*/tools*"), of("*/attention"), of("*/agents/*"), of("*/webhooks/*")] });
    }
  }

  /** Opens an address and waits until it has loaded. */
  async goto(url) {
    const loaded = new Promise((resolve) => (this.#loaded = resolve));
    const { errorText } = await this.#call("Page.navigate", { url });
    if (errorText) throw new Expected(`${url} could not be opened: ${errorText}`);
    await this.#within(loaded, `${url} to be loaded`);
  }

  /** Presses the browser's reload button. */
  async reload() {
    const loaded = new Promise((resolve) => (this.#loaded = resolve));
    await this.#call("Page.reload");
    await this.#within(loaded, "the page to be loaded again");
  }

  /** Runs a function in the page. Its arguments and its answer pass as JSON. */
  async look(fn, ...args) {
    const expression = `(${fn})(...${JSON.stringify(args)})`;
    const { result, exceptionDetails } = await this.#call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`in the page: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  }

  /** Waits until a function in the page gives something true, and gives that. */
  async until(what, fn, ...args) {
    const end = Date.now() + this.#options.patienceMs;
    for (;;) {
      // A page that is being replaced can't be asked.
      const value = await this.look(fn, ...args).catch((error) => (Date.now() > end ? Promise.reject(error) : null));
      if (value) return value;
      if (Date.now() > end) throw new Expected(`waited ${this.#options.patienceMs / 1_000} s in vain for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  }

  /** Waits until a person sees this text in an element with this selector; gives the element's text. */
  sees(selector, text = "") {
    return this.until(`${JSON.stringify(text)} to be seen in ${selector}`, visibleText, selector, text);
  }

  /** The texts of all elements a person sees with this selector, in order. */
  texts(selector) {
    return this.look(visibleTexts, selector);
  }

  /** Clicks into the middle of an element of a page that has loaded, with the mouse. Before that its scripts may not listen yet. */
  async click(selector) {
    const { x, y } = await this.until(`${selector} to be clickable`, middleOf, selector);
    for (const type of ["mouseMoved", "mousePressed", "mouseReleased"]) {
      await this.#call("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  }

  async type(text) {
    await this.#call("Input.insertText", { text });
  }

  async press(key, code, modifiers = 0) {
    const of = (type) => ({ type, key, code: key, windowsVirtualKeyCode: code, modifiers });
    await this.#call("Input.dispatchKeyEvent", { ...of("keyDown"), text: key === "Enter" ? "\r" : undefined });
    await this.#call("Input.dispatchKeyEvent", of("keyUp"));
  }

  /** Writes a message into the chat, and sends it with the Enter key. */
  async say(text) {
    await this.click('[data-testid="composer"]');
    await this.type(text);
    await this.press("Enter", 13);
  }

  async picture(path) {
    const { data } = await this.#call("Page.captureScreenshot", { format: "png" });
    await writeFile(path, Buffer.from(data, "base64"));
  }

  address() {
    return this.look(() => location.href);
  }

  text() {
    return this.look(() => document.body.innerText);
  }

  /** From here on failed connections are the server's absence, not the page's fault. */
  serverIsGone() {
    this.#outage = true;
  }

  serverIsBack() {
    this.#outage = false;
  }

  take(method, params) {
    switch (method) {
      case "Page.loadEventFired":
        this.#loaded();
        break;
      case "Runtime.consoleAPICalled":
        if (["error", "warning", "assert"].includes(params.type)) {
          this.faults.push(`console.${params.type}: ${params.args.map((arg) => arg.value ?? arg.description).join(" ")}`);
        }
        break;
      case "Runtime.exceptionThrown":
        this.faults.push(`exception: ${params.exceptionDetails.exception?.description ?? params.exceptionDetails.text}`);
        break;
      case "Log.entryAdded":
        // Failed requests are booked below, where it is known what failed.
        if (["error", "warning"].includes(params.entry.level) && params.entry.source !== "network") {
          this.faults.push(`${params.entry.source} ${params.entry.level}: ${params.entry.text}`);
        }
        break;
      case "Page.javascriptDialogOpening":
        this.faults.push(`a dialog: ${params.message}`);
        this.#call("Page.handleJavaScriptDialog", { accept: false }).catch(() => {});
        break;
      case "Network.requestWillBeSent":
        this.#requests.set(params.requestId, `${params.request.method} ${params.request.url}`);
        break;
      case "Network.responseReceived":
        if (params.response.status >= 400) this.faults.push(`${this.#requests.get(params.requestId)}: status ${params.response.status}`);
        break;
      case "Network.loadingFailed":
        // Given up by the page itself, as when an event stream is closed.
        if (params.canceled) break;
        if (this.#outage && OUTAGE.test(params.errorText)) this.outages += 1;
        else this.faults.push(`${this.#requests.get(params.requestId)}: ${params.errorText}`);
        break;
      case "Fetch.requestPaused":
        this.#patch(params).catch(() => {});
        break;
      default:
        break;
    }
  }

  /** Breaks what the server sent: `{file, from, to}`, where `file` ends the path, or is "page" for the pages themselves. */
  async #patch({ requestId, request, responseStatusCode, responseHeaders }) {
    const path = new URL(request.url).pathname;
    const isPage = !path.startsWith("/assets/");
    const patches = this.#options.patches.filter(({ file }) => (file === "page" ? isPage : path.endsWith(file)));
    if (!patches.length || responseStatusCode !== 200) return this.#call("Fetch.continueRequest", { requestId });
    const { body, base64Encoded } = await this.#call("Fetch.getResponseBody", { requestId });
    let text = base64Encoded ? Buffer.from(body, "base64").toString() : body;
    for (const patch of patches) {
      const patched = text.replaceAll(patch.from, patch.to);
      patch.applied ||= patched !== text;
      text = patched;
    }
    const headers = responseHeaders.filter(({ name }) => name.toLowerCase() !== "content-length");
    await this.#call("Fetch.fulfillRequest", { requestId, responseCode: 200, responseHeaders: headers, body: Buffer.from(text).toString("base64") });
  }

  #within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Expected(`waited ${this.#options.patienceMs / 1_000} s in vain for ${what}`)), this.#options.patienceMs);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }
}

// The functions below run in the page.

function visibleText(selector, text) {
  const element = [...document.querySelectorAll(selector)].find(
    (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && element.innerText.includes(text),
  );
  return element ? element.innerText || " " : null;
}

function visibleTexts(selector) {
  return [...document.querySelectorAll(selector)]
    .filter((element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
    .map((element) => element.innerText);
}

function middleOf(selector) {
  if (document.readyState !== "complete") return null;
  const element = document.querySelector(selector);
  if (!element?.checkVisibility() || element.disabled) return null;
  element.scrollIntoView({ block: "nearest" });
  const box = element.getBoundingClientRect();
  return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
}
