"""Tasks on their own: input, output, what they are told, and many at once."""

import asyncio

from hatchet_sdk import EmptyModel
from hatchet_sdk.exceptions import FailedTaskRunExceptionGroup

from evidence import open_gate
from workflows import Greeting, Item, describe, gated, greet, greet_in_thread, hatchet, nothing, tenacious

MANY = 1000


async def check_a_task_gives_its_result(world):
    ref = await gated.aio_run(Item(mark=world.mark, item=3), wait_for_result=False)
    result = asyncio.create_task(ref.aio_result())
    await world.noted("started")
    await world.middle()
    open_gate(world.mark, "go")
    about = await result
    assert about["item"] == 3 and about["run_id"] == ref.workflow_run_id, about
    world.times("started", 1)
    world.times("finished", 1)
    # Who asks later, or again, or by polling, gets the same.
    assert await ref.aio_result() == about
    assert await asyncio.to_thread(ref.result) == about


async def check_functions_of_both_kinds_and_models(world):
    async with world.meanwhile():
        assert (await greet.aio_run(Greeting(name="Ada", times=2))).text == "Hello, Ada! Hello, Ada!"
        assert (await greet_in_thread.aio_run(Greeting(name="☃\n\"quoted\""))).text == "Hello, ☃\n\"quoted\"!"
        assert (await asyncio.to_thread(greet.run, Greeting(name="Bob"))).text == "Hello, Bob!"


async def check_a_task_without_a_result(world):
    async with world.meanwhile():
        ref = await nothing.aio_run(wait_for_result=False)
        assert (await ref.aio_result()).model_dump() == {}
        assert await world.status(ref.workflow_run_id) == "COMPLETED"


async def check_input_that_does_not_fit_fails_the_task(world):
    async with world.meanwhile():
        careless = hatchet.stubs.workflow(name="greet", input_validator=EmptyModel)
        ref = await careless.aio_run(EmptyModel(name="Ada", times="often"), wait_for_result=False)
        try:
            await ref.aio_result()
        except FailedTaskRunExceptionGroup as group:
            (error,) = group.exceptions
            assert error.exc_type == "ValidationError", error.exc_type
        else:
            raise AssertionError("a task took input that does not fit")
        assert await world.status(ref.workflow_run_id) == "FAILED"


async def check_what_a_task_is_told_about_itself(world):
    async with world.meanwhile():
        ref = await describe.aio_run(
            Item(mark=world.mark, item=1), additional_metadata={"tenant": "acme", "n": 1}, wait_for_result=False
        )
        told = await ref.aio_result()
        assert told["metadata"] == {"tenant": "acme", "n": 1}, told
        # A workflow of one task: its run and its task are the same thing.
        assert told["run_id"] == told["task_run_id"] == ref.workflow_run_id, told
        assert not told["parent_run_id"] and not told["child_key"], told
        assert told["place"] in ("one", "two"), told
        worker = await hatchet.workers.aio_get(told["worker_id"])
        assert worker.name == told["place"], worker.name
        (workflow,) = [row for row in (await hatchet.workflows.aio_list("describe")).rows if row.name == "describe"]
        assert told["workflow_id"] == workflow.metadata.id, told


async def check_a_thousand_runs_in_one_request(world):
    refs = await tenacious.aio_run_many(
        [tenacious.create_bulk_run_item(Item(mark=world.mark, item=n)) for n in range(MANY)], wait_for_result=False
    )
    await world.middle()
    assert len({ref.workflow_run_id for ref in refs}) == MANY, "every run has an id of its own"
    results = await asyncio.gather(*[ref.aio_result() for ref in refs])
    # The order of the answers is the order of the questions.
    assert [result["item"] for result in results] == list(range(MANY))
