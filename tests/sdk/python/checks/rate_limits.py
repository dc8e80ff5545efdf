"""Rate limits: with a key of their own, and with a key out of the input."""

import asyncio

from hatchet_sdk import RateLimitDuration

from evidence import notes
from workflows import STATIC_LIMIT, Customer, Item, hatchet, limited, limited_by_customer


async def check_a_limit_of_units_per_second(world):
    # A run takes two units, so one run a second.
    await hatchet.rate_limits.aio_put(STATIC_LIMIT, 2, RateLimitDuration.SECOND)
    refs = await limited.aio_run_many(
        [limited.create_bulk_run_item(Item(mark=world.mark, item=n)) for n in range(5)], wait_for_result=False
    )
    await world.noted("limited", 2)
    await world.middle()
    results = await asyncio.gather(*[ref.aio_result() for ref in refs])
    assert [result["item"] for result in results] == [0, 1, 2, 3, 4], results
    starts = sorted(note["at"] for note in notes(world.mark, "limited"))
    # The first window may be nearly over when the first run takes its units; all others are whole.
    assert starts[-1] - starts[0] >= 2.8, starts
    (limit,) = [row for row in (await hatchet.rate_limits.aio_list()).rows or [] if row.key == STATIC_LIMIT]
    assert (limit.limit_value, limit.window) == (2, "SECOND"), limit


async def check_a_limit_for_each_customer(world):
    def run(customer: str, item: int):
        return limited_by_customer.aio_run(
            Customer(mark=world.mark, customer=f"{world.mark}-{customer}", item=item), wait_for_result=False
        )

    assert await (await run("ada", 1)).aio_result() == {"item": 1}
    second = await run("ada", 2)
    # Another customer is served while the first one has to wait for an hour.
    assert await (await run("bob", 3)).aio_result() == {"item": 3}
    assert await world.status(second.workflow_run_id) == "QUEUED"
    await world.middle()
    assert await (await run("eve", 4)).aio_result() == {"item": 4}
    assert await world.status(second.workflow_run_id) == "QUEUED"
    assert [note["item"] for note in notes(world.mark, "served")] == [1, 3, 4]
    await hatchet.runs.aio_cancel(second.workflow_run_id)
    await world.has_status(second.workflow_run_id, "CANCELLED")
