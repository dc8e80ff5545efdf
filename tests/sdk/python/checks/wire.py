"""What a worker may say on the wire, and what comes of it: late, twice, or nonsense."""

import json
import uuid

import grpc
from hatchet_sdk import EmptyModel
from hatchet_sdk.contracts import dispatcher_pb2 as dispatcher

from raw import COMPLETED, FAILED, RawWorker
from workflows import hatchet


def name_of(kind: str) -> str:
    """Gives a name for a workflow that is this check's own."""
    return f"raw-{kind}-{uuid.uuid4().hex[:8]}"


async def begin(worker: RawWorker):
    stub = hatchet.stubs.workflow(name=worker.workflow, input_validator=EmptyModel)
    return await stub.aio_run(EmptyModel(x=1), additional_metadata={"a": "b"}, wait_for_result=False)


async def said_in_vain(worker: RawWorker, action, event, payload: str) -> None:
    """Says something that comes too late. The server may take it silently, or refuse it as wrong."""
    try:
        await worker.say(action, event, payload)
    except grpc.aio.AioRpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION), error


async def check_what_an_action_holds(world):
    async with RawWorker(hatchet, name_of("Action")) as worker:
        ref = await begin(worker)
        action = await worker.action()
        await world.middle()
        assert action.action_type == dispatcher.START_STEP_RUN
        assert action.workflow_run_id == action.task_run_external_id == ref.workflow_run_id, action
        assert (action.action_id, action.task_name) == (f"{worker.workflow.lower()}:only", "only"), action
        assert (action.tenant_id, action.retry_count, action.priority) == (hatchet.tenant_id, 0, 1), action
        assert json.loads(action.additional_metadata) == {"a": "b"}, action
        payload = json.loads(action.action_payload)
        assert payload["input"] == {"x": 1} and not payload.get("parents"), payload
        assert not action.parent_workflow_run_id and not action.child_workflow_key, action
        await worker.say(action, COMPLETED, '{"done": true}')
        assert await ref.aio_result() == {"only": {"done": True}}


async def check_the_first_completion_counts(world):
    async with RawWorker(hatchet, name_of("twice")) as worker:
        ref = await begin(worker)
        action = await worker.action()
        await worker.say(action, COMPLETED, '{"answer": 1}')
        assert await ref.aio_result() == {"only": {"answer": 1}}
        await world.middle()
        # Word for word again, with another answer, and as a failure.
        await worker.say(action, COMPLETED, '{"answer": 1}')
        await said_in_vain(worker, action, COMPLETED, '{"answer": 2}')
        await said_in_vain(worker, action, FAILED, "Error: no\n")
        details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
        assert details.status.value == "COMPLETED" and details.task_runs["only"].output == {"answer": 1}, details


async def check_a_word_about_an_earlier_attempt_changes_nothing(world):
    async with RawWorker(hatchet, name_of("stale"), retries=1) as worker:
        ref = await begin(worker)
        first = await worker.action()
        await worker.say(first, FAILED, "Error: first\n")
        second = await worker.action()
        assert (first.retry_count, second.retry_count) == (0, 1)
        assert first.task_run_external_id == second.task_run_external_id
        await world.middle()
        await said_in_vain(worker, first, COMPLETED, '{"attempt": 1}')
        await said_in_vain(worker, first, FAILED, "Error: again\n")
        assert await world.status(ref.workflow_run_id) == "RUNNING"
        await worker.say(second, COMPLETED, '{"attempt": 2}')
        assert await ref.aio_result() == {"only": {"attempt": 2}}


async def check_an_error_comes_back_byte_for_byte(world):
    words = 'no type\tat all\r\n\n  "quoted" \\ {"a": 1}  ☃ \u2028 trailing  \n'
    async with RawWorker(hatchet, name_of("bytes"), retries=3) as worker:
        ref = await begin(worker)
        action = await worker.action()
        await world.middle()
        # And no retry, because it says so.
        await worker.say(action, FAILED, words, should_not_retry=True)
        await world.has_status(ref.workflow_run_id, "FAILED")
        details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
        assert details.task_runs["only"].error == words, repr(details.task_runs["only"].error)


async def check_an_output_that_is_no_json_fails_the_task(world):
    async with RawWorker(hatchet, name_of("nonsense")) as worker:
        for payload in ("{not json", '{"text": "a\\u0000b"}'):
            ref = await begin(worker)
            action = await worker.action()
            if world.middles == 0:
                await world.middle()
            await worker.say(action, COMPLETED, payload)
            await world.has_status(ref.workflow_run_id, "FAILED")
            details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
            assert details.task_runs["only"].error, f"no word about what is wrong with {payload}"
            assert details.task_runs["only"].output is None, details
        # Nothing at all is a result, though.
        ref = await begin(worker)
        await worker.say(await worker.action(), COMPLETED, "")
        assert await ref.aio_result() == {}
        await world.has_status(ref.workflow_run_id, "COMPLETED")


async def check_a_cancelled_task_is_named_to_its_worker(world):
    async with RawWorker(hatchet, name_of("cancel")) as worker:
        ref = await begin(worker)
        action = await worker.action()
        await world.middle()
        await hatchet.runs.aio_cancel(ref.workflow_run_id)
        word = await worker.action()
        assert word.action_type == dispatcher.CANCEL_STEP_RUN, word
        # The worker finds its task by these two.
        assert word.task_run_external_id == action.task_run_external_id, word
        assert word.retry_count == action.retry_count == 0, word
        # What it says about it afterwards is of no interest.
        await said_in_vain(worker, action, COMPLETED, '{"too": "late"}')
        await world.has_status(ref.workflow_run_id, "CANCELLED")
        assert await ref.aio_result() == {}


async def check_word_about_an_unknown_task_is_refused(world):
    async with RawWorker(hatchet, name_of("unknown")) as worker:
        ref = await begin(worker)
        action = await worker.action()
        await world.middle()
        for task_run_id in (str(uuid.uuid4()), "no-uuid"):
            try:
                await worker.say(action, COMPLETED, "{}", task_run_id=task_run_id)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
            else:
                raise AssertionError(f"the server knows a task {task_run_id}")
        await worker.say(action, COMPLETED, '{"fine": true}')
        assert await ref.aio_result() == {"only": {"fine": True}}
