"""Running again what has ended."""

import asyncio

from hatchet_sdk import BulkCancelReplayOpts

from evidence import close_gate, notes, open_gate
from workflows import Marked, Number, diamond, hatchet, moody

from .failures import failure

UNFINISHED = ("QUEUED", "RUNNING")


async def check_a_failed_run_is_replayed(world):
    ref = await moody.aio_run(Marked(mark=world.mark), wait_for_result=False)
    assert await failure(ref) == [("RuntimeError", "not today")]
    open_gate(world.mark, "well")
    await hatchet.runs.aio_replay(ref.workflow_run_id)
    # Who asks right after the replay must not get the old result: it waits for the new one.
    result = asyncio.create_task(ref.aio_result())
    assert await world.status(ref.workflow_run_id) in UNFINISHED
    await world.noted("attempt", 2)
    await world.middle()
    assert not result.done(), result
    open_gate(world.mark, "again")
    told = await result
    # The input is the same as before.
    assert told["mark"] == world.mark and told["attempts"] >= 2, told
    world.times("attempt", 2)
    assert notes(world.mark, "attempt")[1]["retry_count"] == 1
    assert await world.status(ref.workflow_run_id) == "COMPLETED"
    found = await hatchet.runs.aio_get(ref.workflow_run_id)
    assert found.run.input == {"mark": world.mark} and not found.run.error_message, found.run


async def check_several_runs_are_replayed_at_once(world):
    refs = [await moody.aio_run(Marked(mark=world.mark), wait_for_result=False) for _ in range(3)]
    for ref in refs:
        await failure(ref)
    open_gate(world.mark, "well")
    ids = [ref.workflow_run_id for ref in refs]
    await hatchet.runs.aio_bulk_replay(BulkCancelReplayOpts(ids=ids[:2]))
    await world.noted("attempt", 5)
    await world.middle(all_back=True)
    open_gate(world.mark, "again")
    for ref in refs[:2]:
        assert (await ref.aio_result())["mark"] == world.mark
    assert await world.status(ids[2]) == "FAILED"


async def check_a_task_of_a_dag_is_replayed_with_what_depends_on_it(world):
    open_gate(world.mark, "left")
    ref = await diamond.aio_run(Number(mark=world.mark, n=6), wait_for_result=False)
    wanted = {"top": {"n": 6}, "left": {"n": 7}, "right": {"n": 60}, "bottom": {"sum": 67}}
    assert await ref.aio_result() == wanted
    details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
    close_gate(world.mark, "left")
    await hatchet.runs.aio_replay(details.task_runs["left"].external_id)
    await world.noted("left", 2)
    await world.middle()
    open_gate(world.mark, "left")
    assert await ref.aio_result() == wanted
    await world.has_status(ref.workflow_run_id, "COMPLETED")
    for task, count in {"top": 1, "right": 1, "left": 2, "bottom": 2}.items():
        world.times(task, count)
    again = await hatchet.runs.aio_get_details(ref.workflow_run_id)
    ids = {name: task.external_id for name, task in details.task_runs.items()}
    assert {name: task.external_id for name, task in again.task_runs.items()} == ids, "a replay keeps the ids"


async def check_a_whole_dag_is_replayed(world):
    open_gate(world.mark, "left")
    ref = await diamond.aio_run(Number(mark=world.mark, n=7), wait_for_result=False)
    first = await ref.aio_result()
    close_gate(world.mark, "left")
    await hatchet.runs.aio_replay(ref.workflow_run_id)
    await world.noted("left", 2)

    async def only_left_is_open() -> bool:
        tasks = (await hatchet.runs.aio_get_details(ref.workflow_run_id)).task_runs
        return [tasks[name].status.value for name in ("top", "right")] == ["COMPLETED", "COMPLETED"]

    # Its worker loses what it is about to say at the moment the server dies: see `World.middle`.
    await world.until("what does not wait to be done again", only_left_is_open)
    await world.middle()
    open_gate(world.mark, "left")
    assert await ref.aio_result() == first
    for task in ("top", "left", "right", "bottom"):
        world.times(task, 2)
