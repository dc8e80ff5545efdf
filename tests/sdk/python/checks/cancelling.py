"""Cancelling: what is queued, what runs, many at once, a whole DAG, oneself."""

from datetime import datetime, timedelta, timezone

from hatchet_sdk import BulkCancelReplayOpts, RunFilter

from evidence import notes, open_gate
from workflows import Item, Marked, Number, cancellable, cancels_itself, diamond, echo, gated, hatchet


async def check_a_queued_run_is_cancelled(world):
    ref = await gated.aio_run(Item(mark=world.mark), wait_for_result=False, desired_worker_labels=world.at())
    assert await world.status(ref.workflow_run_id) == "QUEUED"
    await world.middle()
    await hatchet.runs.aio_cancel(ref.workflow_run_id)
    await world.has_status(ref.workflow_run_id, "CANCELLED")
    # Now that somebody could take it, what comes later is taken and it is not.
    await world.hire("late", place=world.mark)
    later = await echo.aio_run(Item(mark=world.mark, item=1), desired_worker_labels=world.at())
    assert later == {"item": 1}
    assert notes(world.mark, "started") == []
    assert await world.status(ref.workflow_run_id) == "CANCELLED"
    assert await ref.aio_result() == {}


async def check_a_running_task_is_cancelled(world):
    await world.hire("lone", slots=1, place=world.mark)
    ref = await cancellable.aio_run(Item(mark=world.mark), wait_for_result=False, desired_worker_labels=world.at())
    await world.noted("started")
    await world.has_status(ref.workflow_run_id, "RUNNING")
    await world.middle()
    await hatchet.runs.aio_cancel(ref.workflow_run_id)
    await world.has_status(ref.workflow_run_id, "CANCELLED")
    assert await ref.aio_result() == {}
    # The task itself has been told, even if its worker was not connected when the word came.
    await world.noted("saw the flag")
    await world.noted("was cancelled")
    # And its slot, the only one, is free again.
    assert await echo.aio_run(Item(mark=world.mark, item=2), desired_worker_labels=world.at()) == {"item": 2}
    assert await world.status(ref.workflow_run_id) == "CANCELLED"


async def check_a_task_cancels_itself(world):
    ref = await cancels_itself.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("started")
    await world.middle()
    open_gate(world.mark, "go")
    await world.noted("saw the flag")
    await world.has_status(ref.workflow_run_id, "CANCELLED")


async def check_a_whole_dag_is_cancelled(world):
    ref = await diamond.aio_run(Number(mark=world.mark, n=1), wait_for_result=False)
    await world.noted("left")
    await world.task_has_status(ref.workflow_run_id, "right", "COMPLETED")
    await world.middle()
    await hatchet.runs.aio_cancel(ref.workflow_run_id)
    await world.has_status(ref.workflow_run_id, "CANCELLED")
    open_gate(world.mark, "left")
    details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
    statuses = {name: task.status.value for name, task in details.task_runs.items()}
    assert details.done and details.status.value == "CANCELLED", details
    assert statuses.pop("bottom", "CANCELLED") == "CANCELLED", "what had not begun does not begin any more"
    assert statuses == {"top": "COMPLETED", "left": "CANCELLED", "right": "COMPLETED"}, statuses
    assert notes(world.mark, "bottom") == []


async def check_many_runs_are_cancelled_at_once(world):
    since = datetime.now(timezone.utc) - timedelta(minutes=1)

    async def begin(count: int, batch: str, first: int) -> list[str]:
        items = [
            cancellable.create_bulk_run_item(
                Item(mark=world.mark, item=first + n), additional_metadata={"batch": f"{world.mark}-{batch}"}
            )
            for n in range(count)
        ]
        return [ref.workflow_run_id for ref in await cancellable.aio_run_many(items, wait_for_result=False)]

    by_filter, by_id, spared = await begin(3, "filter", 0), await begin(2, "ids", 10), await begin(1, "spared", 20)
    await world.noted("started", 6)
    await world.middle()
    await hatchet.runs.aio_bulk_cancel(
        BulkCancelReplayOpts(filters=RunFilter(since=since, additional_metadata={"batch": f"{world.mark}-filter"}))
    )
    await hatchet.runs.aio_bulk_cancel(BulkCancelReplayOpts(ids=by_id))
    for run_id in [*by_filter, *by_id]:
        await world.has_status(run_id, "CANCELLED")
    await world.noted("was cancelled", 5)
    assert await world.status(spared[0]) == "RUNNING"
    assert {note["item"] for note in notes(world.mark, "was cancelled")} == {0, 1, 2, 10, 11}
    await hatchet.runs.aio_cancel(spared[0])
    await world.noted("was cancelled", 6)
