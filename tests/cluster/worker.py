"""A worker written for Hatchet, as it is: it writes down what it runs, and doubles a number. `worker.py LEDGER`."""

import sys

from hatchet_sdk import Context, Hatchet
from pydantic import BaseModel

hatchet = Hatchet()
ledger = open(sys.argv[1], "a", buffering=1)


class Number(BaseModel):
    n: int


@hatchet.task(name="double", input_validator=Number, retries=20, execution_timeout="60s", schedule_timeout="10m")
async def double(input: Number, ctx: Context) -> dict[str, int]:
    # One line, written in one piece.
    ledger.write(f"{ctx.workflow_run_id} {input.n}\n")
    return {"twice": 2 * input.n}


# The SDK starts processes of its own, which read this file again.
if __name__ == "__main__":
    hatchet.worker("doubler", slots=20, workflows=[double]).start()
