#!/usr/bin/env python3
"""An agent that books trips, and the airline, bank and hotel it books with: Python's standard library and nothing else.

    python3 examples/trip/trip.py serve           # agent and providers, on port 9100
    python3 examples/trip/trip.py book Atlantis   # puts the tools into the catalogue, and asks the agent

The agent calls one tool, `trip.book`, a plan of three (tools/*.json). The destination decides what goes wrong:

    Lisbon      nothing
    Atlantis    the hotel has no room: payment and flight are undone
    Limbo       the hotel takes the booking and never answers: nobody knows, a person decides
    Bermuda     the hotel has no room, and the airline does not cancel: undoing fails, a person decides
"""

import argparse
import json
import os
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOOLS = pathlib.Path(__file__).parent / "tools"


class Ledger:
    """What the providers really did, one JSON line each. A key is carried out once, however often it is asked for."""

    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        text = path.read_text() if path.exists() else ""
        self.lines = [json.loads(line) for line in text.splitlines()]

    def act(self, what, key, **more):
        with self.lock:
            known = next((line for line in self.lines if (line["what"], line["key"]) == (what, key)), None)
            if known is None:
                known = {"what": what, "key": key, "booking": f"{what[0].upper()}-{len(self.lines) + 1}", **more}
                self.lines.append(known)
                with self.path.open("a") as file:
                    file.write(json.dumps(known) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            return known


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    ledger = None
    undo_ms = 0
    # Undoing that has begun, so that whoever wants to kill the server in the middle of it knows when.
    undoing = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(200, {"ledger": self.ledger.lines, "undoing": self.undoing})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("idempotency-key", "")
        match self.path:
            case "/turn":
                try:
                    self.answer(200, answer_turn(body))
                except OSError as lost:
                    # It ended, or this attempt is over. The turn is not: the agent is asked again.
                    print(f"turn {body['turn_id']} is cut off: {lost}", flush=True)
            case "/flights":
                self.answer(200, self.done("flight", key, to=body["to"]))
            case "/payments":
                self.answer(200, self.done("payment", key, amount=body["amount"]))
            case "/hotels" if body["to"] in ("Atlantis", "Bermuda"):
                self.answer(409, {"error": f"no room in {body['to']}"})
            case "/hotels":
                done = self.done("hotel", key, to=body["to"])
                if body["to"] != "Limbo":
                    self.answer(200, done)
                # Else it was done, and the connection ends without a word.
            case "/flights/cancel" | "/payments/refund" | "/hotels/cancel":
                self.undo(body["key"])
            case _:
                self.answer(404, {"error": "there is no such thing here"})

    def done(self, what, key, **more):
        done = self.ledger.act(what, key, **more)
        print(f"{what} {done['booking']}", flush=True)
        return {"booking": done["booking"]}

    def undo(self, key):
        done = next((line for line in self.ledger.lines if line["key"] == key and "undoes" not in line), None)
        if done and done.get("to") == "Bermuda":
            return self.answer(422, {"error": "flights to Bermuda can't be cancelled"})
        self.undoing.append(key)
        print(f"undoing {done['what'] if done else 'nothing'} ({self.undo_ms} ms) ...", flush=True)
        time.sleep(self.undo_ms / 1000)
        if done:
            self.ledger.act(f"undo {done['what']}", key, undoes=done["booking"])
            print(f"undone {done['what']} {done['booking']}", flush=True)
        self.answer(200, {"undone": bool(done)})

    def answer(self, status, said):
        body = json.dumps(said).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            # Whoever asked is gone. What was done is in the ledger, and is asked for again under the same key.
            pass


def answer_turn(turn):
    """The agent. It is asked again after a crash, calls the same tool again, and that is the same call."""
    text = turn["messages"][-1]["text"].strip()
    waiting = turn.get("confirmations", [])
    if waiting and text.lower().rstrip("!.") in ("yes", "no"):
        execution = waiting[0]["run_id"]
        call(turn, "POST", f"/tool-executions/{execution}/confirm", {"approve": text.lower().startswith("yes")})
        answer = call(turn, "GET", f"/tool-executions/{execution}?wait_ms=50000")
    else:
        words = text.rstrip("!.").split()
        arguments = {
            "to": words[-1].title(),
            "traveller": turn["interlocutor"],
            "nights": 3,
            "budget": 2500 if "luxury" in words else 900,
            "card": "4111 1111 1111 1111",
        }
        answer = call(turn, "POST", "/tools/trip.book", {"arguments": arguments, "wait_ms": 50000})
    return {"text": in_words(answer)}


def in_words(answer):
    match answer["status"]:
        case "done":
            booked = answer["result"]
            return f"Booked: flight {booked['flight']}, payment {booked['payment']}, hotel {booked['hotel']}."
        case "compensated":
            steps = ", ".join(f"{step['name']} {step['status']}" for step in answer["steps"])
            return f"That did not work ({answer['error']['message']}), and everything is undone: {steps}."
        case "awaiting_confirmation":
            return f"{answer['prompt']} (yes or no)"
        case "declined" | "failed":
            return f"Nothing is booked: {answer['error']['message']}."
        case _:
            return "I don't know yet what came of it. Somebody is looking after it."


def call(turn, method, path, body=None):
    """Asks Mainspring on behalf of this turn."""
    return request(method, turn["calls_url"] + path, turn["token"], body)


def request(method, url, token, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as response:
        return json.loads(response.read() or b"null")


def serve(args):
    Handler.ledger, Handler.undo_ms = Ledger(pathlib.Path(args.ledger)), args.undo_ms
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    print(f"agent and providers on http://127.0.0.1:{args.port}; what they did: {args.ledger}", flush=True)
    server.serve_forever()


def put_catalogue(url, token, providers):
    """Puts every tool, those first that others name."""
    names = sorted((path.stem for path in TOOLS.glob("*.json")), key=lambda name: (name == "trip.book", name.endswith(".book"), name == "payment.charge"))
    for name in names:
        text = (TOOLS / f"{name}.json").read_text().replace("http://127.0.0.1:9100", providers)
        put = request("PUT", f"{url}/v1/tools/{name}", token, json.loads(text))
        print(f"{name}, version {put['version']}")


def book(args):
    url = os.environ.get("MAINSPRING_URL", "http://127.0.0.1:8080")
    token = os.environ.get("MAINSPRING_TOKEN") or sys.exit("MAINSPRING_TOKEN is not set: the README says how to make one")
    try:
        put_catalogue(url, token, args.providers)
        if args.to:
            session = f"{url}/v1/sessions/travel/{args.traveller}/web"
            text = " ".join(args.to)
            text = text if text.lower() in ("yes", "no") else f"book me a trip to {text}"
            sent = request("POST", f"{session}/messages", token, {"text": text, "message_id": str(uuid.uuid4())})
            print(f"{text!r} is accepted; its turn: {url}/turns/{sent['turn_id']}")
            print(f"what was called: {url}/tools/executions   what waits for a person: {url}/attention")
    except urllib.error.HTTPError as refused:
        sys.exit(f"{refused}: {refused.read().decode()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("serve", help="the agent, and the providers")
    verb.add_argument("--port", type=int, default=9100)
    verb.add_argument("--ledger", default="trip-ledger.jsonl")
    verb.add_argument("--undo-ms", type=int, default=4000, help="how long undoing takes: time to kill the server in")
    verb.set_defaults(run=serve)
    verb = verbs.add_parser("book", help="asks the agent for a trip; without a destination only the tools are put")
    verb.add_argument("to", nargs="*")
    verb.add_argument("--traveller", default="anna")
    verb.add_argument("--providers", default="http://127.0.0.1:9100")
    verb.set_defaults(run=book)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
