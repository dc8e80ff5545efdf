// Forms that ask the API for something without leaving the page: cancelling a run, sending a turn's messages again,
// settling what waits for a person.
// Without this script they post in the ordinary way.
//
// `data-post` is where to, `data-doing` and `data-done` what is said meanwhile and afterwards; `data-leads` is the kind of
// page the answer's id leads to, and `data-led` what that is. A field with `data-json` holds JSON. The button that was
// pressed counts, if it has a name.

import { make } from "./lib.js";

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-post]");
  if (!form) return;
  event.preventDefault();
  const state = form.querySelector(".form-state");
  const buttons = [...form.querySelectorAll("button")];
  const { post, doing, done, leads, led = "the turn that has them" } = form.dataset;
  const said = [...new FormData(form, event.submitter)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
  try {
    for (const pair of said) if (form.querySelector(`[name="${pair[0]}"][data-json]`)) pair[1] = JSON.parse(pair[1]);
  } catch (fault) {
    state.textContent = `That is no JSON: ${fault.message}`;
    return;
  }
  for (const button of buttons) button.disabled = true;
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
      const to = answer?.turn_id ?? answer?.execution_id ?? answer?.publish_id;
      if (leads && to) state.append(make("a", { href: `/${leads}/${encodeURIComponent(to)}` }, led));
      document.dispatchEvent(new CustomEvent("mainspring:changed"));
      return;
    }
    state.textContent = [answer?.title, answer?.detail, answer?.action].filter(Boolean).join(". ") || `Refused with status ${response.status}.`;
  } catch {
    state.textContent = "The server cannot be reached. Asking twice does no harm: try again.";
  }
  for (const button of buttons) button.disabled = false;
});
