"""An MCP server to call, with either generation of the SDK: `python server.py <port> <ledger>`.

Whatever a tool did is appended to the ledger before it answers, so that a test can tell what is true.
"""

import sys
from pathlib import Path
from typing import Any

try:
    from mcp.server.mcpserver import Context, MCPServer
except ImportError:  # The generation before 2.
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer

import anyio
import uvicorn
from starlette.responses import PlainTextResponse

PORT, LEDGER = int(sys.argv[1]), Path(sys.argv[2])
TOKEN = b"Bearer geheim"

server = MCPServer("to be called")


def note(what: str) -> None:
    with LEDGER.open("a") as ledger:
        ledger.write(f"{what}\n")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    note(f"add {a} {b}")
    return a + b


@server.tool()
def keys(ctx: Context) -> dict[str, Any]:
    """Gives back by which keys the call was marked."""
    request = ctx.request_context
    meta = request.meta if isinstance(request.meta, dict) else request.meta.model_dump()
    headers = request.request.headers
    return {"meta": meta.get("mainspring/idempotency-key"), "header": headers.get("idempotency-key")}


@server.tool()
def refuse() -> str:
    """Fails."""
    note("refuse")
    raise ValueError("no such hotel")


@server.tool()
async def slow(seconds: float) -> str:
    """Takes its time, and then does it."""
    note("slow begun")
    await anyio.sleep(seconds)
    note("slow done")
    return "done"


@server.tool()
async def talkative(ctx: Context) -> str:
    """Tells how far it is before it answers."""
    for step in range(3):
        await ctx.report_progress(step, 3)
    return "said"


@server.tool()
def large(size: int) -> str:
    """Answers with much."""
    note("large")
    return "x" * size


def door(app: Any) -> Any:
    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or dict(scope["headers"]).get(b"authorization") == TOKEN:
            return await app(scope, receive, send)
        await PlainTextResponse("no", status_code=401, headers={"www-authenticate": "Bearer"})(scope, receive, send)

    return guarded


uvicorn.run(door(server.streamable_http_app()), host="127.0.0.1", port=PORT, log_level="warning")
