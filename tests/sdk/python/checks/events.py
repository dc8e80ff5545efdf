"""Events that start workflows."""

import json

import grpc
from hatchet_sdk import BulkPushEventWithMetadata

from checks.refusals import refusal
from evidence import notes, open_gate
from workflows import Marked, hatchet, pushes


async def check_an_event_starts_the_workflows_that_wait_for_it(world):
    event = await hatchet.event.aio_push(
        "order:placed", {"mark": world.mark, "amount": 5}, additional_metadata={"source": "till"}, scope="shop"
    )
    assert (event.key, event.scope) == ("order:placed", "shop"), event
    assert json.loads(event.payload) == {"mark": world.mark, "amount": 5}, event
    assert json.loads(event.additional_metadata or "") == {"source": "till"}, event
    (order,) = await world.noted("order")
    # The other workflow takes every event that begins with `order:`.
    (anything,) = await world.noted("anything")
    await world.has_status(anything["run_id"], "COMPLETED")
    await world.middle()
    for note in (order, anything):
        assert note["amount"] == 5, note
        assert (note["event_id"], note["event_key"]) == (event.event_id, "order:placed"), note
        assert note["metadata"]["source"] == "till", note
        assert note["metadata"]["hatchet__event_id"] == event.event_id, note
        assert note["metadata"]["hatchet__event_key"] == "order:placed", note
    open_gate(world.mark, "go")
    for note in (order, anything):
        await world.has_status(note["run_id"], "COMPLETED")

    runs = (await hatchet.runs.aio_list(triggering_event_external_id=event.event_id)).rows
    assert {row.workflow_run_external_id for row in runs} == {order["run_id"], anything["run_id"]}, runs
    stored = await hatchet.event.aio_get(event.event_id)
    assert (stored.key, stored.scope, stored.payload) == ("order:placed", "shop", {"mark": world.mark, "amount": 5})
    assert (stored.additional_metadata or {})["source"] == "till", stored
    summary = stored.workflow_run_summary
    assert (summary.succeeded, summary.failed, summary.running, summary.queued) == (2, 0, 0, 0), summary
    assert {run.workflow_run_id for run in stored.triggered_runs or []} == {order["run_id"], anything["run_id"]}


async def check_many_events_in_one_request(world):
    events = await hatchet.event.aio_bulk_push(
        [
            BulkPushEventWithMetadata(
                key="order:placed", payload={"mark": world.mark, "amount": n}, additional_metadata={"n": n}
            )
            for n in range(5)
        ]
    )
    await world.middle(all_back=True)
    assert len({event.event_id for event in events}) == 5
    open_gate(world.mark, "go")
    orders = await world.noted("order", 5)
    await world.noted("anything", 5)
    wanted = {(event.event_id, json.loads(event.payload)["amount"]) for event in events}
    assert {(note["event_id"], note["amount"]) for note in orders} == wanted, orders
    assert all(note["metadata"]["n"] == note["amount"] for note in orders), orders
    for note in orders:
        await world.has_status(note["run_id"], "COMPLETED")


async def check_an_event_that_nobody_waits_for_is_kept(world):
    async with world.meanwhile():
        event = await hatchet.event.aio_push("weather:rain", {"mark": world.mark})
        stored = await hatchet.event.aio_get(event.event_id)
        assert (stored.key, stored.payload) == ("weather:rain", {"mark": world.mark})
        assert (await hatchet.runs.aio_list(triggering_event_external_id=event.event_id)).rows == []
        listed = (await hatchet.event.aio_list(keys=["weather:rain"], event_ids=[event.event_id])).rows or []
        assert [row.metadata.id for row in listed] == [event.event_id]


async def check_what_is_not_executed_yet_is_refused_in_words_when_it_is_used(world):
    await world.middle()
    push = hatchet.event.aio_push("sale:made", {"mark": world.mark, "amount": 200}, scope="shop")
    error = await refusal(push)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    assert "filters on events" in (error.details() or "") and "not executed yet" in (error.details() or ""), error


async def check_an_event_from_a_task_names_its_source(world):
    ref = await pushes.aio_run(Marked(mark=world.mark), wait_for_result=False)
    told = await ref.aio_result()
    (order,) = await world.noted("order")
    await world.middle()
    open_gate(world.mark, "go")
    assert order["event_id"] == told["event_id"], order
    assert order["metadata"]["hatchet__source_workflow_run_id"] == told["run_id"], order
    assert order["metadata"]["hatchet__source_step_run_id"] == told["task_run_id"], order
    await world.has_status(order["run_id"], "COMPLETED")
