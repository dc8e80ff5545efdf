"""What the server refuses, in which words, and that it is well afterwards."""

import asyncio
import secrets

import grpc
from hatchet_sdk import ClientConfig, EmptyModel, Hatchet
from hatchet_sdk.clients.rest.exceptions import UnauthorizedException
from hatchet_sdk.connection import new_conn
from hatchet_sdk.contracts.v1 import workflows_pb2 as workflows
from hatchet_sdk.contracts.v1.shared import condition_pb2 as conditions
from hatchet_sdk.contracts.v1.shared.trigger_pb2 import TriggerWorkflowRequest
from hatchet_sdk.contracts.workflows_pb2_grpc import WorkflowServiceStub

from raw import Wire, task
from workflows import Item, echo, hatchet

INVALID = grpc.StatusCode.INVALID_ARGUMENT
# The size of the largest message that the package sends or takes.
MESSAGE_MAX_BYTES = 4 * 1024 * 1024


async def refusal(call) -> grpc.RpcError:
    """Gives the error with which a call is refused."""
    try:
        answer = await call
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"the server should have refused this, and answered {answer}")


async def check_a_token_that_is_not_ours(world):
    async with world.meanwhile():
        head, claims, signature = hatchet.config.token.split(".")
        forged = f"{head}.{claims}.{signature[::-1]}"
        stranger = Hatchet(config=ClientConfig(token=forged, tls_config=hatchet.config.tls_config))
        stub = stranger.stubs.workflow(name="echo", input_validator=EmptyModel)
        error = await refusal(stub.aio_run(EmptyModel(mark=world.mark), wait_for_result=False))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED and error.details(), error
        try:
            await stranger.runs.aio_list()
        except UnauthorizedException as refused:
            assert refused.status == 401, refused
        else:
            raise AssertionError("the REST API takes a forged token")


async def check_a_workflow_that_does_not_exist(world):
    async with world.meanwhile():
        stub = hatchet.stubs.workflow(name="no-such-workflow", input_validator=EmptyModel)
        error = await refusal(stub.aio_run(EmptyModel(), wait_for_result=False))
        assert error.code() in (grpc.StatusCode.NOT_FOUND, INVALID), error
        assert "no-such-workflow" in error.details(), error


async def check_input_that_is_no_json_and_a_priority_that_does_not_exist(world):
    async with world.meanwhile():
        wire = Wire(hatchet)
        service = WorkflowServiceStub(wire._channel)
        requests = [
            (TriggerWorkflowRequest(name="echo", input="{not json"), "input"),
            (TriggerWorkflowRequest(name="echo", input='{"mark": "m"}', priority=7), "priority"),
            (TriggerWorkflowRequest(name="echo", input='{"mark": "m"}', additional_metadata="[1"), "additional_metadata"),
        ]
        for request, field in requests:
            error = await refusal(wire.call(service.TriggerWorkflow, request))
            assert error.code() == INVALID and field in error.details(), (field, error)
        await wire.close()


async def check_a_message_that_is_too_large(world):
    async with world.meanwhile():
        # The package refuses to send such a message itself, so this client is told that it may. What is sent cannot be
        # compressed, because the limit is on what comes out.
        config = hatchet.config.model_copy(update={"grpc_max_send_message_length": 16 * MESSAGE_MAX_BYTES})
        channel = new_conn(config, True)
        service = WorkflowServiceStub(channel)
        words = secrets.token_hex((MESSAGE_MAX_BYTES + 1024) // 2)
        request = TriggerWorkflowRequest(name="echo", input=f'{{"mark": "m", "words": "{words}"}}')
        error = await refusal(service.TriggerWorkflow(request, metadata=Wire(hatchet).who))
        refused = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE, INVALID)
        assert error.code() in refused, error
        await channel.close()
        # Nearly as large is not too large.
        large = "x" * (3 * 1024 * 1024)
        stub = hatchet.stubs.workflow(name="echo", input_validator=EmptyModel)
        result = await stub.aio_run(EmptyModel(mark=world.mark, item=3, words=large))
        assert result == {"echo": {"item": 3}}, result
        assert await echo.aio_run(Item(mark=world.mark, item=4)) == {"item": 4}


async def check_definitions_that_make_no_sense(world):
    def skip_if(expression: str) -> conditions.TaskConditions:
        base = conditions.BaseMatchCondition(
            readable_data_key="key", action=conditions.SKIP, or_group_id="00000000-0000-0000-0000-000000000001",
            expression=expression,
        )
        return conditions.TaskConditions(
            parent_override_conditions=[conditions.ParentOverrideMatchCondition(base=base, parent_readable_id="first")]
        )

    name = "makes-no-sense"
    first = task("first", name)
    cases = {
        "an expression that cannot be read": ([first, task("second", name, parents=["first"], conditions=skip_if("output.n >"))], "expression"),
        "a condition on somebody who is no parent": ([task("second", name, conditions=skip_if("output.n > 1"))], "parent"),
        "an unknown parent": ([task("second", name, parents=["gone"])], "parents"),
        "a cycle": ([task("first", name, parents=["second"]), task("second", name, parents=["first"])], "parents"),
        "a task twice": ([first, first], "readable_id"),
        "a timeout that is no duration": ([task("first", name, timeout="soon")], "timeout"),
        "no task at all": ([], "tasks"),
    }
    async with world.meanwhile():
        wire = Wire(hatchet)
        for what, (tasks, field) in cases.items():
            request = workflows.CreateWorkflowVersionRequest(name=name, tasks=tasks)
            error = await refusal(wire.call(wire.admin.PutWorkflow, request))
            assert error.code() == INVALID, (what, error)
            assert field in error.details(), (what, error.details())
        # Nothing of it has stayed.
        rows = (await hatchet.workflows.aio_list(name)).rows or []
        assert [row.name for row in rows if row.name == name] == []
        await wire.close()


async def check_the_same_definition_again_is_the_same_version(world):
    async with world.meanwhile():
        wire = Wire(hatchet)
        answers = await asyncio.gather(*[wire.call(wire.admin.PutWorkflow, echo.to_proto()) for _ in range(3)])
        assert len({(answer.id, answer.workflow_id) for answer in answers}) == 1, answers
        await wire.close()
