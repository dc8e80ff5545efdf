"""Errors, retries, backoff, and the words of an error."""

import asyncio

from hatchet_sdk.exceptions import FailedTaskRunExceptionGroup

from evidence import notes, open_gate
from workflows import (
    Flaky,
    Marked,
    Words,
    complains,
    flaky,
    flaky_with_backoff,
    hatchet,
    hopeless,
    returns_list,
    returns_null_character,
)

# A clock may be read a little early or late.
TOLERANCE_S = 0.1


async def failure(ref) -> list[tuple[str, str]]:
    """Gives type and words of each error of a run that has to fail."""
    try:
        result = await ref.aio_result()
    except FailedTaskRunExceptionGroup as group:
        return [(error.exc_type, error.exc) for error in group.exceptions]
    raise AssertionError(f"the run should have failed, and gave {result}")


async def check_retries_without_backoff(world):
    ref = await flaky.aio_run(Flaky(mark=world.mark, succeeds_on=3), wait_for_result=False)
    await world.noted("second")
    await world.middle()
    open_gate(world.mark, "second")
    assert await ref.aio_result() == {"attempts": 3}
    attempts = notes(world.mark, "attempt")
    assert [(note["retry_count"], note["number"], note["max"]) for note in attempts] == [(0, 1, 4), (1, 2, 4), (2, 3, 4)]
    assert await world.status(ref.workflow_run_id) == "COMPLETED"


async def check_retries_come_to_an_end(world):
    open_gate(world.mark, "second")
    ref = await flaky.aio_run(Flaky(mark=world.mark, succeeds_on=99), wait_for_result=False)
    await world.noted("second")
    await world.middle()
    # The last error counts.
    assert await failure(ref) == [("RuntimeError", "attempt 4 fails")]
    assert [note["number"] for note in notes(world.mark, "attempt")][-1] == 4
    assert await world.status(ref.workflow_run_id) == "FAILED"


async def check_backoff_between_attempts(world):
    ref = await flaky_with_backoff.aio_run(Flaky(mark=world.mark, succeeds_on=3), wait_for_result=False)
    await world.noted("attempt", 1)
    # In the first pause, or about to be.
    await world.middle()
    assert await ref.aio_result() == {"attempts": 3}
    first, second, third = notes(world.mark, "attempt")
    assert second["at"] - first["at"] >= 1.5 - TOLERANCE_S, "the first pause is the factor itself"
    assert third["at"] - second["at"] >= 2.0 - TOLERANCE_S, "the second pause is the most it may be"
    if not world.crash:
        assert third["at"] - first["at"] < 10, "the pauses are longer than asked for"


async def check_an_error_that_forbids_retries(world):
    ref = await hopeless.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("attempt")
    await world.middle()
    open_gate(world.mark, "go")
    assert await failure(ref) == [("NonRetryableException", "no use trying again")]
    world.times("attempt", 1)
    assert {note["number"] for note in notes(world.mark, "attempt")} == {1}


async def check_the_words_of_an_error_arrive_as_they_were(world):
    text = "one: two ☃ \"three\" {\"four\": 5} \\ %s"
    ref = await complains.aio_run(Words(mark=world.mark, text=text), wait_for_result=False)
    waiting = asyncio.create_task(failure(ref))
    await world.noted("started")
    await world.middle()
    open_gate(world.mark, "go")
    assert await waiting == [("ValueError", text)]
    # Asked in the two other ways: whole, and through the REST API.
    details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
    error = details.task_runs["complains"].error
    assert error is not None and error.startswith(f"ValueError: {text}\nTraceback (most recent call last):\n"), error
    assert error.endswith('{"__hatchet_error_metadata__": {"task_run_external_id": "' + ref.workflow_run_id + '"}}'), error
    run = await hatchet.runs.aio_get(ref.workflow_run_id)
    assert run.run.error_message == error, run.run.error_message

    # The package marks line ends in the words of an error.
    ref = await complains.aio_run(Words(mark=world.mark, text="first\nsecond"), wait_for_result=False)
    await failure(ref)
    error = (await hatchet.runs.aio_get_details(ref.workflow_run_id)).task_runs["complains"].error
    assert error is not None and error.startswith("ValueError: first\\\nsecond\nTraceback"), error


async def check_a_result_that_is_no_object_fails_the_task(world):
    ref = await returns_list.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.middle()
    open_gate(world.mark, "go")
    ((kind, words),) = await failure(ref)
    assert kind == "IllegalTaskOutputError" and "list" in words, (kind, words)
    ref = await returns_null_character.aio_run(Marked(mark=world.mark), wait_for_result=False)
    error = (await failure(ref))[0]
    assert error[0] == "IllegalTaskOutputError", error
