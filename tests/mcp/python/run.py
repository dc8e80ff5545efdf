"""The published MCP SDKs against both halves of `crates/mcp`: `python run.py --catalogue BIN --remote BIN --python-1 PYTHON`.

`BIN` are the crate's examples of these names. As a client, the SDK lists and reads our tools, in each generation of the
protocol. As a server, in two generations of the SDK, it is called by our client, is slow, is killed and is not there.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

HERE = Path(__file__).parent
PATIENCE_S = 60
NAMED = ["calendar.look", "gmail.label", "hotel.book", "money.refund"]


# --- our tools, discovered by the SDK ---


@asynccontextmanager
async def client(url: str, token: str, mode: str) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as connected:
            yield connected


async def lists(url: str, mode: str) -> None:
    async with client(url, "acme", mode) as connected:
        assert connected.server_info.name == "mainspring", connected.server_info
        assert "POST /v1/tools/{name}/execute" in connected.instructions
        listed = await connected.list_tools()
        assert [tool.name for tool in listed.tools] == NAMED, listed
        look, _, _, refund = listed.tools
        assert look.annotations.read_only_hint is True and refund.annotations.destructive_hint is True, listed
        assert look.output_schema["type"] == "object", look
        assert refund.meta["mainspring/policy"] == "irreversible", refund.meta
    async with client(f"{url}?agent=trips", "acme", mode) as connected:
        assert [tool.name for tool in (await connected.list_tools()).tools] == NAMED[:3]


async def reads(url: str, mode: str) -> None:
    async with client(url, "trips-of-acme", mode) as connected:
        uris = [str(resource.uri) for resource in (await connected.list_resources()).resources]
        assert uris[2:] == ["mainspring://tools/agent/trips/enabled", "mainspring://tools/agent/trips/unavailable"], uris
        templates = (await connected.list_resource_templates()).resource_templates
        assert len(templates) == 2, templates
        documents = {uri: json.loads((await connected.read_resource(uri)).contents[0].text) for uri in uris}
        tools = {uri: [tool["name"] for tool in document["tools"]] for uri, document in documents.items()}
        assert tools[uris[1]] == NAMED and tools[uris[2]] == NAMED[:3] and tools[uris[3]] == NAMED[3:], tools
        assert documents[uris[3]]["tools"][0]["why_not"][0]["code"] == "not_enabled", documents[uris[3]]
        seen, uri = [], uris[0]
        while uri:
            page = json.loads((await connected.read_resource(uri)).contents[0].text)
            seen += [tool["name"] for tool in page["tools"]]
            uri = page["next"]
        assert len(seen) == 234 and seen == sorted(set(seen)), seen
        try:
            await connected.read_resource("mainspring://tools/agent/other/enabled")
        except MCPError as refused:
            assert "another agent" in str(refused), refused
        else:
            raise AssertionError("another agent's tools were read")


async def executes_nothing(url: str, mode: str) -> None:
    async with client(url, "acme", mode) as connected:
        result = await connected.call_tool("money.refund", {"subject": "x"})
        assert result.is_error and "POST /v1/tools/money.refund/execute" in result.content[0].text, result


async def shuts_out(url: str, mode: str) -> None:
    try:
        async with client(url, "nonsense", mode) as connected:
            await connected.list_tools()
    except Exception as refused:  # In whatever the SDK wraps it.
        assert "this token is not known: send `Authorization: Bearer`" in told(refused), told(refused)
    else:
        raise AssertionError("a token nobody knows let us in")


def told(error: BaseException) -> str:
    parts = [told(one) for one in error.exceptions] if isinstance(error, BaseExceptionGroup) else [repr(error)]
    return " ".join([*parts, repr(error.__cause__)])


# --- the SDK's tools, called by us ---


class Remote:
    """A server made with the SDK, and our client, which is told what to do by lines."""

    def __init__(self, python: str, binary: Path, scratch: Path) -> None:
        self.python, self.binary, self.scratch = python, binary, scratch
        self.ledger = scratch / "ledger"
        self.server: subprocess.Popen[bytes] | None = None
        self.client: asyncio.subprocess.Process | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        self.server = subprocess.Popen([self.python, HERE / "server.py", str(self.port), self.ledger])
        until = time.monotonic() + PATIENCE_S
        while socket.socket().connect_ex(("127.0.0.1", self.port)) != 0:
            assert self.server.poll() is None and time.monotonic() < until, "the SDK's server did not start"
            time.sleep(0.05)

    def kill(self) -> None:
        if self.server:
            self.server.send_signal(signal.SIGKILL)
            self.server.wait()
            self.server = None

    async def connect(self, token: str = "geheim") -> None:
        await self.disconnect()
        environment = os.environ | {"TOKEN": token}
        pipe = asyncio.subprocess.PIPE
        self.client = await asyncio.create_subprocess_exec(
            self.binary, self.url, stdin=pipe, stdout=pipe, env=environment, limit=1 << 24
        )

    async def disconnect(self) -> None:
        if self.client:
            self.client.stdin.close()
            assert await asyncio.wait_for(self.client.wait(), PATIENCE_S) == 0
            self.client = None

    def say(self, line: dict[str, Any]) -> None:
        self.client.stdin.write(json.dumps(line).encode() + b"\n")

    async def heard(self) -> dict[str, Any]:
        return json.loads(await asyncio.wait_for(self.client.stdout.readline(), PATIENCE_S))

    async def call(self, tool: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        self.say({"tool": tool, "arguments": arguments, "key": "key-1", "timeout_ms": PATIENCE_S * 1000, **more})
        return await self.heard()

    async def noted(self, what: str) -> None:
        """Waits until the ledger says it."""
        until = time.monotonic() + PATIENCE_S
        while what not in self.notes():
            assert time.monotonic() < until, f"{what!r} is not in {self.notes()}"
            await asyncio.sleep(0.02)

    def notes(self) -> list[str]:
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []


async def calls(remote: Remote) -> None:
    await remote.connect()
    remote.say({"list": True})
    listed = await remote.heard()
    tools = {tool["name"]: tool for tool in listed["tools"]}
    assert set(tools) == {"add", "keys", "refuse", "slow", "talkative", "large"}, listed
    assert tools["add"]["input_schema"]["required"] == ["a", "b"] and tools["add"]["description"], tools["add"]
    answer = await remote.call("add", {"a": 2, "b": 3})
    assert answer["outcome"] == "succeeded" and answer["answer"]["structured"] == {"result": 5}, answer
    answer = await remote.call("keys", {})
    assert json.loads(answer["answer"]["text"]) == {"meta": "key-1", "header": "key-1"}, answer
    answer = await remote.call("talkative", {})
    assert answer["answer"]["text"] == "said", answer
    for number in range(40):
        remote.say({"tool": "add", "arguments": {"a": number, "b": 1}, "key": str(number), "tag": number})
    for _ in range(40):
        answer = await remote.heard()
        assert answer["answer"]["structured"] == {"result": answer["tag"] + 1}, answer


async def fails(remote: Remote) -> None:
    await remote.connect()
    answer = await remote.call("refuse", {})
    # The newer generation keeps the words of an exception to itself.
    assert answer["outcome"] == "tool_error" and "refuse" in answer["answer"]["text"], answer
    assert remote.notes() == ["refuse"]
    # Whether arguments or names are refused as an error of the protocol or of the tool is the server's choice.
    for tool, arguments in [("add", {"a": "many"}), ("nobody", {})]:
        answer = await remote.call(tool, arguments)
        assert answer["outcome"] == "tool_error" or answer.get("cause") == "Refused", answer
    assert remote.notes() == ["refuse"]
    answer = await remote.call("large", {"size": 1_000_000})
    assert answer["outcome"] == "in_doubt" and answer["doubt"].startswith("TooLarge"), answer
    assert remote.notes() == ["refuse", "large"]


async def times_out(remote: Remote) -> None:
    await remote.connect()
    assert (await remote.call("add", {"a": 1, "b": 1}))["outcome"] == "succeeded"
    answer = await remote.call("slow", {"seconds": 3600}, timeout_ms=500)
    assert answer["outcome"] == "in_doubt" and answer["doubt"].startswith("TimedOut"), answer
    assert remote.notes() == ["add 1 1", "slow begun"]
    assert (await remote.call("add", {"a": 2, "b": 2}))["outcome"] == "succeeded"


async def is_killed(remote: Remote) -> None:
    await remote.connect()
    remote.say({"tool": "slow", "arguments": {"seconds": 3600}, "key": "k", "timeout_ms": PATIENCE_S * 1000})
    await remote.noted("slow begun")
    remote.kill()
    answer = await remote.heard()
    assert answer["outcome"] == "in_doubt" and answer["doubt"].startswith("ConnectionLost"), answer
    answer = await remote.call("add", {"a": 1, "b": 1})
    assert answer["outcome"] == "not_done" and answer["cause"] == "Unreachable", answer
    # A server that came back is found again, and nothing was called twice.
    remote.start()
    assert (await remote.call("add", {"a": 1, "b": 1}))["outcome"] == "succeeded"
    assert remote.notes() == ["slow begun", "add 1 1"], remote.notes()


async def is_restarted(remote: Remote) -> None:
    await remote.connect()
    assert (await remote.call("add", {"a": 1, "b": 1}))["outcome"] == "succeeded"
    remote.kill()
    remote.start()
    # The session of before, if there was one, is gone. Either it is begun anew, or the call certainly was not made.
    answer = await remote.call("add", {"a": 2, "b": 2})
    assert answer["outcome"] in ("succeeded", "not_done"), answer
    assert remote.notes() == ["add 1 1"] + ["add 2 2"] * (answer["outcome"] == "succeeded"), (answer, remote.notes())


async def is_closed(remote: Remote) -> None:
    await remote.connect(token="wrong")
    answer = await remote.call("add", {"a": 1, "b": 1})
    assert answer["outcome"] == "not_done" and answer["cause"] == "Unauthorized", answer
    assert remote.notes() == []


CLIENT_CHECKS: list[Callable[[str, str], Awaitable[None]]] = [lists, reads, executes_nothing, shuts_out]
REMOTE_CHECKS: list[Callable[[Remote], Awaitable[None]]] = [calls, fails, times_out, is_killed, is_restarted, is_closed]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--remote", type=Path, required=True)
    parser.add_argument("--python-1", required=True, help="a Python with the SDK's generation before this one")
    parser.add_argument("--only", default="", metavar="WORD")
    options = parser.parse_args()
    failed, count = 0, 0

    async def check(name: str, carried_out: Callable[[], Awaitable[None]]) -> None:
        nonlocal failed, count
        if options.only not in name:
            return
        count += 1
        try:
            await asyncio.wait_for(carried_out(), 4 * PATIENCE_S)
            print(f"ok {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)

    catalogue = subprocess.Popen([options.catalogue], stdout=subprocess.PIPE, text=True)
    try:
        url = catalogue.stdout.readline().strip()
        for mode in ("auto", "legacy"):
            for client_check in CLIENT_CHECKS:
                await check(f"client {mode} {client_check.__name__}", lambda c=client_check, m=mode: c(url, m))
    finally:
        catalogue.kill()
        catalogue.wait()

    for generation, python in (("2", sys.executable), ("1", options.python_1)):
        for remote_check in REMOTE_CHECKS:

            async def with_server(c: Any = remote_check, p: str = python) -> None:
                with tempfile.TemporaryDirectory(prefix="mainspring-mcp-") as scratch:
                    remote = Remote(p, options.remote, Path(scratch))
                    try:
                        remote.start()
                        await c(remote)
                        await remote.disconnect()
                    finally:
                        remote.kill()
                        if remote.client and remote.client.returncode is None:
                            remote.client.kill()

            await check(f"server {generation} {remote_check.__name__}", with_server)
    print(f"{count - failed} passed, {failed} failed")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
