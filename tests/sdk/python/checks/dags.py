"""DAGs: outputs of parents, conditions between tasks, and what happens at the end of a run."""

import asyncio

from hatchet_sdk.exceptions import FailedTaskRunExceptionGroup

from evidence import notes, open_gate
from workflows import Marked, Number, choices, diamond, hatchet, heating, party, veto


async def check_tasks_get_what_their_parents_gave(world):
    ref = await diamond.aio_run(Number(mark=world.mark, n=4), wait_for_result=False)
    result = asyncio.create_task(ref.aio_result())
    await world.noted("left")
    await world.task_has_status(ref.workflow_run_id, "right", "COMPLETED")
    await world.middle()
    assert notes(world.mark, "bottom") == [], "the last task waits for both of its parents"
    open_gate(world.mark, "left")
    wanted = {"top": {"n": 4}, "left": {"n": 5}, "right": {"n": 40}, "bottom": {"sum": 45}}
    assert await result == wanted
    assert await asyncio.to_thread(ref.result) == wanted
    for task in ("top", "left", "right", "bottom"):
        world.times(task, 1)
    # The tasks of a DAG have ids of their own.
    (left,) = notes(world.mark, "left")[:1]
    assert left["run_id"] == ref.workflow_run_id != left["task_run_id"], left


async def check_conditions_between_tasks(world):
    async def outputs(n: int) -> dict[str, object]:
        ref = await choices.aio_run(Number(mark=world.mark, n=n), wait_for_result=False)
        return await ref.aio_result()

    skipped = {"skipped": True}
    running = [asyncio.create_task(outputs(n)) for n in (60, 50, 0)]
    await world.noted("measure", 3)
    await world.middle(all_back=True)
    open_gate(world.mark, "go")
    above, at, zero = await asyncio.gather(*running)
    assert above == {
        "measure": {"n": 60, "unit": "cm"},
        "small": skipped,
        "large": {"size": "large"},
        "metric": {"n": 60},
        # One of its parents was skipped and one was not: it runs.
        "either": {"skipped": ["small"]},
        # All of its parents were skipped: so is it.
        "only_after_small": skipped,
        "neither_zero_nor_99": {"n": 60},
    }, above
    assert at == {
        "measure": {"n": 50, "unit": "cm"},
        "small": {"size": "small"},
        "large": skipped,
        "metric": {"n": 50},
        "either": {"skipped": ["large"]},
        "only_after_small": {"after": "small"},
        "neither_zero_nor_99": {"n": 50},
    }, at
    # Either of two conditions is enough.
    assert zero["neither_zero_nor_99"] == skipped, zero
    assert (await outputs(99))["neither_zero_nor_99"] == skipped


async def check_a_condition_cancels_a_task(world):
    ref = await veto.aio_run(Number(mark=world.mark, n=13), wait_for_result=False)
    await world.noted("propose")
    await world.middle()
    open_gate(world.mark, "go")
    await world.has_status(ref.workflow_run_id, "CANCELLED")
    details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
    assert details.done and details.task_runs["propose"].status.value == "COMPLETED", details
    for name in ("decide", "carry_out"):
        task = details.task_runs.get(name)
        assert task is None or task.status.value == "CANCELLED", (name, task)
    assert notes(world.mark, "decide") == notes(world.mark, "carry out") == []

    fine = await veto.aio_run(Number(mark=world.mark, n=12))
    assert fine == {"propose": {"n": 12}, "decide": {"n": 12}, "carry_out": {"n": 12}}, fine


async def check_a_failure_calls_for_help(world):
    ref = await heating.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("boiler")
    await world.task_has_status(ref.workflow_run_id, "pump", "COMPLETED")
    await world.middle()
    open_gate(world.mark, "go")
    try:
        await ref.aio_result()
    except FailedTaskRunExceptionGroup as group:
        assert [(error.exc_type, error.exc) for error in group.exceptions] == [("RuntimeError", "the boiler is cold")]
    else:
        raise AssertionError("a run with a failed task gave a result")
    (plumber,) = (await world.noted("plumber"))[:1]
    assert list(plumber["errors"]) == ["boiler"], plumber
    assert plumber["errors"]["boiler"].startswith("RuntimeError: the boiler is cold\nTraceback"), plumber
    assert plumber["run_id"] == ref.workflow_run_id
    # Both attempts were made before anybody was called.
    assert notes(world.mark, "boiler")[-1]["number"] == 2

    async def is_done() -> object:
        details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
        return details if details.done else None

    details = await world.until("the run to be done", is_done)
    assert details.status.value == "FAILED", details
    statuses = {name: task.status.value for name, task in details.task_runs.items()}
    assert statuses["boiler"] == "FAILED" and statuses["pump"] == "COMPLETED", statuses
    assert statuses["call_the_plumber-on-failure"] == "COMPLETED", statuses
    assert statuses.get("radiator", "CANCELLED") == "CANCELLED", statuses
    assert details.task_runs["boiler"].error == plumber["errors"]["boiler"], "the error it was told is the error of the task"
    assert details.task_runs["call_the_plumber-on-failure"].output == {"called": True}
    assert notes(world.mark, "radiator") == notes(world.mark, "enjoy") == []
    world.times("plumber", 1)


async def check_a_success_is_celebrated(world):
    ref = await party.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("cake")
    await world.task_has_status(ref.workflow_run_id, "music", "COMPLETED")
    await world.middle()
    assert notes(world.mark, "dance") == []
    open_gate(world.mark, "go")
    result = await ref.aio_result()
    # Whether a task for failures that was not needed is listed as skipped is the server's business.
    assert result.pop("go_home-on-failure", {"skipped": True}) == {"skipped": True}, result
    assert result == {
        "cake": {"cake": True},
        "music": {"music": True},
        "dance-on-success": {"parents": [{"cake": True}, {"music": True}]},
    }, result
    assert await world.status(ref.workflow_run_id) == "COMPLETED"
    assert notes(world.mark, "go home") == []
    world.times("dance", 1)
