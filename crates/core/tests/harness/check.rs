//! Laws that hold after every command, checked on the rows alone.

use std::collections::{BTreeMap, BTreeSet};

use mainspring_core::Core;
use mainspring_core::id::{RunId, TenantId};
use mainspring_core::journal::PendingKind;
use mainspring_core::row::{
    InboxRow, MessageRow, MessageState, RunRow, RunState, TaskRow, TaskState, WorkflowRow, key,
};
use mainspring_core::write::Table;

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
    for (key, task) in tables.all::<TaskRow>(Table::Task) {
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
