// The page of one run: cancelling without leaving the page. Without this script the form posts in the ordinary way.

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-cancel]");
  if (!form) return;
  event.preventDefault();
  const state = form.querySelector(".form-state");
  const button = form.querySelector("button");
  const reason = new FormData(form).get("reason")?.trim();
  button.disabled = true;
  state.textContent = "Cancelling…";
  try {
    const response = await fetch(form.dataset.cancel, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(reason ? { reason } : {}),
      signal: AbortSignal.timeout(10_000),
    });
    if (response.ok) {
      state.textContent = "Cancellation accepted.";
      document.dispatchEvent(new CustomEvent("mainspring:changed"));
      return;
    }
    const problem = await response.json().catch(() => null);
    state.textContent = [problem?.title, problem?.detail, problem?.action].filter(Boolean).join(". ") || `Refused with status ${response.status}.`;
  } catch {
    state.textContent = "The server cannot be reached. Cancelling twice does no harm: try again.";
  }
  button.disabled = false;
});
