"""What takes too long: waiting for a worker, and running."""

import asyncio

from evidence import notes
from workflows import Marked, asks_for_time, hatchet, never_starts, slow_once, too_slow

from .failures import failure


async def check_nobody_takes_the_task_in_time(world):
    ref = await never_starts.aio_run(Marked(mark=world.mark), wait_for_result=False)
    assert await world.status(ref.workflow_run_id) == "QUEUED"
    await world.middle()
    await world.has_status(ref.workflow_run_id, "CANCELLED")
    # Cancelled is no failure: who awaits gets an empty result, who polls gets told.
    assert await ref.aio_result() == {}
    try:
        await asyncio.to_thread(ref.result)
    except ValueError as error:
        assert "was cancelled" in str(error), error
    else:
        raise AssertionError("polling for the result of a cancelled run gave one")
    assert notes(world.mark, "started") == []


async def check_a_task_that_runs_too_long_fails(world):
    ref = await too_slow.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("attempt")
    await world.middle()
    ((_, words),) = await failure(ref)
    assert "timeout" in words.lower() or "timed out" in words.lower(), words
    assert await world.status(ref.workflow_run_id) == "FAILED"
    world.times("attempt", 1)


async def check_a_task_that_runs_too_long_is_tried_again(world):
    ref = await slow_once.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("attempt")
    await world.middle()
    assert await ref.aio_result() == {"attempts": 2}
    first, *_, last = notes(world.mark, "attempt")
    assert (first["number"], last["number"]) == (1, 2)
    # The timeout is 3 s, and not less.
    assert last["at"] - first["at"] >= 2.9, "the second attempt came too early"


async def check_a_task_may_ask_for_more_time(world):
    ref = await asks_for_time.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("asked")
    await world.middle()
    assert await ref.aio_result() == {"attempts": 1}
    run = await hatchet.runs.aio_get(ref.workflow_run_id)
    assert run.run.status.value == "COMPLETED", run.run.status
