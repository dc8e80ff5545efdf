// Forms that ask the API for something without leaving the page: cancelling a run, sending a turn's messages again.
// Without this script they post in the ordinary way.
//
// `data-post` is where to, `data-doing` and `data-done` what is said meanwhile and afterwards; `data-leads` is the kind of
// page the answer's `turn_id` leads to.

import { make } from "./lib.js";

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-post]");
  if (!form) return;
  event.preventDefault();
  const state = form.querySelector(".form-state");
  const button = form.querySelector("button");
  const { post, doing, done, leads } = form.dataset;
  const said = [...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
  button.disabled = true;
  state.textContent = doing;
  try {
    const response = await fetch(post, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(Object.fromEntries(said)),
      signal: AbortSignal.timeout(10_000),
    });
    const answer = await response.json().catch(() => null);
    if (response.ok) {
      state.textContent = done;
      const { turn_id: turn } = answer ?? {};
      if (leads && turn) state.append(make("a", { href: `/${leads}/${encodeURIComponent(turn)}` }, "the turn that has them"));
      document.dispatchEvent(new CustomEvent("mainspring:changed"));
      return;
    }
    state.textContent = [answer?.title, answer?.detail, answer?.action].filter(Boolean).join(". ") || `Refused with status ${response.status}.`;
  } catch {
    state.textContent = "The server cannot be reached. Asking twice does no harm: try again.";
  }
  button.disabled = false;
});
