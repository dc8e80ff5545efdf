"""A worker with the published SDK of Hatchet: one task that does nothing."""

from hatchet_sdk import Context, EmptyModel, Hatchet

from common import Tally

hatchet = Hatchet()
tally = Tally()


@hatchet.task(name="noop")
async def noop(_input: EmptyModel, _ctx: Context) -> None:
    tally.add_one()


if __name__ == "__main__":
    hatchet.worker("bench", slots=100, workflows=[noop]).start()
