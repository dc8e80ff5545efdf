// Auto refresh: fetches the same page again and takes over its live parts. The reader may switch it off; the browser
// remembers. It rests while the page is hidden, and ends when the page shows something that no longer changes.

import { fetchPage, kept, tick, write } from "./lib.js";
import { morph } from "./morph.js";

const REMEMBERED = "mainspring.auto-refresh";
const RETRY_MAX_MS = 10_000;

const control = document.querySelector("[data-refresh-ms]");
if (control) start(control);

function start(control) {
  const everyMs = Number(control.dataset.refreshMs);
  const box = control.querySelector("input");
  const state = control.querySelector(".refresh-state");
  let timer;
  let failures = 0;

  box.checked = kept.get(REMEMBERED) !== "off";
  box.addEventListener("change", () => {
    kept.set(REMEMBERED, box.checked ? "on" : "off");
    failures = 0;
    write(state, "");
    if (box.checked) refresh();
    else clearTimeout(timer);
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && box.checked) refresh();
  });
  document.addEventListener("mainspring:changed", () => refresh());
  control.hidden = false;
  if (box.checked) later();

  function later() {
    clearTimeout(timer);
    timer = setTimeout(refresh, Math.min(everyMs * 2 ** failures, Math.max(everyMs, RETRY_MAX_MS)));
  }

  async function refresh() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const page = await fetchPage(location.href);
      failures = 0;
      write(state, "");
      if (takeOver(page)) {
        control.remove();
        return;
      }
    } catch (fault) {
      failures += 1;
      write(state, fault.signedOut ? "signed out: reload the page" : "connection lost, retrying");
    }
    if (box.checked) later();
  }
}

/** Takes over the live parts; true if what the page shows is final. */
function takeOver(page) {
  let final = false;
  for (const shown of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(shown.id);
    if (!fresh) continue;
    morph(shown, fresh);
    tick(shown);
    final ||= fresh.hasAttribute("data-final");
  }
  return final;
}
