// The chat page: puts the outbox, the session's events, the conversation and the live turn together.

import { Conversation } from "./conversation.js";
import { ChatLog } from "./chat-log.js";
import { kept, make, now, sessionPath } from "./lib.js";
import { LiveTurn } from "./live-turn.js";
import { Outbox } from "./outbox.js";
import { SessionStream } from "./stream.js";

const CHANNEL = "web";
const NAME_KEPT = "mainspring.interlocutor";
const AGENT_KEPT = "mainspring.agent";
// Replies older than this are history being read, not news to announce.
const NEWS_MS = 10_000;
const LISTENING_TICK_MS = 100;

const byId = (id) => document.getElementById(id);
const [agent, interlocutor, composer, link, lost, announcer] = ["agent", "interlocutor", "composer", "link", "lost", "announcer"].map(byId);
const panel = byId("live-turn");
const placeholder = panel.firstElementChild.cloneNode(true);
const turn = new LiveTurn(panel);
const log = new ChatLog(byId("log"), { retry: (key) => session?.outbox.retry(key), discard: (key) => session?.outbox.discard(key) });

/** The conversation shown: its outbox, its stream and what came of them. */
let session = null;
let drawing = false;

start();

function start() {
  interlocutor.value = interlocutor.dataset.asked || kept.get(NAME_KEPT) || friendlyName();
  const remembered = kept.get(AGENT_KEPT);
  const asked = new URLSearchParams(location.search).has("agent");
  if (!asked && [...agent.options].some((option) => option.value === remembered)) agent.value = remembered;
  byId("chat").hidden = false;

  byId("who").addEventListener("submit", (event) => event.preventDefault());
  agent.addEventListener("change", open);
  interlocutor.addEventListener("change", open);
  byId("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  composer.addEventListener("keydown", (event) => {
    // Enter also ends the composition of a character; that one is not ours.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send({ end: event.ctrlKey || event.metaKey });
    }
  });
  setInterval(() => {
    if (session && session.conversation.watchedTurn?.state === "accumulating") draw();
  }, LISTENING_TICK_MS);
  open();
  // A phone would cover half the page with its keyboard before anything was read.
  if (matchMedia("(hover: hover)").matches) composer.focus();
}

/** Opens the conversation of the chosen agent and name. */
function open() {
  interlocutor.value = interlocutor.value.trim() || friendlyName();
  session?.stream?.close();
  session?.outbox.close();
  session = null;
  turn.clear(placeholder.cloneNode(true));
  if (!agent.value) {
    log.draw([]);
    composer.disabled = true;
    byId("compose").querySelector("button").disabled = true;
    setLink("lost", "no agent");
    return;
  }
  kept.set(AGENT_KEPT, agent.value);
  kept.set(NAME_KEPT, interlocutor.value);
  const address = `/chat?agent=${encodeURIComponent(agent.value)}&as=${encodeURIComponent(interlocutor.value)}`;
  history.replaceState(null, "", address);
  session = converse(sessionPath(agent.value, interlocutor.value, CHANNEL));
  draw();
}

function converse(path) {
  const conversation = new Conversation();
  const outbox = new Outbox(path, {
    onChange: draw,
    onAccepted: (entry, answer) => conversation.accepted(entry, answer),
  });
  const opened = { conversation, outbox, stream: null };
  opened.stream = new SessionStream(path, {
    // All of it: the conversation so far is its events so far.
    after: 0,
    onEvent: (event) => {
      conversation.apply(event, outbox.uncertain);
      if (conversation.watchedTurn) turn.show(conversation.watchedTurn.id);
      turn.apply(event);
      // By then the turn has its reply.
      if (event.name === "turn.completed" && conversation.lacksText(event.turn_id)) read(event.turn_id, conversation);
      if (now() - event.at < NEWS_MS) announce(event);
      draw();
    },
    onState: (state) => {
      connection(state);
      conversation.connected(state === "open" || state === "connecting");
      draw();
      if (state === "open") {
        outbox.wake();
        turn.look();
      }
    },
  });
  outbox.wake();
  return opened;
}

/** A reply too long for an event is read from its turn. */
async function read(turnId, conversation) {
  try {
    const response = await fetch(`/v1/turns/${encodeURIComponent(turnId)}`, { headers: { accept: "application/json" } });
    conversation.fill(turnId, (await response.json()).reply?.text);
    draw();
  } catch {
    // The caption leads to the turn, which has it.
  }
}

/** Says to who does not see the page what the others see. */
function announce({ name, data }) {
  if (name === "reply.sent" && data.text) announcer.textContent = data.text;
  if (name === "turn.superseded") announcer.textContent = "The work was begun anew with your message";
}

function send({ end = false } = {}) {
  const text = composer.value.trim();
  if (!text || !session) return;
  composer.value = "";
  session.outbox.add(text, end);
  drawNow();
  log.toEnd();
  composer.focus();
}

function connection(state) {
  setLink(state, { connecting: "connecting", open: "live", lost: "reconnecting", "signed-out": "signed out" }[state]);
  if (state === "lost") lost.replaceChildren("Connection lost, retrying. Nothing accepted is lost; what you write now is sent when the server is back.");
  if (state === "signed-out") lost.replaceChildren("Signed out. ", make("a", { href: "/login?next=/chat" }, "Sign in again"), "; what you wrote is kept in this browser.");
  lost.hidden = state === "open" || state === "connecting";
}

function setLink(state, text) {
  link.dataset.state = state;
  link.textContent = text;
}

/** Draws before the next frame, once, however many events came. */
function draw() {
  if (drawing) return;
  drawing = true;
  // A hidden page gets no frames; it is drawn all the same, so that it is complete when it is looked at.
  if (document.hidden) setTimeout(drawNow);
  else requestAnimationFrame(drawNow);
}

function drawNow() {
  drawing = false;
  log.draw(session ? session.conversation.items(session.outbox.entries) : []);
}

function friendlyName() {
  const moods = ["calm", "bright", "gentle", "lucky", "merry", "nimble", "quiet", "sunny", "swift", "warm"];
  const animals = ["badger", "crane", "finch", "fox", "heron", "lynx", "marten", "otter", "robin", "wren"];
  const [a, b, c] = crypto.getRandomValues(new Uint16Array(3));
  return `${moods[a % moods.length]}-${animals[b % animals.length]}-${100 + (c % 900)}`;
}
