"""What a task tells while it runs: a stream for who listens, and lines for the record."""

from evidence import open_gate
from workflows import Marked, hatchet, narrator, talkative


async def check_a_stream_arrives_in_order(world):
    ref = await narrator.aio_run(Marked(mark=world.mark), wait_for_result=False)
    heard = []
    async for chunk in hatchet.runs.subscribe_to_stream(ref.workflow_run_id):
        if chunk.startswith("ahem"):
            open_gate(world.mark, f"heard {chunk.removeprefix('ahem ')}")
            continue
        heard.append(chunk)
        if chunk == "1.9":
            await world.middle()
    assert heard == [f"{chapter}.{line}" for chapter in (1, 2) for line in range(10)], heard
    # The stream ends with the run.
    assert await world.status(ref.workflow_run_id) == "COMPLETED"
    assert await ref.aio_result() == {"chapters": 2}


async def check_log_lines_are_kept(world):
    ref = await talkative.aio_run(Marked(mark=world.mark), wait_for_result=False)
    (talked,) = await world.noted("talked")

    async def lines(count: int) -> list[object] | None:
        rows = (await hatchet.logs.aio_list(talked["task_run_id"])).rows or []
        return sorted(rows, key=lambda row: row.created_at) if len(rows) >= count else None

    # Lines are sent by a thread of their own, so they come when they come.
    await world.until("two lines", lambda: lines(2))
    await world.middle()
    open_gate(world.mark, "go")
    await ref.aio_result()
    found = await world.until("three lines", lambda: lines(3))
    assert [row.message for row in found] == ["one", '{"two": 2}', "three ☃"], found
    assert {row.level.value for row in found} == {"INFO"}, found
    assert {row.retry_count for row in found} <= {0, None}, found
