"""Everything the workers of this test can do.

A `mark` in an input names the check it belongs to. Tasks note what really happened under that mark, and wait at gates
that the check opens (see `evidence`).
"""

import asyncio
from datetime import timedelta
from typing import Any

from hatchet_sdk import (
    Context,
    DefaultFilter,
    DesiredWorkerLabel,
    EmptyModel,
    Hatchet,
    NonRetryableException,
    ParentCondition,
    RateLimit,
    RateLimitDuration,
    StickyStrategy,
    WorkerLabelComparator,
    or_,
)
from hatchet_sdk.exceptions import FailedTaskRunExceptionGroup
from pydantic import BaseModel

from evidence import is_open, note, notes, pass_gate

hatchet = Hatchet()

# For tasks that wait at a gate, through a restart of the server if need be.
UNHURRIED = timedelta(minutes=3)

# The rate limit of `limited`, which a check sets before it runs anything.
STATIC_LIMIT = "sdk-test-static"


class Marked(BaseModel):
    mark: str


class Item(Marked):
    item: int = 0


# --- Tasks on their own ---------------------------------------------------------------------------------------------


class Greeting(BaseModel):
    name: str
    times: int = 1


class Greeted(BaseModel):
    text: str


@hatchet.task(input_validator=Greeting)
async def greet(input: Greeting, ctx: Context) -> Greeted:
    return Greeted(text=" ".join([f"Hello, {input.name}!"] * input.times))


@hatchet.task(input_validator=Greeting)
def greet_in_thread(input: Greeting, ctx: Context) -> Greeted:
    """The same as an ordinary function, which the package runs in a thread."""
    return Greeted(text=f"Hello, {input.name}!")


@hatchet.task(input_validator=Item)
async def echo(input: Item, ctx: Context) -> dict[str, Any]:
    return {"item": input.item}


@hatchet.task(input_validator=Item, execution_timeout=timedelta(seconds=15), retries=5)
async def tenacious(input: Item, ctx: Context) -> dict[str, Any]:
    """For many at once: what a worker has lost on the way to a dead server (see `World.middle`) is done again."""
    return {"item": input.item}


@hatchet.task()
async def nothing(input: EmptyModel, ctx: Context) -> None:
    """Its completion has an empty payload."""


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED)
async def gated(input: Item, ctx: Context) -> dict[str, Any]:
    """Held by the gate `go`: for everything that happens to a task while it runs."""
    about = {
        "item": input.item,
        "run_id": ctx.workflow_run_id,
        "worker_id": ctx.worker_id,
        "retry_count": ctx.retry_count,
        "place": ctx.worker_labels.get("place"),
        "priority": ctx.priority,
    }
    note(input.mark, "started", **about)
    await pass_gate(input.mark, "go")
    note(input.mark, "finished", **about)
    return about


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED)
async def describe(input: Item, ctx: Context) -> dict[str, Any]:
    """Gives what it was told about itself."""
    note(input.mark, "described", item=input.item, worker_id=ctx.worker_id)
    return {
        "item": input.item,
        "metadata": dict(ctx.additional_metadata),
        "worker_id": ctx.worker_id,
        "place": ctx.worker_labels.get("place"),
        "run_id": ctx.workflow_run_id,
        "task_run_id": ctx.task_run_id,
        "child_index": ctx.child_index,
        "child_key": ctx.child_key,
        "parent_run_id": ctx.parent_workflow_run_id,
        "workflow_id": ctx.workflow_id,
        "priority": ctx.priority,
    }


# --- Failures -------------------------------------------------------------------------------------------------------


class Flaky(Marked):
    succeeds_on: int


def _attempt(input: Flaky, ctx: Context) -> dict[str, Any]:
    note(input.mark, "attempt", retry_count=ctx.retry_count, number=ctx.attempt_number, max=ctx.max_attempts)
    if ctx.attempt_number < input.succeeds_on:
        raise RuntimeError(f"attempt {ctx.attempt_number} fails")
    return {"attempts": ctx.attempt_number}


@hatchet.task(input_validator=Flaky, retries=3)
async def flaky(input: Flaky, ctx: Context) -> dict[str, Any]:
    if ctx.attempt_number == 2:
        note(input.mark, "second", run_id=ctx.workflow_run_id)
        await pass_gate(input.mark, "second")
    return _attempt(input, ctx)


@hatchet.task(input_validator=Flaky, retries=3, backoff_factor=1.5, backoff_max_seconds=2)
async def flaky_with_backoff(input: Flaky, ctx: Context) -> dict[str, Any]:
    """Waits 1.5 s before the second attempt, and 2 s (not 2.25) before the third."""
    return _attempt(input, ctx)


@hatchet.task(input_validator=Marked, retries=3)
async def hopeless(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "attempt", number=ctx.attempt_number)
    await pass_gate(input.mark, "go")
    raise NonRetryableException("no use trying again")


class Words(Marked):
    text: str


@hatchet.task(input_validator=Words, execution_timeout=UNHURRIED)
async def complains(input: Words, ctx: Context) -> dict[str, Any]:
    note(input.mark, "started")
    await pass_gate(input.mark, "go")
    raise ValueError(input.text)


@hatchet.task(input_validator=Marked, execution_timeout=UNHURRIED)
async def moody(input: Marked, ctx: Context) -> dict[str, Any]:
    """Fails until the gate `well` is open; a replay waits at the gate `again`."""
    note(input.mark, "attempt", retry_count=ctx.retry_count)
    if not is_open(input.mark, "well"):
        raise RuntimeError("not today")
    await pass_gate(input.mark, "again")
    return {"mark": input.mark, "attempts": len(notes(input.mark, "attempt"))}


@hatchet.task(input_validator=Marked)
async def returns_list(input: Marked, ctx: Context) -> dict[str, Any]:
    await pass_gate(input.mark, "go")
    return ["not", "an", "object"]  # type: ignore[return-value]


@hatchet.task(input_validator=Marked)
async def returns_null_character(input: Marked, ctx: Context) -> dict[str, Any]:
    return {"text": "a\u0000b"}


# --- Time -----------------------------------------------------------------------------------------------------------


@hatchet.task(
    input_validator=Marked,
    schedule_timeout=timedelta(seconds=4),
    desired_worker_labels=[DesiredWorkerLabel(key="place", value="nowhere", required=True)],
)
async def never_starts(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "started")
    return {}


@hatchet.task(input_validator=Marked, execution_timeout=timedelta(seconds=3))
async def too_slow(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "attempt", number=ctx.attempt_number)
    await asyncio.sleep(600)
    return {}


@hatchet.task(input_validator=Marked, execution_timeout=timedelta(seconds=3), retries=1)
async def slow_once(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "attempt", number=ctx.attempt_number)
    if ctx.attempt_number == 1:
        await asyncio.sleep(600)
    return {"attempts": ctx.attempt_number}


@hatchet.task(input_validator=Marked, execution_timeout=timedelta(seconds=3))
async def asks_for_time(input: Marked, ctx: Context) -> dict[str, Any]:
    await ctx.aio_refresh_timeout(timedelta(seconds=60))
    note(input.mark, "asked")
    # Here time is the thing under test: longer than the timeout it began with.
    await asyncio.sleep(6)
    return {"attempts": ctx.attempt_number}


# --- Cancellation, slots, priorities --------------------------------------------------------------------------------


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED)
async def cancellable(input: Item, ctx: Context) -> dict[str, Any]:
    note(input.mark, "started", item=input.item, run_id=ctx.workflow_run_id)
    try:
        while not ctx.is_cancelled:
            await asyncio.sleep(0.05)
        note(input.mark, "saw the flag", item=input.item)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note(input.mark, "was cancelled", item=input.item)
        raise
    return {}


@hatchet.task(input_validator=Marked, execution_timeout=UNHURRIED)
async def cancels_itself(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "started")
    await pass_gate(input.mark, "go")
    await ctx.aio_cancel()
    note(input.mark, "saw the flag" if ctx.is_cancelled else "saw nothing")
    await asyncio.sleep(60)
    return {}


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED)
async def lets_go(input: Item, ctx: Context) -> dict[str, Any]:
    note(input.mark, "holds its slot", worker_id=ctx.worker_id)
    await pass_gate(input.mark, "release")
    await ctx.aio_release_slot()
    note(input.mark, "has let go")
    await pass_gate(input.mark, "go")
    return {"worker_id": ctx.worker_id}


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED, slot_cost=2)
async def bulky(input: Item, ctx: Context) -> dict[str, Any]:
    note(input.mark, "bulky", item=input.item)
    await pass_gate(input.mark, f"bulky {input.item}")
    return {"item": input.item}


@hatchet.task(
    input_validator=Item,
    desired_worker_labels=[
        DesiredWorkerLabel(key="memory", value=150, comparator=WorkerLabelComparator.GREATER_THAN, weight=100),
    ],
)
async def prefers_memory(input: Item, ctx: Context) -> dict[str, Any]:
    return {"place": ctx.worker_labels.get("place")}


@hatchet.task(
    input_validator=Item,
    desired_worker_labels=[
        DesiredWorkerLabel(key="memory", value=150, comparator=WorkerLabelComparator.LESS_THAN, required=True),
    ],
)
async def needs_little_memory(input: Item, ctx: Context) -> dict[str, Any]:
    return {"place": ctx.worker_labels.get("place")}


# --- DAGs -----------------------------------------------------------------------------------------------------------


class Number(Marked):
    n: int


diamond = hatchet.workflow(name="Diamond", input_validator=Number)


@diamond.task()
async def top(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "top")
    return {"n": input.n}


@diamond.task(parents=[top], execution_timeout=UNHURRIED)
async def left(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "left", run_id=ctx.workflow_run_id, task_run_id=ctx.task_run_id)
    await pass_gate(input.mark, "left")
    return {"n": ctx.task_output(top)["n"] + 1}


@diamond.task(parents=[top])
def right(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "right")
    return {"n": ctx.task_output(top)["n"] * 10}


@diamond.task(parents=[left, right])
async def bottom(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "bottom")
    return {"sum": ctx.task_output(left)["n"] + ctx.task_output(right)["n"]}


choices = hatchet.workflow(name="choices", input_validator=Number)


@choices.task(execution_timeout=UNHURRIED)
async def measure(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "measure")
    await pass_gate(input.mark, "go")
    return {"n": input.n, "unit": "cm"}


@choices.task(parents=[measure], skip_if=[ParentCondition(parent=measure, expression="output.n > 50")])
async def small(input: Number, ctx: Context) -> dict[str, Any]:
    return {"size": "small"}


@choices.task(parents=[measure], skip_if=[ParentCondition(parent=measure, expression="output.n <= 50")])
async def large(input: Number, ctx: Context) -> dict[str, Any]:
    return {"size": "large"}


@choices.task(parents=[measure], wait_for=[ParentCondition(parent=measure, expression="output.unit == 'cm'")])
async def metric(input: Number, ctx: Context) -> dict[str, Any]:
    return {"n": ctx.task_output(measure)["n"]}


@choices.task(parents=[small, large])
async def either(input: Number, ctx: Context) -> dict[str, Any]:
    """Runs, because not all of its parents were skipped."""
    skipped = {"small": ctx.was_skipped(small), "large": ctx.was_skipped(large)}
    return {"skipped": [name for name, was in skipped.items() if was]}


@choices.task(parents=[small])
async def only_after_small(input: Number, ctx: Context) -> dict[str, Any]:
    """Is skipped if all of its parents, this one, were."""
    return {"after": "small"}


@choices.task(
    parents=[measure, metric],
    skip_if=[
        or_(
            ParentCondition(parent=measure, expression="output.n == 0"),
            ParentCondition(parent=metric, expression="output.n == 99"),
        )
    ],
)
async def neither_zero_nor_99(input: Number, ctx: Context) -> dict[str, Any]:
    return {"n": input.n}


veto = hatchet.workflow(name="veto", input_validator=Number)


@veto.task(execution_timeout=UNHURRIED)
async def propose(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "propose")
    await pass_gate(input.mark, "go")
    return {"n": input.n}


@veto.task(parents=[propose], cancel_if=[ParentCondition(parent=propose, expression="output.n == 13")])
async def decide(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "decide")
    return {"n": input.n}


@veto.task(parents=[decide])
async def carry_out(input: Number, ctx: Context) -> dict[str, Any]:
    note(input.mark, "carry out")
    return {"n": input.n}


heating = hatchet.workflow(name="heating", input_validator=Marked)


@heating.task(execution_timeout=UNHURRIED, retries=1)
async def boiler(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "boiler", number=ctx.attempt_number)
    await pass_gate(input.mark, "go")
    raise RuntimeError("the boiler is cold")


@heating.task(parents=[boiler])
async def radiator(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "radiator")
    return {}


@heating.task()
async def pump(input: Marked, ctx: Context) -> dict[str, Any]:
    return {"pumps": True}


@heating.on_failure_task()
async def call_the_plumber(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "plumber", errors=dict(ctx.task_run_errors), run_id=ctx.workflow_run_id)
    return {"called": True}


@heating.on_success_task()
async def enjoy(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "enjoy")
    return {}


party = hatchet.workflow(name="party", input_validator=Marked)


@party.task(execution_timeout=UNHURRIED)
async def cake(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "cake")
    await pass_gate(input.mark, "go")
    return {"cake": True}


@party.task()
async def music(input: Marked, ctx: Context) -> dict[str, Any]:
    return {"music": True}


@party.on_success_task()
async def dance(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "dance")
    return {"parents": [ctx.task_output(cake), ctx.task_output(music)]}


@party.on_failure_task()
async def go_home(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "go home")
    return {}


# --- Children -------------------------------------------------------------------------------------------------------


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED)
async def child(input: Item, ctx: Context) -> dict[str, Any]:
    note(input.mark, "child", item=input.item, run_id=ctx.workflow_run_id)
    await pass_gate(input.mark, "children")
    return {
        "item": input.item * 2,
        "index": ctx.child_index,
        "key": ctx.child_key,
        "parent": ctx.parent_workflow_run_id,
        "metadata": dict(ctx.additional_metadata),
    }


class Family(Marked):
    one_by_one: int = 0
    in_bulk: int = 0


@hatchet.task(input_validator=Family, execution_timeout=UNHURRIED)
async def parent(input: Family, ctx: Context) -> dict[str, Any]:
    single = [
        await child.aio_run(Item(mark=input.mark, item=n), wait_for_result=False) for n in range(input.one_by_one)
    ]
    bulk = await child.aio_run_many(
        [
            child.create_bulk_run_item(
                Item(mark=input.mark, item=100 + n), additional_metadata={"in_bulk": str(n)}, child_key=f"bulk-{n}"
            )
            for n in range(input.in_bulk)
        ],
        wait_for_result=False,
    )
    results = await asyncio.gather(*[ref.aio_result() for ref in [*single, *bulk]])
    return {"task_run_id": ctx.task_run_id, "run_ids": [ref.workflow_run_id for ref in [*single, *bulk]], "results": results}


@hatchet.task(input_validator=Marked, retries=1, execution_timeout=UNHURRIED)
async def stubborn_parent(input: Marked, ctx: Context) -> dict[str, Any]:
    """Spawns the same children in both attempts, two by index and one, twice, by key."""
    by_index = [await child.aio_run(Item(mark=input.mark, item=n), wait_for_result=False) for n in (1, 2)]
    by_key = [
        await child.aio_run(Item(mark=input.mark, item=3), wait_for_result=False, child_key="the third")
        for _ in range(2)
    ]
    run_ids = [ref.workflow_run_id for ref in [*by_index, *by_key]]
    note(input.mark, "spawned", run_ids=run_ids, number=ctx.attempt_number)
    results = [(await ref.aio_result())["item"] for ref in [*by_index, *by_key]]
    if ctx.attempt_number == 1:
        raise RuntimeError("once more")
    return {"run_ids": run_ids, "results": results}


@hatchet.task(input_validator=Marked, execution_timeout=UNHURRIED)
async def grieving_parent(input: Marked, ctx: Context) -> dict[str, Any]:
    try:
        await complains.aio_run(Words(mark=input.mark, text="the child: says no"))
    except FailedTaskRunExceptionGroup as group:
        return {"errors": [[error.exc_type, error.exc] for error in group.exceptions]}
    return {"errors": []}


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED, sticky=StickyStrategy.HARD)
async def hard_sticky(input: Item, ctx: Context) -> dict[str, Any]:
    note(input.mark, "sticky child", worker_id=ctx.worker_id)
    return {"worker_id": ctx.worker_id}


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED, sticky=StickyStrategy.SOFT)
async def soft_sticky(input: Item, ctx: Context) -> dict[str, Any]:
    note(input.mark, "sticky child", worker_id=ctx.worker_id)
    return {"worker_id": ctx.worker_id}


@hatchet.task(input_validator=Item, execution_timeout=UNHURRIED)
async def clingy_parent(input: Item, ctx: Context) -> dict[str, Any]:
    """Spawns sticky children and keeps its slot until the gate opens."""
    kind = hard_sticky if input.item == 1 else soft_sticky
    ref = await kind.aio_run(Item(mark=input.mark), wait_for_result=False, sticky=True)
    note(input.mark, "clingy parent", worker_id=ctx.worker_id, child=ref.workflow_run_id)
    await pass_gate(input.mark, "go")
    return {"worker_id": ctx.worker_id, "child": ref.workflow_run_id}


together = hatchet.workflow(name="together", input_validator=Marked, sticky=StickyStrategy.SOFT)


@together.task(execution_timeout=UNHURRIED)
async def first_together(input: Marked, ctx: Context) -> dict[str, Any]:
    note(input.mark, "first together")
    await pass_gate(input.mark, "go")
    return {"worker_id": ctx.worker_id}


@together.task(parents=[first_together])
async def second_together(input: Marked, ctx: Context) -> dict[str, Any]:
    return {"worker_id": ctx.worker_id}


@together.task(parents=[second_together])
async def third_together(input: Marked, ctx: Context) -> dict[str, Any]:
    return {"worker_id": ctx.worker_id}


# --- Events, streams, logs, rate limits -----------------------------------------------------------------------------


class Order(Marked):
    amount: int


def _about_event(ctx: Context) -> dict[str, Any]:
    return {
        "event_id": ctx.triggering_event_id,
        "event_key": ctx.triggering_event_key,
        "metadata": dict(ctx.additional_metadata),
        "run_id": ctx.workflow_run_id,
    }


@hatchet.task(input_validator=Order, on_events=["order:placed"], execution_timeout=UNHURRIED)
async def on_order(input: Order, ctx: Context) -> dict[str, Any]:
    note(input.mark, "order", amount=input.amount, **_about_event(ctx))
    await pass_gate(input.mark, "go")
    return {"amount": input.amount}


@hatchet.task(input_validator=Order, on_events=["order:*"])
async def on_anything(input: Order, ctx: Context) -> dict[str, Any]:
    note(input.mark, "anything", amount=input.amount, **_about_event(ctx))
    return {"amount": input.amount}


@hatchet.task(
    input_validator=Order,
    on_events=["sale:made"],
    default_filters=[DefaultFilter(expression="input.amount > 100", scope="shop", payload={"tier": "gold"})],
)
async def on_large_sale(input: Order, ctx: Context) -> dict[str, Any]:
    note(input.mark, "large sale", amount=input.amount, filter=dict(ctx.filter_payload))
    return {"amount": input.amount}


@hatchet.task(input_validator=Marked, execution_timeout=UNHURRIED)
async def pushes(input: Marked, ctx: Context) -> dict[str, Any]:
    """Pushes an event from within a task."""
    event = await hatchet.event.aio_push("order:placed", {"mark": input.mark, "amount": 7})
    return {"event_id": event.event_id, "run_id": ctx.workflow_run_id, "task_run_id": ctx.task_run_id}


@hatchet.task(input_validator=Marked, execution_timeout=UNHURRIED)
async def narrator(input: Marked, ctx: Context) -> dict[str, Any]:
    """Says `ahem` until it is heard, because a subscription tells nobody when it has begun."""
    for chapter in (1, 2):
        while not is_open(input.mark, f"heard {chapter}"):
            await ctx.aio_put_stream(f"ahem {chapter}")
            await asyncio.sleep(0.1)
        for line in range(10):
            await ctx.aio_put_stream(f"{chapter}.{line}")
        note(input.mark, "told", chapter=chapter)
    return {"chapters": 2}


@hatchet.task(input_validator=Marked, execution_timeout=UNHURRIED)
async def talkative(input: Marked, ctx: Context) -> dict[str, Any]:
    ctx.log("one")
    ctx.log({"two": 2})
    note(input.mark, "talked", task_run_id=ctx.task_run_id)
    await pass_gate(input.mark, "go")
    ctx.log("three ☃")
    return {}


@hatchet.task(input_validator=Item, rate_limits=[RateLimit(static_key=STATIC_LIMIT, units=2)])
async def limited(input: Item, ctx: Context) -> dict[str, Any]:
    note(input.mark, "limited", item=input.item)
    return {"item": input.item}


class Customer(Item):
    customer: str


@hatchet.task(
    input_validator=Customer,
    rate_limits=[
        RateLimit(dynamic_key="input.customer", units=1, limit=1, duration=RateLimitDuration.HOUR),
    ],
)
async def limited_by_customer(input: Customer, ctx: Context) -> dict[str, Any]:
    note(input.mark, "served", customer=input.customer, item=input.item)
    return {"item": input.item}


WORKFLOWS = [
    greet,
    greet_in_thread,
    echo,
    tenacious,
    nothing,
    gated,
    describe,
    flaky,
    flaky_with_backoff,
    hopeless,
    complains,
    moody,
    returns_list,
    returns_null_character,
    never_starts,
    too_slow,
    slow_once,
    asks_for_time,
    cancellable,
    cancels_itself,
    lets_go,
    bulky,
    prefers_memory,
    needs_little_memory,
    diamond,
    choices,
    veto,
    heating,
    party,
    child,
    parent,
    stubborn_parent,
    grieving_parent,
    hard_sticky,
    soft_sticky,
    clingy_parent,
    together,
    on_order,
    on_anything,
    on_large_sale,
    pushes,
    narrator,
    talkative,
    limited,
    limited_by_customer,
]
