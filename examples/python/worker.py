"""One task with retries, one workflow of two steps, and a task that starts another: `python worker.py`."""

import sys

from hatchet_sdk import Context, Hatchet
from pydantic import BaseModel

hatchet = Hatchet()


class Order(BaseModel):
    number: int
    items: list[str]


# A task. If it raises, it is tried again, up to three times, after 2, 4 and 8 seconds.
@hatchet.task(input_validator=Order, retries=3, backoff_factor=2)
async def charge(input: Order, ctx: Context) -> dict[str, str]:
    if ctx.attempt_number == 1:
        raise RuntimeError("the bank does not answer")
    return {"receipt": f"R-{input.number}"}


# A workflow of two steps: `ship` runs when `pack` is done, and gets its output.
fulfil = hatchet.workflow(name="fulfil", input_validator=Order)


@fulfil.task()
async def pack(input: Order, ctx: Context) -> dict[str, int]:
    return {"parcels": len(input.items)}


@fulfil.task(parents=[pack])
async def ship(input: Order, ctx: Context) -> dict[str, str]:
    return {"note": f"{ctx.task_output(pack)['parcels']} parcels are on their way"}


# A task that starts others and waits for them. If it is tried again, they are not started twice.
@hatchet.task(input_validator=Order, retries=1)
async def sell(input: Order, ctx: Context) -> dict[str, str]:
    paid = await charge.aio_run(input)
    sent = await fulfil.aio_run(input)
    return {"receipt": paid["receipt"], "note": sent["ship"]["note"]}


if __name__ == "__main__":
    if sys.argv[1:] == ["sell"]:
        print(sell.run(Order(number=1042, items=["a lamp", "a chair"])))
    else:
        hatchet.worker("shop", slots=10, workflows=[charge, fulfil, sell]).start()
