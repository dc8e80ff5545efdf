//! Laws that hold after every command, checked on the rows alone.

use std::collections::{BTreeMap, BTreeSet};

use mainspring_core::Core;
use mainspring_core::id::{RunId, TaskId, TenantId};
use mainspring_core::journal::PendingKind;
use mainspring_core::row::{
    ChildRow, DocumentRow, InboxRow, MessageRow, MessageState, RunRow, RunState, TaskRow, TaskState, WorkflowRow, key,
};
use mainspring_core::workflow::TaskDef;
use mainspring_core::write::Table;

use super::inside;
use super::shape::shape;
use super::tables::{Tables, message_of, run_of, task_of, tenant_of, version_of};

/// Checks every law. Panics with the broken one.
pub fn check_rows(tables: &Tables) {
    let runs: BTreeMap<(TenantId, RunId), RunRow> =
        tables.all::<RunRow>(Table::Run).map(|(key, row)| ((tenant_of(key), run_of(key)), row)).collect();
    let defs: BTreeMap<_, _> = tables
        .all::<WorkflowRow>(Table::Workflow)
        .map(|(key, row)| ((tenant_of(key), version_of(key)), row.def))
        .collect();
    check_tasks(tables, &runs);
    check_inboxes(tables, &runs);
    check_children(tables, &runs);
    check_documents(tables);

    // At most N live runs per key, by the widest rule of those that hold a place; one waits only while some do.
    let mut live: BTreeMap<(TenantId, &str, &str), (u32, u32, u32)> = BTreeMap::new();
    for ((tenant, id), run) in &runs {
        let def = &defs[&(*tenant, run.version)];
        let Some(rule) = def.key else { continue };
        let Some(key) = &run.key else { continue };
        let places = live.entry((*tenant, &run.workflow, key)).or_default();
        match run.state {
            RunState::Queued => places.1 += 1,
            RunState::Running | RunState::Parked => {
                places.0 += 1;
                places.2 = places.2.max(rule.runs_max);
            }
            RunState::Completed | RunState::Failed | RunState::Cancelled | RunState::Superseded => {}
        }
        assert!(!run.state.ended() || run.finished_at.is_some(), "{id} has ended at no time");
    }
    for ((_, workflow, key), (held, waiting, runs_max)) in live {
        assert!(held <= runs_max, "{held} live runs of {workflow:?} for key {key:?}, at most {runs_max} are allowed");
        assert!(waiting == 0 || held > 0, "{waiting} runs of {workflow:?} wait for key {key:?}, which nobody holds");
    }
}

fn check_tasks(tables: &Tables, runs: &BTreeMap<(TenantId, RunId), RunRow>) {
    let unread: BTreeSet<Vec<u8>> = tables
        .all::<MessageRow>(Table::Message)
        .filter(|(_, message)| message.state == MessageState::Unread)
        .map(|(row, message)| key::inbox(tenant_of(row), &message.workflow, &message.key))
        .collect();
    let mut counted: BTreeMap<(TenantId, RunId), (u16, u16)> = BTreeMap::new();
    for (key, task) in tables.tasks() {
        let (tenant, id) = (tenant_of(key), task_of(key));
        let run = &runs[&(tenant, id.run)];
        let tasks = counted.entry((tenant, id.run)).or_default();
        tasks.0 += 1;
        if task.state.ended() {
            tasks.1 += 1;
            assert!(task.pending.is_empty(), "{id} has ended and waits for something");
        } else {
            assert!(!run.state.ended(), "{id} goes on though its run has ended");
        }
        if run.state == RunState::Queued {
            assert!(task.state == TaskState::Blocked, "{id} moves though its run waits for a key");
        }
        if let TaskState::Suspended { .. } = task.state {
            assert!(!task.pending.is_empty(), "{id} is suspended and waits for nothing: it would never end");
        }
        for position in task.pending.keys() {
            assert!(*position < task.journal_len, "{id} waits for an entry it has not asked for");
        }
        let receives = task.pending.values().any(|pending| matches!(pending.kind, PendingKind::Receive { .. }));
        if receives {
            let place = key::inbox(tenant, &run.workflow, run.key.as_deref().expect("an inbox run has a key"));
            let inbox: InboxRow = tables.get(Table::Inbox, &place).expect("a run that receives has an inbox");
            assert!(inbox.live == id.run && !inbox.closed, "{id} waits for messages that cannot come");
            assert!(!unread.contains(&place), "{id} waits for a message while one is unread");
        }
    }
    for ((tenant, id), run) in runs {
        let (all, ended) = counted.get(&(*tenant, *id)).copied().unwrap_or_default();
        assert!(all == run.tasks, "{id} has {all} task rows, should have {}", run.tasks);
        assert!(run.state.ended() || ended < all, "{id} goes on though all its tasks have ended");
    }
}

/// Each message is in exactly one state, which names a run that exists and is in the state that this implies.
fn check_inboxes(tables: &Tables, runs: &BTreeMap<(TenantId, RunId), RunRow>) {
    let mut inboxes: BTreeMap<(TenantId, String, String), InboxRow> = BTreeMap::new();
    for (row_key, inbox) in tables.all::<InboxRow>(Table::Inbox) {
        let (workflow, name) = key::inbox_of(row_key).expect("an inbox's key names workflow and key");
        let run = &runs[&(tenant_of(row_key), inbox.live)];
        assert!(!run.state.ended(), "the live run {} of inbox {name:?} has ended", inbox.live);
        assert!((run.workflow.as_str(), run.key.as_deref()) == (workflow, Some(name)), "an inbox with another's run");
        inboxes.insert((tenant_of(row_key), workflow.into(), name.into()), inbox);
    }
    let mut places: BTreeSet<(TenantId, String, String, u64)> = BTreeSet::new();
    for (row_key, message) in tables.all::<MessageRow>(Table::Message) {
        let (tenant, id) = (tenant_of(row_key), message_of(row_key));
        let inbox = inboxes.get(&(tenant, message.workflow.clone(), message.key.clone()));
        assert!(tables.payload(tenant, message.payload.id).is_some(), "message {id} without its payload");
        match message.state {
            MessageState::Unread => assert!(inbox.is_some(), "message {id} is unread and has no inbox"),
            MessageState::Received { run } => {
                assert!(
                    inbox.is_some_and(|inbox| inbox.live == run),
                    "message {id} received by a run that is not live"
                );
            }
            MessageState::Done { run } => {
                let state = runs[&(tenant, run)].state;
                assert!(
                    state.ended() && state != RunState::Superseded,
                    "message {id} is done with run {run}, which is {}",
                    state.word()
                );
            }
        }
        if !matches!(message.state, MessageState::Done { .. }) {
            let place = (tenant, message.workflow, message.key, message.seq);
            assert!(places.insert(place), "two live messages of one inbox at one place");
        }
    }
    // One live run per inbox key.
    let mut live: BTreeSet<(TenantId, &str, &str)> = BTreeSet::new();
    for ((tenant, id), run) in runs {
        let Some(key) = run.key.as_deref().filter(|_| !run.state.ended()) else { continue };
        if inboxes.contains_key(&(*tenant, run.workflow.clone(), key.to_owned())) {
            assert!(live.insert((*tenant, &run.workflow, key)), "{id} is a second live run for key {key:?}");
        }
    }
}

/// What is kept beside the rows agrees with them: workers' hands, lines, and limits that lines wait for.
pub fn check_inside(core: &Core, tables: &Tables) {
    let text = format!("{core:?}");
    for (tenant, state) in inside::tenants(&text) {
        check_hands(tables, tenant, state);
        check_lines(&text, tables, tenant, state);
        check_groups(tables, tenant, state);
        check_marks(&text, tenant, state);
    }
}

/// A group counts the inboxes that have a row and say that they belong to it.
fn check_groups(tables: &Tables, tenant: &str, state: &str) {
    let mut expected: BTreeMap<String, u32> = BTreeMap::new();
    let inboxes = tables.all::<InboxRow>(Table::Inbox).filter(|(key, _)| tenant_of(key).to_string() == tenant);
    for group in inboxes.flat_map(|(_, inbox)| inbox.groups) {
        *expected.entry(format!("{group:?}")).or_default() += 1;
    }
    let number = |text: &str| text.parse::<u32>().expect("inboxes are counted");
    let counted = inside::entries(inside::field(state, "groups"));
    let counted: BTreeMap<String, u32> =
        counted.into_iter().map(|(group, live)| (group.to_owned(), number(live))).collect();
    assert_eq!(counted, expected, "inboxes with a live run, by group");
}

/// Each marked document is marked once, and one timer forgets the oldest as long as there are some.
fn check_marks(text: &str, tenant: &str, state: &str) {
    let documents = inside::entries(inside::field(state, "documents")).len();
    let marked = inside::items(inside::field(state, "marked")).len();
    assert_eq!(documents, marked, "marks, and when they are forgotten");
    let timers = text.matches(&format!("{tenant}, Marks)")).count();
    assert_eq!(timers, usize::from(marked > 0), "timers that forget {marked} marks");
}

/// Slots taken of each worker are what its running tasks take, less what they gave back.
fn check_hands(tables: &Tables, tenant: &str, state: &str) {
    let mut hands: BTreeMap<String, (BTreeSet<String>, BTreeMap<String, u32>)> = BTreeMap::new();
    for (row_key, task) in tables.all::<TaskRow>(Table::Task) {
        let TaskState::Running { worker, .. } = task.state else { continue };
        if tenant_of(row_key).to_string() != tenant {
            continue;
        }
        let id = task_of(row_key);
        let hand = hands.entry(worker.to_string()).or_default();
        hand.0.insert(id.to_string());
        for (kind, units) in def_of(tables, tenant_of(row_key), id).slots.iter().filter(|_| !task.slots_released) {
            *hand.1.entry(format!("{kind:?}")).or_default() += units;
        }
    }
    for (worker, known) in inside::entries(inside::field(state, "workers")) {
        let running: BTreeSet<String> =
            inside::items(inside::field(known, "running")).into_iter().map(str::to_owned).collect();
        let number = |text: &str| text.parse::<u32>().expect("slots are counted");
        let taken = inside::entries(inside::field(known, "taken")).into_iter();
        let taken: BTreeMap<String, u32> =
            taken.map(|(kind, units)| (kind.to_owned(), number(units))).filter(|(_, units)| *units > 0).collect();
        let expected = hands.remove(worker).unwrap_or_default();
        assert_eq!((running, taken), expected, "the hands of worker {worker}");
    }
    assert!(hands.is_empty(), "tasks are with workers that nobody knows: {hands:?}");
}

/// Each queued task is in one line, in its queue or held; what is held waits for a limit that will refill.
fn check_lines(text: &str, tables: &Tables, tenant: &str, state: &str) {
    let (queues, held) = (inside::field(state, "queues"), inside::field(state, "held"));
    let mut places = inside::places(queues);
    places.extend(inside::places(held));
    let tasks: Vec<&str> = places.iter().filter_map(|place| Some(place.rsplit_once(", ")?.1)).collect();
    let mut found: Vec<String> = tasks.iter().map(|task| task.trim_end_matches(')').to_owned()).collect();
    found.sort();
    let mut expected: Vec<String> = tables
        .all::<TaskRow>(Table::Task)
        .filter(|(key, task)| tenant_of(key).to_string() == tenant && matches!(task.state, TaskState::Queued { .. }))
        .map(|(key, _)| task_of(key).to_string())
        .collect();
    expected.sort();
    assert_eq!(found, expected, "tasks in lines, and queued tasks");

    let queued: BTreeSet<(&str, &str)> = inside::entries(queues)
        .into_iter()
        .flat_map(|(action, lines)| inside::entries(lines).into_iter().map(move |(wants, _)| (action, wants)))
        .collect();
    let rates = inside::entries(inside::field(state, "rates"));
    let refills = inside::field(state, "refills");
    for (place, _) in inside::entries(held) {
        let twice = queued.iter().any(|(action, wants)| place == format!("({action}, {wants})"));
        assert!(!twice, "a line is held and in its queue: {place}");
        let waits = |rate: &str| inside::items(inside::field(rate, "waiting")).contains(&place);
        let rate = rates.iter().find(|(_, rate)| waits(rate));
        let (name, _) = rate.unwrap_or_else(|| panic!("a line waits for no limit: {place}"));
        assert!(refills.contains(&format!(", {name})")), "nobody waits for {name} to be full again");
        assert!(text.contains(&format!("{tenant}, Refill)")), "no timer waits for the first limit that is full again");
    }
}

fn def_of(tables: &Tables, tenant: TenantId, id: TaskId) -> TaskDef {
    let run: RunRow = tables.get(Table::Run, &key::run(tenant, id.run)).expect("a task has its run");
    let version: WorkflowRow = tables.get(Table::Workflow, &key::workflow(tenant, run.version)).expect("a version");
    version.def.tasks[usize::from(id.index)].clone()
}

/// A child asked for by name and its parent's note of it name each other.
fn check_children(tables: &Tables, runs: &BTreeMap<(TenantId, RunId), RunRow>) {
    let mut noted: BTreeSet<(TenantId, TaskId, String, RunId)> = BTreeSet::new();
    for (row_key, child) in tables.all::<ChildRow>(Table::Child) {
        noted.insert((tenant_of(row_key), task_of(row_key), child.name, child.run));
    }
    for ((tenant, id), run) in runs {
        let Some(of) = &run.child_of else { continue };
        assert!(noted.remove(&(*tenant, of.task, of.name.clone(), *id)), "{id} is a child nobody notes: {of:?}");
    }
    assert!(noted.is_empty(), "children that do not know their parent: {noted:?}");
}

/// What is kept of former versions is of a document that has such a version, or one that came later.
fn check_documents(tables: &Tables) {
    for (row_key, revision) in tables.all::<DocumentRow>(Table::Revision) {
        let length = |at: usize| usize::from(u16::from_be_bytes([row_key[at], row_key[at + 1]]));
        let (kind, name) = (length(16), length(18));
        let of = [&row_key[..18], &row_key[20..20 + kind + name]].concat();
        let document: DocumentRow =
            tables.get(Table::Document, &of).expect("a version kept of a document that is there");
        assert!(revision.version <= document.version, "a version kept of a document before it was written");
        assert!(revision.version < document.version || revision == document, "a version kept that says something else");
        assert!(row_key.ends_with(&revision.version.to_be_bytes()), "a version kept at another's place");
    }
}

/// A core built from the rows is the live one: same queues, same timers, same waits.
pub fn check_recovered(core: &Core, recovered: &Core, leases: bool) {
    let (live, back) = (shape(core), shape(recovered));
    if live != back {
        let at = live.bytes().zip(back.bytes()).take_while(|(a, b)| a == b).count();
        let around = |text: &str| text.chars().skip(at.saturating_sub(300)).take(500).collect::<String>();
        panic!(
            "a restart would not rebuild the live state\n  live    ... {}\n  rebuilt ... {}",
            around(&live),
            around(&back)
        );
    }
    let (mut live, mut back) = (core.counts(), recovered.counts());
    (live.workers, back.workers) = (0, 0);
    assert_eq!(live, back, "a restart would count differently");
    if !leases {
        assert_eq!(core.next_due(), recovered.next_due(), "a restart would set other timers");
    }
}
