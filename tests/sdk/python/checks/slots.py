"""Slots of a worker, and who gets them first."""

import asyncio

from hatchet_sdk import Priority

from evidence import notes, open_gate
from workflows import Item, bulky, echo, gated, lets_go


async def check_a_task_gives_its_slot_away(world):
    await world.hire("lone", slots=1, place=world.mark)
    holder = await lets_go.aio_run(Item(mark=world.mark), wait_for_result=False, desired_worker_labels=world.at())
    (held,) = await world.noted("holds its slot")
    second = await gated.aio_run(Item(mark=world.mark), wait_for_result=False, desired_worker_labels=world.at())
    assert await world.status(second.workflow_run_id) == "QUEUED"
    open_gate(world.mark, "release")
    await world.noted("has let go")
    (started,) = await world.noted("started")
    assert started["worker_id"] == held["worker_id"], "the second task is at the same worker, which has one slot"
    assert await world.status(holder.workflow_run_id) == "RUNNING"
    await world.middle(all_back=True)
    open_gate(world.mark, "go")
    results = await asyncio.gather(holder.aio_result(), second.aio_result())
    assert results[0] == {"worker_id": held["worker_id"]}, results
    assert results[1]["worker_id"] == held["worker_id"], results


async def check_a_bulky_task_takes_two_slots(world):
    await world.hire("three", slots=3, place=world.mark)
    refs = []
    for item in (1, 2):
        refs.append(
            await bulky.aio_run(Item(mark=world.mark, item=item), wait_for_result=False, desired_worker_labels=world.at())
        )
        await world.noted("bulky", 1)
    # Its third slot is free for a small task, and is not enough for the second bulky one.
    assert await echo.aio_run(Item(mark=world.mark, item=3), desired_worker_labels=world.at()) == {"item": 3}
    assert [note["item"] for note in notes(world.mark, "bulky")] == [1]
    assert await world.status(refs[1].workflow_run_id) == "QUEUED"
    await world.middle()
    open_gate(world.mark, "bulky 1")
    assert await refs[0].aio_result() == {"item": 1}
    await world.until("the second bulky task to start", lambda: notes(world.mark, "bulky")[-1]["item"] == 2)
    open_gate(world.mark, "bulky 2")
    assert await refs[1].aio_result() == {"item": 2}


async def check_the_important_goes_first(world):
    await world.hire("lone", slots=1, place=world.mark)

    async def begin(item: int, priority: Priority):
        return await gated.aio_run(
            Item(mark=world.mark, item=item),
            wait_for_result=False,
            priority=priority,
            desired_worker_labels=world.at(),
        )

    refs = [await begin(0, Priority.LOW)]
    await world.noted("started")
    # All of these wait for the only slot.
    for item, priority in enumerate([Priority.LOW, Priority.LOW, Priority.HIGH, Priority.MEDIUM, Priority.HIGH], 1):
        refs.append(await begin(item, priority))
    await world.middle()
    open_gate(world.mark, "go")
    await asyncio.gather(*[ref.aio_result() for ref in refs])
    finished = notes(world.mark, "finished")
    # The first had its slot already; then by priority, and among equals in the order of their coming.
    assert [note["item"] for note in finished] == [0, 3, 5, 4, 1, 2], finished
    assert [note["priority"] for note in finished] == [1, 3, 3, 2, 1, 1], finished
