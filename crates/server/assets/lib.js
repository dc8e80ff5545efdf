// What every page's script uses: the server's clock, words for durations, elements, ids, and pages fetched again.
// The words are those of the server's own filters, so a number does not change how it reads when a script takes it over.

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

// A browser's clock may be minutes off. The page says what the server's clock was when it was rendered, and the browser
// knows when the answer began to arrive; what lies between the two is added to every reading.
const renderedAt = Number(document.querySelector('meta[name="mainspring-now"]')?.content);
const responseStart = performance.getEntriesByType("navigation")[0]?.responseStart ?? 0;
const skewMs = renderedAt ? renderedAt - (performance.timeOrigin + responseStart) : 0;

/** The server's time, as well as this page knows it: milliseconds since the Unix epoch. */
export function now() {
  return Date.now() + skewMs;
}

const two = (number) => String(Math.floor(number)).padStart(2, "0");

/** A duration with about three significant figures. */
export function took(ms) {
  ms = Math.max(0, Math.round(ms));
  if (ms < SECOND_MS) return `${ms} ms`;
  if (ms < MINUTE_MS) return `${(ms / SECOND_MS).toFixed(ms < 10 * SECOND_MS ? 2 : 1)} s`;
  if (ms < HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min ${two((ms % MINUTE_MS) / SECOND_MS)} s`;
  if (ms < DAY_MS) return `${Math.floor(ms / HOUR_MS)} h ${two((ms % HOUR_MS) / MINUTE_MS)} min`;
  return `${Math.floor(ms / DAY_MS)} d ${Math.floor((ms % DAY_MS) / HOUR_MS)} h`;
}

/** "1 message", "2 messages". */
export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** How long until something, for a person who waits for it. */
export function left(until) {
  return `${(Math.max(0, until - now()) / SECOND_MS).toFixed(1)} s left`;
}

/** How long ago something was. */
export function ago(at) {
  const ageMs = now() - at;
  if (ageMs < SECOND_MS) return "just now";
  if (ageMs < MINUTE_MS) return `${Math.floor(ageMs / SECOND_MS)} s ago`;
  if (ageMs < HOUR_MS) return `${Math.floor(ageMs / MINUTE_MS)} min ago`;
  if (ageMs < DAY_MS) return `${Math.floor(ageMs / HOUR_MS)} h ago`;
  return `${Math.floor(ageMs / DAY_MS)} d ago`;
}

/** Brings every age (`time[data-at]`), duration that lasts (`[data-since]`) and wait (`[data-until]`) below `root` up to date. */
export function tick(root = document) {
  for (const element of root.querySelectorAll("time[data-at]")) write(element, ago(Number(element.dataset.at)));
  for (const element of root.querySelectorAll("[data-until]")) write(element, left(Number(element.dataset.until)));
  // Whole tenths only: figures that change too fast to read say nothing.
  for (const element of root.querySelectorAll("[data-since]")) {
    const ms = now() - Number(element.dataset.since);
    write(element, ms < MINUTE_MS ? `${(Math.max(0, ms) / SECOND_MS).toFixed(1)} s` : took(ms));
  }
}

/** Sets a text only where it differs, so that a selection in an unchanged one survives. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes an element. Texts become text nodes, never markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A random id. `crypto.randomUUID` is missing on plain http, where a page may well be opened in a local network. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The address of a session in the API. */
export function sessionPath(agent, interlocutor, channel) {
  return `/v1/sessions/${[agent, interlocutor, channel].map(encodeURIComponent).join("/")}`;
}

/** Why a page could not be fetched again. `status` is 0 when the server was not reached. */
export class FetchFault extends Error {
  constructor(status) {
    super(status === 0 ? "the server cannot be reached" : `the server answered ${status}`);
    this.status = status;
  }

  get signedOut() {
    return this.status === 401;
  }
}

/** Fetches a page of this server and parses it. The document is inert: its scripts do not run. */
export async function fetchPage(url, timeoutMs = 10_000) {
  let response;
  let html;
  try {
    response = await fetch(url, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(timeoutMs) });
    html = await response.text();
  } catch {
    throw new FetchFault(0);
  }
  if (response.redirected && new URL(response.url).pathname === "/login") throw new FetchFault(401);
  if (!response.ok) throw new FetchFault(response.status);
  return new DOMParser().parseFromString(html, "text/html");
}

/** What is kept in this browser. It may be forbidden or full: then things are kept until the page is closed. */
export const kept = {
  memory: new Map(),
  get(key) {
    try {
      return localStorage.getItem(key) ?? this.memory.get(key) ?? null;
    } catch {
      return this.memory.get(key) ?? null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(key, value);
    } catch {
      this.memory.set(key, value);
    }
  },
  remove(key) {
    this.memory.delete(key);
    try {
      localStorage.removeItem(key);
    } catch {
      // Nothing was kept there.
    }
  },
  keys() {
    let stored = [];
    try {
      stored = Object.keys(localStorage);
    } catch {
      // Only what is in memory, then.
    }
    return [...new Set([...stored, ...this.memory.keys()])];
  },
};
