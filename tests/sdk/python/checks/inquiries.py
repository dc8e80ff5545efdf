"""Asking about runs."""

from datetime import datetime, timedelta, timezone

from hatchet_sdk import V1TaskStatus

from evidence import open_gate
from workflows import Item, Number, diamond, echo, gated, hatchet


async def check_asking_about_one_run(world):
    metadata = {"customer": world.mark}
    ref = await gated.aio_run(Item(mark=world.mark, item=8), wait_for_result=False, additional_metadata=metadata)
    run_id = ref.workflow_run_id
    await world.noted("started")
    await world.has_status(run_id, "RUNNING")
    await world.middle()

    given = {"mark": world.mark, "item": 8}
    found = await hatchet.runs.aio_get(run_id)
    assert found.run.metadata.id == run_id
    assert (found.run.status.value, found.run.input, found.run.output) == ("RUNNING", given, {}), found.run
    assert found.run.additional_metadata == metadata and "gated" in found.run.display_name, found.run
    assert found.run.started_at is not None and found.run.finished_at is None, found.run
    (task,) = found.tasks
    assert (task.task_external_id, task.workflow_run_external_id) == (run_id, run_id), task
    assert task.status.value == "RUNNING" and task.type.value == "TASK", task
    assert [item.task_name for item in found.shape] == ["gated"], found.shape

    details = await hatchet.runs.aio_get_details(run_id)
    assert (details.status.value, details.done, details.input) == ("RUNNING", False, given), details
    assert details.additional_metadata == metadata, details
    assert details.task_runs["gated"].status.value == "RUNNING" and details.task_runs["gated"].external_id == run_id

    open_gate(world.mark, "go")
    result = await ref.aio_result()
    assert await world.status(run_id) == "COMPLETED"
    found = await hatchet.runs.aio_get(run_id)
    assert (found.run.status.value, found.run.output, found.run.input) == ("COMPLETED", result, given), found.run
    assert found.run.finished_at is not None and found.run.finished_at >= found.run.started_at, found.run
    assert await hatchet.runs.aio_get_result(run_id) == result
    task = await hatchet.runs.aio_get_task_run(run_id)
    assert (task.status.value, task.output, task.error_message or None) == ("COMPLETED", result, None), task
    details = await hatchet.runs.aio_get_details(run_id)
    assert (details.status.value, details.done) == ("COMPLETED", True), details
    assert details.task_runs["gated"].output == result and details.task_runs["gated"].error is None, details


async def check_asking_about_a_dag(world):
    ref = await diamond.aio_run(Number(mark=world.mark, n=2), wait_for_result=False)
    await world.noted("left")
    await world.task_has_status(ref.workflow_run_id, "right", "COMPLETED")
    await world.middle()
    open_gate(world.mark, "left")
    result = await ref.aio_result()
    found = await hatchet.runs.aio_get(ref.workflow_run_id)
    assert found.run.status.value == "COMPLETED" and "Diamond" in found.run.display_name, found.run
    ids = {item.task_name: item.task_external_id for item in found.shape}
    assert set(ids) == {"top", "left", "right", "bottom"} and len(set(ids.values())) == 4, found.shape
    steps = {item.task_name: item for item in found.shape}
    children = {
        name: {other.task_name for other in found.shape if other.step_id in item.children_step_ids}
        for name, item in steps.items()
    }
    assert children == {"top": {"left", "right"}, "left": {"bottom"}, "right": {"bottom"}, "bottom": set()}, children
    details = await hatchet.runs.aio_get_details(ref.workflow_run_id)
    assert {name: task.external_id for name, task in details.task_runs.items()} == ids, details
    assert {name: task.output for name, task in details.task_runs.items()} == result, details
    assert {task.task_external_id: task.output for task in found.tasks} == {ids[name]: result[name] for name in ids}
    task = await hatchet.runs.aio_get_task_run(ids["bottom"])
    assert (task.output, task.workflow_run_external_id) == (result["bottom"], ref.workflow_run_id), task
    assert task.action_id in ("diamond:bottom", None), task


async def check_lists_of_runs(world):
    since = datetime.now(timezone.utc) - timedelta(seconds=1)
    metadata = {"list": world.mark}
    for item in range(3):
        await echo.aio_run(Item(mark=world.mark, item=item), additional_metadata=metadata)
    running = await gated.aio_run(Item(mark=world.mark), wait_for_result=False, additional_metadata=metadata)
    queued = await gated.aio_run(
        Item(mark=world.mark), wait_for_result=False, additional_metadata=metadata, desired_worker_labels=world.at()
    )
    await world.noted("started")
    await world.has_status(running.workflow_run_id, "RUNNING")
    await world.middle()

    async def listed(**filters) -> list[object]:
        filters = {"since": since, "additional_metadata": metadata, **filters}
        return (await hatchet.runs.aio_list(**filters)).rows

    rows = await listed()
    assert len(rows) == 5, rows
    assert sorted(row.status.value for row in rows) == ["COMPLETED"] * 3 + ["QUEUED", "RUNNING"], rows
    assert all(row.additional_metadata == metadata for row in rows), rows
    done = await listed(statuses=[V1TaskStatus.COMPLETED])
    assert sorted(row.output["item"] for row in done) == [0, 1, 2], done
    assert sorted(row.input["item"] for row in done) == [0, 1, 2], done
    assert len(await listed(statuses=[V1TaskStatus.COMPLETED], only_tasks=True)) == 3
    both = await listed(statuses=[V1TaskStatus.RUNNING, V1TaskStatus.QUEUED])
    assert {row.workflow_run_external_id for row in both} == {running.workflow_run_id, queued.workflow_run_id}
    assert await listed(statuses=[V1TaskStatus.FAILED, V1TaskStatus.CANCELLED]) == []
    assert len(await listed(workflow_ids=[echo.id])) == 3
    assert len(await listed(workflow_ids=[echo.id, gated.id])) == 5
    assert await listed(additional_metadata={"list": "another"}) == []
    assert await listed(since=since - timedelta(hours=2), until=since - timedelta(hours=1)) == []
    pages = [await listed(limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 2, 1], pages
    assert len({row.metadata.id for page in pages for row in page}) == 5, pages
    assert len(await hatchet.runs.aio_list_with_pagination(since=since, additional_metadata=metadata)) == 5

    await hatchet.runs.aio_cancel(queued.workflow_run_id)
    open_gate(world.mark, "go")
    await running.aio_result()
