"""Tasks that start others: one by one, in bulk, once each, and what a child inherits."""

from evidence import notes, open_gate
from workflows import Family, Marked, grieving_parent, hatchet, parent, stubborn_parent


async def check_children_one_by_one_and_in_bulk(world):
    ref = await parent.aio_run(
        Family(mark=world.mark, one_by_one=3, in_bulk=3),
        additional_metadata={"family": "Smith", "in_bulk": "no"},
        wait_for_result=False,
    )
    await world.noted("child", 6)
    await world.middle(all_back=True)
    open_gate(world.mark, "children")
    told = await ref.aio_result()
    results = told["results"]
    assert len(set(told["run_ids"])) == 6, told
    assert [result["item"] for result in results] == [0, 2, 4, 200, 202, 204], results
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4, 5], results
    assert [result["key"] for result in results] == ["", "", "", "bulk-0", "bulk-1", "bulk-2"], results
    assert {result["parent"] for result in results} == {told["task_run_id"]}, results
    # The package hands the metadata of the parent down; what the child was given itself counts more.
    inherited = {"family": "Smith", "in_bulk": "no"}
    wanted = [inherited] * 3 + [{**inherited, "in_bulk": str(n)} for n in range(3)]
    assert [result["metadata"] for result in results] == wanted, results
    listed = await hatchet.runs.aio_list(parent_task_external_id=told["task_run_id"])
    assert {row.workflow_run_external_id for row in listed.rows} == set(told["run_ids"]), listed
    world.times("child", 6)


async def check_children_are_started_once_though_their_parent_is_tried_twice(world):
    ref = await stubborn_parent.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("spawned")
    await world.noted("child", 3)
    await world.middle(all_back=True)
    open_gate(world.mark, "children")
    told = await ref.aio_result()
    assert told["results"] == [2, 4, 6, 6], told
    first, *_, second = notes(world.mark, "spawned")
    assert (first["number"], second["number"]) == (1, 2)
    assert first["run_ids"] == second["run_ids"] == told["run_ids"], "the second attempt has found other children"
    # By index each is its own child; the same key is the same child.
    assert len(set(told["run_ids"])) == 3 and told["run_ids"][2] == told["run_ids"][3], told
    world.times("child", 3)
    assert {note["run_id"] for note in notes(world.mark, "child")} == set(told["run_ids"])


async def check_the_failure_of_a_child_reaches_its_parent(world):
    ref = await grieving_parent.aio_run(Marked(mark=world.mark), wait_for_result=False)
    await world.noted("started")
    await world.middle()
    open_gate(world.mark, "go")
    assert await ref.aio_result() == {"errors": [["ValueError", "the child: says no"]]}
    assert await world.status(ref.workflow_run_id) == "COMPLETED"
