"""A worker that says what a check wants it to say: the package's own stubs, without the package's worker."""

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from hatchet_sdk import Hatchet
from hatchet_sdk.connection import new_conn
from hatchet_sdk.contracts import dispatcher_pb2 as dispatcher
from hatchet_sdk.contracts.dispatcher_pb2_grpc import DispatcherStub
from hatchet_sdk.contracts.v1 import workflows_pb2 as workflows
from hatchet_sdk.contracts.v1.workflows_pb2_grpc import AdminServiceStub
from hatchet_sdk.utils.api_auth import create_authorization_header

HEARTBEAT_EVERY_S = 2
AGAIN_AFTER_S = 0.2
ACTION_PATIENCE_S = 45
CALL_PATIENCE_S = 20

STARTED = dispatcher.STEP_EVENT_TYPE_STARTED
COMPLETED = dispatcher.STEP_EVENT_TYPE_COMPLETED
FAILED = dispatcher.STEP_EVENT_TYPE_FAILED


def task(name: str, workflow: str, **more: Any) -> workflows.CreateTaskOpts:
    """A task as the package registers it."""
    options: dict[str, Any] = {"timeout": "3m", "schedule_timeout": "5m", "inputs": "{}", "slot_requests": {"default": 1}}
    return workflows.CreateTaskOpts(readable_id=name, action=f"{workflow.lower()}:{name}", **{**options, **more})


class Wire:
    """The services of the server, with the token of the client."""

    def __init__(self, hatchet: Hatchet, token: str | None = None) -> None:
        self._channel = new_conn(hatchet.config, True)
        self.dispatcher = DispatcherStub(self._channel)
        self.admin = AdminServiceStub(self._channel)
        self.who: Any = create_authorization_header(token or hatchet.config.token)

    async def call(self, method: Any, request: Any) -> Any:
        """Calls until the server is there. Not for what must not be said twice."""
        end = asyncio.get_running_loop().time() + CALL_PATIENCE_S
        while True:
            try:
                return await method(request, metadata=self.who)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(AGAIN_AFTER_S)

    async def close(self) -> None:
        await self._channel.close()


class RawWorker(Wire):
    """Registers a workflow with one task and takes its actions. Like any worker it listens again when it is cut off."""

    def __init__(self, hatchet: Hatchet, workflow: str, **options: Any) -> None:
        super().__init__(hatchet)
        self.workflow = workflow
        self.worker_id = ""
        self._options = options
        self._actions: asyncio.Queue[dispatcher.AssignedAction] = asyncio.Queue()
        self._seen: set[tuple[str, int, int]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "RawWorker":
        await self.call(
            self.admin.PutWorkflow,
            workflows.CreateWorkflowVersionRequest(
                name=self.workflow, tasks=[task("only", self.workflow, **self._options)]
            ),
        )
        registered = await self.call(
            self.dispatcher.Register,
            dispatcher.WorkerRegisterRequest(
                worker_name=f"{self.workflow}-worker",
                services=["default"],
                actions=[f"{self.workflow.lower()}:only"],
                slot_config={"default": 5},
            ),
        )
        self.worker_id = registered.worker_id
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self._tasks:
            running.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.close()

    async def action(self) -> dispatcher.AssignedAction:
        """Gives the next action, and says that it has started."""
        action = await asyncio.wait_for(self._actions.get(), ACTION_PATIENCE_S)
        if action.action_type == dispatcher.START_STEP_RUN:
            await self.say(action, STARTED, "")
        return action

    async def say(
        self,
        action: dispatcher.AssignedAction,
        event: Any,
        payload: str,
        *,
        task_run_id: str | None = None,
        should_not_retry: bool = False,
    ) -> Any:
        now = Timestamp()
        now.GetCurrentTime()
        return await self.call(
            self.dispatcher.SendStepActionEvent,
            dispatcher.StepActionEvent(
                worker_id=self.worker_id,
                job_id=action.job_id,
                job_run_id=action.job_run_id,
                task_id=action.task_id,
                task_run_external_id=task_run_id or action.task_run_external_id,
                action_id=action.action_id,
                event_timestamp=now,
                event_type=event,
                event_payload=payload,
                retry_count=action.retry_count,
                should_not_retry=should_not_retry,
            ),
        )

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                request = dispatcher.WorkerListenRequest(worker_id=self.worker_id)
                async for action in self.dispatcher.ListenV2(request, metadata=self.who):
                    # After a restart the server may say again what it does not know to have been heard.
                    key = (action.task_run_external_id, action.retry_count, action.action_type)
                    if key not in self._seen:
                        self._seen.add(key)
                        self._actions.put_nowait(action)
            await asyncio.sleep(AGAIN_AFTER_S)

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                now = Timestamp()
                now.GetCurrentTime()
                beat = dispatcher.HeartbeatRequest(worker_id=self.worker_id, heartbeat_at=now)
                await self.dispatcher.Heartbeat(beat, metadata=self.who)
            await asyncio.sleep(HEARTBEAT_EVERY_S)
