#!/usr/bin/env python3
"""The example agent again, as an HTTP endpoint: Python's standard library and nothing else.

    python3 examples/orders-agent-http/agent.py --port 9000

Mainspring posts a turn to it (see docs/agents.md) and reads its answer line by line:

    {"type": "status", "text": "..."}    what it is doing, shown to the person right away
    {"type": "delta", "text": "..."}     a piece of the answer, shown right away
    {"type": "final", "text": "..."}     the whole answer; only this one is recorded and delivered
    {"type": "error", "message": "...", "retry": true}
"""

import argparse
import json
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ORDERS = json.loads((pathlib.Path(__file__).parent.parent / "orders-agent" / "orders.json").read_text())


def call(turn, method, path, body=None):
    """Asks Mainspring on behalf of this attempt. 404 is None; 409 is an error: the attempt is over."""
    request = urllib.request.Request(
        turn["calls_url"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {turn['token']}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            return json.loads(response.read() or b"null")
    except urllib.error.HTTPError as refused:
        if refused.code == 404:
            return None
        raise


class Agent(BaseHTTPRequestHandler):
    # 1.0 closes the connection at the end, which is how the answer's end is known without chunking.
    protocol_version = "HTTP/1.0"
    slow_s = 0.5

    def do_POST(self):
        turn = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.end_headers()
        try:
            self.answer(turn)
        except (BrokenPipeError, urllib.error.HTTPError):
            # The attempt is over: Mainspring hung up or refused a call, and nothing said from here on would count.
            print(f"turn {turn['turn_id']} was superseded", flush=True)

    def answer(self, turn):
        self.say(type="status", text="looking up orders")
        numbers = {n for message in turn["messages"] for n in re.findall(r"\d+", message["text"])}
        orders = [order for order in ORDERS if order["number"] in numbers]
        self.say(type="status", text="asking the carrier")
        parcels = self.ask_carrier(turn, sorted(o["parcel"] for o in orders if o.get("parcel")))
        lines = [f"> {message['text']}" for message in turn["messages"]] + [""]
        lines += [f"Order {o['number']}, {o['item']}, is {o['status']}." for o in orders]
        lines += [f"The carrier says: parcel {parcel} is at the sorting centre." for parcel in parcels]
        lines += [] if orders else ["I know orders 1042, 1043, 1044 and 1051. Which one is it about?"]
        lines += [f"({len(turn['messages'])} messages)"]
        text = "\n".join(lines)
        for word in re.findall(r"\S+\s*", text):
            self.say(type="delta", text=word)
        self.say(type="final", text=text)

    def ask_carrier(self, turn, parcels):
        """Slow, so what it found out is kept for an attempt that begins anew with more messages."""
        fingerprint = "parcels " + ",".join(parcels)
        known = call(turn, "GET", "/artifacts/carrier?input=" + urllib.parse.quote(fingerprint))
        if known:
            return known["data"]
        time.sleep(self.slow_s)
        call(turn, "PUT", "/artifacts/carrier",
             {"data": parcels, "input_fingerprint": fingerprint, "reuse": "always"})
        return parcels

    def say(self, **line):
        self.wfile.write(json.dumps(line).encode() + b"\n")
        self.wfile.flush()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, default=9000)
    options.add_argument("--slow", type=float, default=0.5, help="seconds the carrier takes")
    options = options.parse_args()
    Agent.slow_s = options.slow
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Agent)
    print(f"ready on http://127.0.0.1:{server.server_port}/turn", flush=True)
    server.serve_forever()
