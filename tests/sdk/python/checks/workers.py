"""Workers that leave: with a word, and without."""

import asyncio

from evidence import notes, open_gate
from workflows import Item, gated, hatchet

# A worker that is silent has a lease of 30 s; then its tasks are given to somebody else.
LEASE_PATIENCE_S = 50


async def check_a_worker_finishes_its_task_before_it_leaves(world):
    leaving = await world.hire("leaving", place=world.mark)
    ref = await gated.aio_run(Item(mark=world.mark, item=1), wait_for_result=False, desired_worker_labels=world.at())
    (started,) = await world.noted("started")
    leaving.drain()

    async def is_paused() -> bool:
        worker = await hatchet.workers.aio_get(started["worker_id"])
        return worker.status is not None and worker.status.value == "PAUSED"

    await world.until("the worker to be paused", is_paused)
    late = await gated.aio_run(Item(mark=world.mark, item=2), wait_for_result=False, desired_worker_labels=world.at())
    await world.middle()
    # It has slots left, and gets nothing more: the second task is for whoever comes next.
    assert await world.status(late.workflow_run_id) == "QUEUED"
    assert not leaving.has_ended
    open_gate(world.mark, "go")
    about = await ref.aio_result()
    assert (about["worker_id"], about["retry_count"]) == (started["worker_id"], 0), about
    await leaving.ended()
    assert [note["item"] for note in notes(world.mark, "started")] == [1], "the task was given away"
    await world.hire("next", place=world.mark)
    assert (await late.aio_result())["item"] == 2


async def check_a_worker_that_dies_costs_no_retry(world):
    workers = [await world.hire(name, place=world.mark) for name in ("first", "second")]
    # This task has no retries at all.
    ref = await gated.aio_run(Item(mark=world.mark), wait_for_result=False, desired_worker_labels=world.at())
    result = asyncio.create_task(ref.aio_result())
    (started,) = await world.noted("started")
    dying = (await hatchet.workers.aio_get(started["worker_id"])).name
    (dead,) = [worker for worker in workers if worker.name == dying]
    dead.kill()
    await world.middle()
    notes_so_far = await world.noted("started", 2, patience_s=LEASE_PATIENCE_S)
    assert notes_so_far[1]["worker_id"] != started["worker_id"], notes_so_far
    open_gate(world.mark, "go")
    about = await result
    assert about["worker_id"] == notes_so_far[1]["worker_id"], about
    assert await world.status(ref.workflow_run_id) == "COMPLETED"
    assert len(notes(world.mark, "finished")) == 1


async def check_a_paused_worker_gets_nothing_until_it_is_unpaused(world):
    await world.hire("resting", place=world.mark)
    (row,) = [row for row in (await hatchet.workers.aio_list()).rows or [] if row.name == f"{world.mark}-resting"]
    paused = await hatchet.workers.aio_pause(row.metadata.id)
    assert paused.status is not None and paused.status.value == "PAUSED", paused
    ref = await gated.aio_run(Item(mark=world.mark), wait_for_result=False, desired_worker_labels=world.at())
    # Somebody else can work all the while, so the pause is the reason.
    open_gate(world.mark, "go")
    await gated.aio_run(Item(mark=world.mark, item=9))
    await world.middle()
    assert await world.status(ref.workflow_run_id) == "QUEUED"
    await hatchet.workers.aio_unpause(row.metadata.id)
    assert (await ref.aio_result())["worker_id"] == row.metadata.id
