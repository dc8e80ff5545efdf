// The page of one turn: keeps it current until it has ended.

import { LiveTurn } from "./live-turn.js";
import { SessionStream } from "./stream.js";

const connection = document.getElementById("connection");
const turn = new LiveTurn(document.getElementById("live-turn"));

if (turn.unfinished && turn.session) {
  const stream = new SessionStream(turn.session, {
    onEvent: (event) => turn.apply(event),
    onState: (state) => {
      connection.hidden = state === "open" || state === "connecting";
      connection.textContent =
        state === "signed-out" ? "Signed out: reload the page to sign in again." : "Connection lost, retrying. What you see may be out of date.";
      // Whatever happened before the stream was open is found by looking.
      if (state === "open") turn.look();
    },
  });
  const ended = new MutationObserver(() => {
    if (turn.unfinished) return;
    ended.disconnect();
    stream.close();
    connection.hidden = true;
  });
  ended.observe(document.getElementById("live-turn"), { attributes: true, subtree: true, attributeFilter: ["data-state"] });
}
