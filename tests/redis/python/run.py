"""Programs written with redis-py against the real binary: `python run.py --binary BIN`.

The examples of `examples/redis` are run as a person would run them, and what they print is checked: over repeats, a flush,
kills of each of them, of Redis and of the server. Then programs as they were written before there was a Mainspring: XADD
of flat fields in, XREADGROUP out, GET of the pointer and a bundle, SUBSCRIBE.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "redis"
PATIENCE_S = 60


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(what: str, holds: Callable[[], object]) -> object:
    begun = time.monotonic()
    while not (found := holds()):
        if time.monotonic() - begun > PATIENCE_S:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)
    return found


class Program:
    """A process whose words go to a file."""

    def __init__(
        self,
        name: str,
        command: list[object],
        scratch: Path,
        env: dict[str, str],
        stdin: str | None = None,
        stays_open: bool = False,
    ):
        self.stays_open = stays_open
        self.out = scratch / f"{name}.out"
        self.command, self.env, self.name = [str(word) for word in command], os.environ | env, name
        self.stdin = stdin
        self.start()

    def start(self) -> None:
        with self.out.open("ab") as out, self.out.with_suffix(".err").open("ab") as err:
            stdin = subprocess.PIPE if self.stdin is not None else subprocess.DEVNULL
            self.process = subprocess.Popen(self.command, stdin=stdin, stdout=out, stderr=err, env=self.env)
        if self.stdin is not None:
            self.tell(self.stdin)
            if not self.stays_open:
                self.process.stdin.close()

    def tell(self, text: str) -> None:
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def said(self) -> str:
        return self.out.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ended(self) -> None:
        assert self.process.wait(PATIENCE_S) == 0, (self.name, self.out.with_suffix(".err").read_text()[-2000:])


class World:
    """Redis, an agent, the server, and what runs on both sides of the bus."""

    def __init__(self, binary: Path, scratch: Path, bus: str):
        self.binary, self.scratch = binary, scratch
        scratch.mkdir()
        self.programs: list[Program] = []
        self.redis_port, self.port, agent = free_port(), free_port(), free_port()
        self.env = {"REDIS_URL": f"redis://127.0.0.1:{self.redis_port}", "PYTHONUNBUFFERED": "1"}
        self.redis = self.program(
            "redis",
            ["redis-server", "--port", self.redis_port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        )
        self.connection = redis.Redis(port=self.redis_port)
        self.program("agent", [sys.executable, ROOT / "examples/orders-agent-http/agent.py", "--port", agent, "--slow", 0])
        config = scratch / "mainspring.toml"
        config.write_text(f"""
[redis]
url_env = "REDIS_URL"
timeout_ms = 500
[redis.mirror]
check_s = 1
[bus]
channels = ["web"]
outbound_groups = ["delivery"]
{bus}
[bus.agents]
acme = "orders"
[[agents]]
name = "orders"
tenant = "acme"
kind = "http"
url = "http://127.0.0.1:{agent}/turn"
quiet_ms = 20
attempts_max = 10
""")
        self.data = scratch / "data"
        serve = [binary, "serve", "--config", config, "--dir", self.data, "--listen", f"127.0.0.1:{self.port}"]
        self.server = self.program("server", serve)

    def begin(self) -> None:
        self.ready()
        self.token = self.mainspring("token", "create", "--scopes", "admin", "--quiet").strip()

    def program(self, name: str, command: list[object], *stdin: Any) -> Program:
        program = Program(name, command, self.scratch, self.env, *stdin)
        self.programs.append(program)
        return program

    def example(self, name: str, *stdin: Any) -> Program:
        return self.program(name.split(".")[0], [sys.executable, EXAMPLES / name], *stdin)

    def ready(self) -> None:
        def answers() -> bool:
            try:
                return json.loads((self.data / "server.json").read_text())["pid"] == self.server.process.pid
            except (OSError, ValueError):
                return False

        until("the server to be ready", answers)

    def redis_is_up(self) -> None:
        def answers() -> bool:
            try:
                return self.connection.ping()
            except redis.RedisError:
                return False

        until("Redis to be up", answers)

    def mainspring(self, *words: str) -> str:
        command = [self.binary, *words, "--dir", self.data]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def http(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self.token}",
                "cookie": f"mainspring_token={self.token}",
                "content-type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            text = response.read().decode()
            is_json = "json" in response.headers.get("content-type", "")
            return json.loads(text) if is_json else text

    def publish(self, mark: str) -> int:
        draft = {"rules": [{"id": "polite", "when": mark}], "variables": [{"id": "name"}]}
        self.http("PUT", "/v1/agents/orders/config/draft", draft)
        asked = self.http("POST", "/v1/agents/orders/publish", {})

        def over() -> dict | None:
            found = self.http("GET", f"/v1/publishes/{asked['publish_id']}")
            return found if found["status"] not in ("pending", "running") else None

        found = until(f"{mark} to be published", over)
        assert found["status"] == "completed", found
        return found["version"]

    def says(self, *lines: str) -> dict[str, tuple[str, str]]:
        """What a gateway prints about these lines: by id, `added` or `known`, and the entry."""
        gateway = self.example("gateway.py", "".join(f"{line}\n" for line in lines))
        gateway.ended()
        # All gateways write to one file; the last word about an id counts.
        found = re.findall(r"^(\S+) (added|known) as (\S+)$", gateway.said(), re.MULTILINE)
        return {message: (what, entry) for message, what, entry in found}

    def inbound(self) -> int:
        return sum(self.connection.xlen(key) for key in self.connection.scan_iter("events.inbound.*", _type="stream"))

    def end(self) -> None:
        for program in reversed(self.programs):
            program.kill()


# --- the examples ---


def talks(world: World) -> None:
    world.sender = world.example("sender.py")
    said = world.says("#m1 anna: where is order 1042?")
    assert said["m1"][0] == "added", said
    until("the reply", lambda: "to anna: > where is order 1042?" in world.sender.said())
    until("the reply", lambda: "Order 1042" in world.sender.said())
    # How far its groups are is on a page, as it was seen within the last seconds.
    def shown() -> str | None:
        page = world.http("GET", "/streams")
        return page if "events.outbound.acme.web" in page else None

    assert 'data-label="Group">delivery<' in until("the stream to be shown", shown)


def keeps_repeats_out_of_the_stream(world: World) -> None:
    before, first = world.inbound(), world.says("#m2 anna: the second")["m2"]
    after = world.inbound()
    # Receipts of the sender are entries as well, so what is counted is only what the gateway was told.
    assert first[0] == "added" and after > before, (first, before, after)
    again = world.says("#m2 anna: the second")["m2"]
    assert again == ("known", first[1]), (first, again)


def the_log_decides_when_redis_forgot(world: World) -> None:
    until("the second reply", lambda: "> the second" in world.sender.said())
    world.connection.flushall()
    assert world.says("#m2 anna: the second")["m2"][0] == "added", "the mark went with everything else"
    world.says("#m3 anna: the third")
    until("the third reply", lambda: "> the third" in world.sender.said())
    assert world.sender.said().count("> the second") == 1, world.sender.said()


def marks_nothing_that_was_not_added(world: World) -> None:
    """Full: neither the mark nor the entry. The provider's repeat is then the first to be added."""
    world.connection.config_set("maxmemory", 1)
    line = "#full anna: while it was full"
    gateway = world.example("gateway.py", f"{line}\n")
    until("the gateway to be refused", lambda: "not added" in gateway.out.with_suffix(".err").read_text())
    gateway.kill()
    world.connection.config_set("maxmemory", 0)
    assert [key for key in world.connection.scan_iter("*seen:full")] == []
    assert world.says(line)["full"][0] == "added"
    until("the reply", lambda: "> while it was full" in world.sender.said())


def a_gateway_dies_with_its_request_under_way(world: World) -> None:
    """Whatever Redis made of what it was last asked: the provider's repeat is answered, and once."""
    gateway = world.example("gateway.py", "#c0 anna: to begin with\n", True)
    until("it to be connected", lambda: "c0 added" in gateway.said())
    world.redis.process.send_signal(signal.SIGSTOP)
    gateway.tell("#cut anna: cut off\n")
    time.sleep(0.5)
    gateway.kill()
    world.redis.process.send_signal(signal.SIGCONT)
    said = world.says("#cut anna: cut off")
    assert "cut" in said, said
    until("the reply", lambda: "> cut off" in world.sender.said())
    world.says("#c1 anna: in the end")
    until("the last reply", lambda: "> in the end" in world.sender.said())
    assert world.sender.said().count("> cut off") == 1, world.sender.said()


def a_killed_gateway_loses_and_repeats_nothing(world: World) -> None:
    """Killed anywhere, and begun again with all it was given, as its provider would: each is answered once."""
    lines = [f"#k{n} guest{n}: number {n}." for n in range(40)]
    dice = random.Random(7)
    for _ in range(4):
        gateway = world.example("gateway.py", "".join(f"{line}\n" for line in lines))
        time.sleep(0.1 + dice.random() * 0.2)
        gateway.kill()
    said = world.says(*lines)
    assert {f"k{n}" for n in range(40)} <= said.keys(), said
    until("all replies", lambda: all(f"> number {n}.\n" in world.sender.said() for n in range(40)))
    counts = {n: world.sender.said().count(f"> number {n}.\n") for n in range(40)}
    assert set(counts.values()) == {1}, counts


def reads_configurations(world: World) -> None:
    world.config = world.example("config.py")
    heard = world.connection.pubsub()
    heard.subscribe("cfg-updated")
    assert heard.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
    for mark in ("one", "two"):
        version = world.publish(mark)
        said = json.loads(heard.get_message(timeout=PATIENCE_S)["data"])
        assert (said["tenant_id"], said["agent_id"], said["version"]) == ("acme", "orders", version), said
        line = rf"^version {version} \((told|looked)\): rules \d+ bytes, variables \d+ bytes$"
        until(f"version {version}", lambda: re.search(line, world.config.said(), re.MULTILINE))
    until("word of one of them", lambda: "(told)" in world.config.said())
    world.http("POST", "/v1/agents/orders/rollback", {"target_version": 1, "reason": "two is bad"})
    until("the rollback", lambda: len(re.findall(r"^version 1 ", world.config.said(), re.MULTILINE)) == 2)


def everything_is_killed_and_goes_on(world: World) -> None:
    """Redis is lost with all it had, a publish is made without it, and the server is killed."""
    world.redis.kill()
    version = world.publish("without redis")
    assert "Redis can't be reached" in world.http("GET", "/streams").replace("&#x27;", "'")
    ready = world.http("GET", "/readyz")
    assert ready["status"] == "degraded" and "Redis can't be reached" in json.dumps(ready), ready
    world.server.kill()
    world.sender.kill()
    world.redis.start()
    world.redis_is_up()
    assert world.connection.get("acme:orders:cfg") is None, "Redis is empty"
    world.server.start()
    world.ready()
    world.sender.start()
    until("the version", lambda: re.search(rf"^version {version} ", world.config.said(), re.MULTILINE))
    until("nothing to be wrong", lambda: world.http("GET", "/readyz")["status"] != "degraded")
    until("all to be mirrored", lambda: "mainspring_config_mirrored 1\n" in world.http("GET", "/metrics"))
    assert "Redis is away" in world.config.out.with_suffix(".err").read_text()
    world.says("#m4 anna: the fourth")
    until("the fourth reply", lambda: "> the fourth" in world.sender.said())


def is_rebuilt_by_one_command(world: World) -> None:
    current = int(world.connection.get("acme:orders:cfg"))
    key = f"acme:orders:v{current}:rules"
    before = world.connection.get(key)
    world.connection.set(key, b"x" * len(before))
    printed = world.mainspring("redis-rebuild")
    assert re.fullmatch(r"tenant acme: \d+ bundles of 1 agents\n", printed), printed
    assert world.connection.get(key) == before
    world.connection.flushall()
    world.mainspring("redis-rebuild")
    assert int(world.connection.get("acme:orders:cfg")) == current and world.connection.get(key) == before


EXAMPLE_CHECKS = [
    talks,
    keeps_repeats_out_of_the_stream,
    the_log_decides_when_redis_forgot,
    marks_nothing_that_was_not_added,
    a_gateway_dies_with_its_request_under_way,
    a_killed_gateway_loses_and_repeats_nothing,
    reads_configurations,
    everything_is_killed_and_goes_on,
    is_rebuilt_by_one_command,
]


# --- programs of the old kind, which know nothing of envelopes, partitions or manifests ---


def old_gateway_and_old_sender(world: World) -> None:
    connection = redis.Redis(port=world.redis_port, decode_responses=True)
    stream = "events.outbound.acme.web"
    try:
        connection.xgroup_create(stream, "delivery", id="0", mkstream=True)
    except redis.ResponseError as error:
        assert str(error).startswith("BUSYGROUP"), error
    # Flat fields; one field with JSON by older names; and the second one again.
    connection.xadd("channel:inbound:acme", {
        "tenant_id": "acme", "channel": "web", "channel_user_id": "anna", "provider_message_id": "wamid.1",
        "kind": "message", "received_at": "2026-01-02T03:04:05Z", "content": "flat fields"})
    older = {
        "tenant_id": "acme", "agent_id": "orders", "channel": "web", "channel_user_id": "ben", "envelope_id": "e-2",
        "timestamp": 1790000000, "content": {"text": "in one field"}}
    for _ in range(2):
        connection.xadd("channel:inbound:acme", {"data": json.dumps(older)})
    replies: dict[str, list[str]] = {}

    def both() -> bool:
        found = connection.xreadgroup("delivery", "old-1", {stream: ">"}, count=10, block=500)
        for _, entries in found or []:
            for entry, fields in entries:
                envelope = json.loads(fields["envelope"])
                replies.setdefault(envelope["interlocutor"], []).append(envelope["payload"]["text"])
                connection.xack(stream, "delivery", entry)
        return {"anna", "ben"} <= replies.keys()

    until("both replies", both)
    # One more of ben's: what comes before it would have been answered by then.
    connection.xadd("channel:inbound:acme", {"data": json.dumps(older | {"envelope_id": "e-3", "content": "one more"})})
    until("the last reply", lambda: both() and any("> one more" in text for text in replies["ben"]))
    assert sum("> in one field" in text for text in replies["ben"]) == 1, replies
    assert sum("> flat fields" in text for text in replies["anna"]) == 1, replies


def old_reader(world: World) -> None:
    connection = redis.Redis(port=world.redis_port, decode_responses=True)
    channel = connection.pubsub(ignore_subscribe_messages=True)
    channel.subscribe("cfg-updated")
    channel.get_message(timeout=PATIENCE_S)
    version = world.publish("old")
    said = json.loads(until("word", lambda: channel.get_message(timeout=1))["data"])
    pointer = int(connection.get(f"{said['tenant_id']}:{said['agent_id']}:cfg"))
    assert pointer == said["version"] == version, (pointer, said)
    rules = json.loads(connection.get(f"acme:orders:v{pointer}:rules"))
    assert rules["items"][0]["when"] == "old", rules


OLD_CHECKS = [old_gateway_and_old_sender, old_reader]
OLD_BUS = 'inbound = "channel:inbound:{tenant}"\npartitions = 0'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    options = parser.parse_args()
    failed, count = 0, 0
    with tempfile.TemporaryDirectory(prefix="mainspring-redis-", ignore_cleanup_errors=True) as scratch:
        for name, bus, checks in (("examples", "", EXAMPLE_CHECKS), ("old", OLD_BUS, OLD_CHECKS)):
            world = None
            try:
                world = World(options.binary, Path(scratch) / name, bus)
                world.begin()
                for check in checks:
                    count += 1
                    begun = time.monotonic()
                    check(world)
                    print(f"ok {check.__name__} ({time.monotonic() - begun:.1f} s)", flush=True)
            except Exception:
                # Each check goes on where the one before ended.
                failed += 1
                print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
                for program in world.programs if world else []:
                    print(f"{program.name}: {program.out.with_suffix('.err').read_text()[-1500:]}", flush=True)
            finally:
                if world:
                    world.end()
    print(f"{count - failed} passed, {failed} failed")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
