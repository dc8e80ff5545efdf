"""Which worker gets a task: labels it must or should have, and staying with the same one."""

import asyncio

from evidence import notes, open_gate
from workflows import (
    Item,
    Marked,
    clingy_parent,
    describe,
    hatchet,
    needs_little_memory,
    prefers_memory,
    together,
)


async def check_labels_that_a_worker_should_have(world):
    # A wish, not a condition: after a crash, also that of the check before, it may run elsewhere until the better worker is back.
    async def is_at_two() -> bool:
        return await prefers_memory.aio_run(Item(mark=world.mark)) == {"place": "two"}

    await world.until("the task to run where it prefers to", is_at_two)
    for item in range(3):
        assert await prefers_memory.aio_run(Item(mark=world.mark, item=item)) == {"place": "two"}
    async with world.meanwhile():
        await world.until("the task to run where it prefers to", is_at_two)


async def check_labels_that_a_worker_must_have(world):
    async with world.meanwhile():
        for item in range(3):
            assert await needs_little_memory.aio_run(Item(mark=world.mark, item=item)) == {"place": "one"}
        for place in ("one", "two", "one"):
            told = await describe.aio_run(Item(mark=world.mark), desired_worker_labels=world.at(place))
            assert told["place"] == place, told


async def check_a_task_waits_for_the_right_worker(world):
    ref = await describe.aio_run(Item(mark=world.mark), wait_for_result=False, desired_worker_labels=world.at())
    # Somebody else could have taken it all the while.
    assert (await describe.aio_run(Item(mark=world.mark)))["place"] in ("one", "two")
    assert await world.status(ref.workflow_run_id) == "QUEUED"
    await world.middle()
    await world.hire("right", place=world.mark)
    assert (await ref.aio_result())["place"] == world.mark


async def check_a_child_that_must_stay_waits_for_its_parents_worker(world):
    await world.hire("lone", slots=1, place=world.mark)
    ref = await clingy_parent.aio_run(
        Item(mark=world.mark, item=1), wait_for_result=False, desired_worker_labels=world.at()
    )
    (family,) = await world.noted("clingy parent")
    assert await world.status(family["child"]) == "QUEUED"
    await world.middle()
    # Two other workers are free, and must not get it.
    assert notes(world.mark, "sticky child") == []
    open_gate(world.mark, "go")
    assert (await ref.aio_result())["child"] == family["child"]
    (child,) = await world.noted("sticky child")
    assert child["worker_id"] == family["worker_id"], "the child has left its parent's worker"
    await world.has_status(family["child"], "COMPLETED")


async def check_a_child_that_should_stay_goes_elsewhere_rather_than_wait(world):
    await world.hire("lone", slots=1, place=world.mark)
    ref = await clingy_parent.aio_run(
        Item(mark=world.mark, item=2), wait_for_result=False, desired_worker_labels=world.at()
    )
    (family,) = await world.noted("clingy parent")
    (child,) = await world.noted("sticky child")
    assert child["worker_id"] != family["worker_id"], "there was no slot for it at its parent's worker"
    await world.middle()
    open_gate(world.mark, "go")
    assert (await ref.aio_result())["worker_id"] == family["worker_id"]


async def check_a_child_that_should_stay_stays_if_it_can(world):
    await world.hire("roomy", slots=5, place=world.mark)
    ref = await clingy_parent.aio_run(
        Item(mark=world.mark, item=2), wait_for_result=False, desired_worker_labels=world.at()
    )
    (family,) = await world.noted("clingy parent")
    (child,) = await world.noted("sticky child")
    assert child["worker_id"] == family["worker_id"], "there was room at its parent's worker"
    await world.middle()
    open_gate(world.mark, "go")
    await ref.aio_result()


async def check_the_tasks_of_a_dag_stay_together(world):
    refs = [await together.aio_run(Marked(mark=world.mark), wait_for_result=False) for _ in range(3)]
    await world.noted("first together", 3)
    await world.middle(all_back=True)
    open_gate(world.mark, "go")
    for result in await asyncio.gather(*[ref.aio_result() for ref in refs]):
        assert set(result) == {"first_together", "second_together", "third_together"}, result
        workers = {task["worker_id"] for task in result.values()}
        # They should stay, and need not: after a crash the worker may not be back when the next task is due.
        assert len(workers) == 1 or world.crash, result
    names = {row.name for row in (await hatchet.workers.aio_list()).rows or []}
    assert {"one", "two"} <= names, names
