"""What tasks did, and what holds them: files that the checks and the workers share.

A result tells what the server believes. Only the worker knows how often a function was really called, so every task
writes a line here, and a check compares the two. A gate holds a task in its middle until the check has seen enough:
that is how a check knows what is in flight without waiting for a fixed time.
"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

# A gate gives up rather than hold a slot for ever when its check is long gone.
GATE_PATIENCE_S = 150
LOOK_EVERY_S = 0.05


def _dir() -> Path:
    return Path(os.environ["EVIDENCE_DIR"])


def note(mark: str, what: str, **facts: Any) -> None:
    """Appends one line to what is known about `mark`. One write in append mode, so that processes do not mix lines."""
    line = json.dumps({"what": what, "at": time.time(), "pid": os.getpid(), **facts}) + "\n"
    with open(_dir() / f"{mark}.jsonl", "ab", buffering=0) as file:
        file.write(line.encode())


def notes(mark: str, what: str | None = None) -> list[dict[str, Any]]:
    """Gives what was noted about `mark`, oldest first."""
    try:
        text = (_dir() / f"{mark}.jsonl").read_text()
    except FileNotFoundError:
        return []
    # The last line may be half written: it ends with a newline once it is whole.
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    return [line for line in lines if what is None or line["what"] == what]


def open_gate(mark: str, gate: str) -> None:
    (_dir() / f"{mark}.{gate}.gate").touch()


def close_gate(mark: str, gate: str) -> None:
    (_dir() / f"{mark}.{gate}.gate").unlink()


def open_all_gates(mark: str) -> None:
    """Lets everything go that a check has left behind, so that it takes no slot from the next one."""
    (_dir() / f"{mark}.over").touch()


def is_open(mark: str, gate: str) -> bool:
    return (_dir() / f"{mark}.{gate}.gate").exists() or (_dir() / f"{mark}.over").exists()


async def pass_gate(mark: str, gate: str) -> None:
    """Waits until the check opens the gate."""
    end = time.monotonic() + GATE_PATIENCE_S
    while not is_open(mark, gate):
        if time.monotonic() > end:
            raise TimeoutError(f"nobody opened the gate {gate} of {mark}")
        await asyncio.sleep(LOOK_EVERY_S)
