"""Unmodified Hatchet workers and clients against this server: `python run.py --binary <mainspring>`.

`--crash` kills the server with SIGKILL in the middle of every check and starts it again; nothing else changes.
`--only word` runs the checks with that word in their names, `--part 1/3` the first third of them, `--keep` leaves the
directory with the logs.
"""

import argparse
import asyncio
import importlib
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

LIMIT_S = 60
CRASH_LIMIT_S = 120

Check = Callable[..., Awaitable[None]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--part", default="1/1", metavar="N/OF", help="only each OF-th check, beginning with the N-th")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, stop)
    scratch = Path(tempfile.mkdtemp(prefix="mainspring-sdk-"))
    try:
        return run(options, scratch)
    finally:
        if options.keep:
            print(f"logs are in {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)


def stop(*_: object) -> None:
    """Whoever stops the test stops its processes too: SystemExit runs every `finally`, unless a second signal cuts it short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def run(options: argparse.Namespace, scratch: Path) -> int:
    from server import Server

    evidence_dir = scratch / "evidence"
    evidence_dir.mkdir()
    server = Server(options.binary.resolve(), scratch)
    try:
        server.start()
        os.environ["HATCHET_CLIENT_TOKEN"] = server.token
        os.environ["HATCHET_CLIENT_TLS_STRATEGY"] = "none"
        os.environ["EVIDENCE_DIR"] = str(evidence_dir)
        # This process starts others while gRPC has threads, and uses no gRPC in what it forks.
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        # The package announces its own future in hundreds of lines.
        os.environ["PYTHONWARNINGS"] = "ignore::DeprecationWarning"
        os.chdir(scratch)
        return asyncio.run(run_checks(options, server, scratch))
    finally:
        server.kill()


async def run_checks(options: argparse.Namespace, server: object, scratch: Path) -> int:
    # Only now, because the client reads its token when it is made.
    from world import World

    limit_s = CRASH_LIMIT_S if options.crash else LIMIT_S
    world = World(server, scratch, crash=options.crash)  # type: ignore[arg-type]
    failed: list[tuple[str, str]] = []
    repeated: list[tuple[str, str]] = []
    passed = 0
    try:
        await world.start_staff()
        part, parts = (int(number) for number in options.part.split("/"))
        for name, check in collect(options.only)[part - 1 :: parts]:
            world.mark = name
            world.middles = 0
            world.asked_again = False
            began = time.monotonic()
            fault = await attempt(world, check, limit_s)
            if fault and options.crash:
                # hatchet-sdk 1.43.1 loses what a worker is about to say when the connection dies under it (see
                # `World.middle`), which no server can mend. So a check may be asked a second time, and that is said.
                print(f"again  {name}: {reason_of(fault)}", flush=True)
                repeated.append((name, fault))
                await world.tidy()
                world.mark = f"{name}-again"
                world.middles = 0
                world.asked_again = True
                fault = await attempt(world, check, limit_s)
            took_s = time.monotonic() - began
            print(f"{'FAILED' if fault else 'ok    '} {name} ({took_s:.1f} s)", flush=True)
            if fault:
                failed.append((name, fault))
            else:
                passed += 1
            await world.tidy()
    finally:
        world.close()
    for name, fault in failed:
        print(f"\nFAILED {name}\n{fault}")
    for name, fault in repeated:
        print(f"\nasked twice: {name}\n{fault}")
    print(f"{passed} passed, {len(failed)} failed, {len(repeated)} asked twice")
    # One line each, which `cargo xtask sdk` says once more at its end.
    for name, fault in failed:
        print(f"failed: {name}: {reason_of(fault)}")
    # A run in which nothing was checked is no success.
    return 1 if failed or not passed else 0


def reason_of(fault: str) -> str:
    """The line that says what is wrong: the last before what the processes said."""
    return fault.split("\n--- ")[0].strip().splitlines()[-1]


async def attempt(world: object, check: Check, limit_s: float) -> str | None:
    """Runs one check; gives what is wrong, or None."""
    try:
        await asyncio.wait_for(check(world), limit_s)
        # A check that was never in its middle would pass the crash run without a crash.
        assert world.middles > 0, "the check never called world.middle()"  # type: ignore[attr-defined]
    except TimeoutError:
        fault = f"{traceback.format_exc()}\nthe check took more than {limit_s} s"
    except Exception:
        fault = traceback.format_exc()
    else:
        return None
    return f"{fault}\n{world.last_words()}"  # type: ignore[attr-defined]


def collect(only: str) -> list[tuple[str, Check]]:
    """Gives every `check_...` of every file in `checks`, by the order of names and lines."""
    import checks

    found = []
    for module in sorted(pkgutil.iter_modules(checks.__path__), key=lambda module: module.name):
        loaded = importlib.import_module(f"checks.{module.name}")
        for name, value in vars(loaded).items():
            full = f"{module.name}-{name.removeprefix('check_')}"
            if name.startswith("check_") and only in full:
                found.append((full, value))
    return found


if __name__ == "__main__":
    sys.exit(main())
