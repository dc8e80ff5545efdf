"""What a check has at hand: the server, workers, a client, and a way to wait for something instead of for a time."""

import asyncio
import atexit
import contextlib
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from hatchet_sdk import DesiredWorkerLabel

import evidence
from server import Server

T = TypeVar("T")

HERE = Path(__file__).parent
LOOK_EVERY_S = 0.1
# How long something may take that should take a moment: far longer than it should, so that a busy machine is no failure.
PATIENCE_S = 45
# How long a worker may take to end after SIGTERM once its tasks are done.
DRAIN_MAX_S = 30
LAST_WORDS_LINES = 30


class WorkerProcess:
    """A worker in a process group of its own, because the package runs two processes for one worker."""

    def __init__(self, name: str, slots: int, labels: dict[str, str | int], scratch: Path) -> None:
        self.name = name
        self._log = scratch / f"worker-{name}.log"
        command = [sys.executable, str(HERE / "worker.py"), name, str(slots)]
        command += [f"{key}={value}" for key, value in labels.items()]
        with open(self._log, "ab") as log:
            # In the scratch directory, because the client reads .env files of the directory it runs in.
            self._process = subprocess.Popen(
                command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # However this process ends: a group of its own would outlive it.
        atexit.register(self.kill)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def drain(self) -> None:
        """SIGTERM: it finishes what it has begun."""
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self._process.wait), DRAIN_MAX_S)

    def kill(self) -> None:
        """SIGKILL to both processes: no word of farewell reaches the server."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        atexit.unregister(self.kill)

    def last_words(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-LAST_WORDS_LINES:])
        return "(it wrote nothing)"


class World:
    """One for all checks. `mark` is the name of the check that runs, unique in this run: it keeps checks apart."""

    def __init__(self, server: Server, scratch: Path, *, crash: bool) -> None:
        from workflows import hatchet

        self.server = server
        self.hatchet = hatchet
        self.crash = crash
        self.mark = "nobody"
        self.middles = 0
        self.asked_again = False
        self._scratch = scratch
        self._staff: list[WorkerProcess] = []
        self._hired: list[WorkerProcess] = []

    async def start_staff(self) -> None:
        """Starts the two workers that stay for all checks. They differ in their labels only."""
        for name, memory in (("one", 100), ("two", 200)):
            self._staff.append(WorkerProcess(name, 20, {"place": name, "memory": memory}, self._scratch))
        for worker in self._staff:
            await self._ready(worker)

    async def hire(self, name: str, slots: int = 5, **labels: str | int) -> WorkerProcess:
        """Starts a worker for this check only, and waits until the server counts on it."""
        worker = WorkerProcess(f"{self.mark}-{name}", slots, labels, self._scratch)
        self._hired.append(worker)
        await self._ready(worker)
        return worker

    async def middle(self, *, all_back: bool = False) -> None:
        """Called when something is in flight: the moment at which the server dies, if it is to die.

        With `all_back` it also waits until the workers have found back. A check asks for that if several tasks end at
        once afterwards: a worker that cannot reach the server closes the connection under the other words it is about
        to say, and loses them for good (`DispatcherClient._try_send_step_action_event` in hatchet-sdk 1.43.1; the call
        ends with a CancelledError, which is not retried). No server can make up for that before the task's timeout.
        """
        self.middles += 1
        if not self.crash:
            return
        # What was lost in this way before is not to be lost again: the second time everybody is back first.
        all_back = all_back or self.asked_again
        workers = [worker for worker in self._staff + self._hired if not worker.has_ended]
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        if all_back:
            # A server that has just started knows none of them as active before they have opened their streams again.
            for worker in workers:
                await self._ready(worker)

    @contextlib.asynccontextmanager
    async def meanwhile(self) -> AsyncIterator[None]:
        """For checks of what is refused: a task is running all the while, and is well afterwards."""
        from workflows import Item, gated

        ref = await gated.aio_run(Item(mark=self.mark, item=4711), wait_for_result=False)
        result = asyncio.create_task(ref.aio_result())
        await self.noted("started")
        await self.middle()
        yield
        evidence.open_gate(self.mark, "go")
        assert (await result)["item"] == 4711, "what ran meanwhile came to another end"

    def times(self, what: str, expected: int) -> None:
        """Asserts how often something was really done.

        A start of which the server had not heard when it was killed is rightly repeated, so a crash may double some.
        """
        found = len(evidence.notes(self.mark, what))
        most = expected * (2 if self.crash else 1)
        assert expected <= found <= most, f"{what!r} was noted {found} times instead of {expected}"

    async def until(
        self, what: str, ask: Callable[[], T | Awaitable[T]], *, patience_s: float = PATIENCE_S
    ) -> T:
        """Asks until the answer is true, and gives that answer."""
        end = time.monotonic() + patience_s
        while True:
            answer: Any = ask()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            if time.monotonic() > end:
                raise AssertionError(f"waited {patience_s} s in vain for {what}; the last answer was {answer!r}")
            await asyncio.sleep(LOOK_EVERY_S)

    async def noted(self, what: str, count: int = 1, *, patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """Waits until tasks of this check have noted something that often, and gives what they noted."""

        def ask() -> list[dict[str, Any]] | None:
            found = evidence.notes(self.mark, what)
            return found if len(found) >= count else None

        found = await self.until(f"{count} times the note {what!r}", ask, patience_s=patience_s)
        assert found is not None
        return found

    async def status(self, run_id: str) -> str:
        return (await self.hatchet.runs.aio_get_status(run_id)).value

    async def has_status(self, run_id: str, *wanted: str, patience_s: float = PATIENCE_S) -> str:
        async def ask() -> str | None:
            status = await self.status(run_id)
            return status if status in wanted else None

        status = await self.until(f"the status {' or '.join(wanted)} of run {run_id}", ask, patience_s=patience_s)
        assert status is not None
        return status

    async def task_has_status(self, run_id: str, task: str, wanted: str) -> None:
        async def ask() -> bool:
            details = await self.hatchet.runs.aio_get_details(run_id)
            return task in details.task_runs and details.task_runs[task].status.value == wanted

        await self.until(f"the status {wanted} of {task} in run {run_id}", ask)

    async def tidy(self) -> None:
        """Ends what a check has left: its workers, and its tasks that wait at a gate."""
        evidence.open_all_gates(self.mark)
        for worker in self._hired:
            worker.kill()
        self._hired.clear()
        for worker in self._staff:
            if worker.has_ended:
                raise RuntimeError(f"the worker {worker.name} has ended:\n{worker.last_words()}")

    def at(self, place: str | None = None) -> list[DesiredWorkerLabel]:
        """Asks for the workers with this label, or for those that the check has hired with its mark as their place."""
        return [DesiredWorkerLabel(key="place", value=place or self.mark, required=True)]

    def close(self) -> None:
        for worker in self._hired + self._staff:
            worker.kill()

    def last_words(self) -> str:
        workers = [(f"worker {worker.name}", worker.last_words()) for worker in self._staff + self._hired]
        return "\n".join(f"--- {name}\n{words}" for name, words in [("server", self.server.last_words()), *workers])

    async def _ready(self, worker: WorkerProcess) -> None:
        async def ask() -> bool:
            if worker.has_ended:
                raise RuntimeError(f"the worker {worker.name} has ended:\n{worker.last_words()}")
            rows = (await self.hatchet.workers.aio_list()).rows or []
            return any(row.name == worker.name and row.status and row.status.value == "ACTIVE" for row in rows)

        await self.until(f"the worker {worker.name} to be active", ask)
