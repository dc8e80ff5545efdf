//! A durable function carried out outside the process, entry by entry: it asks, waits, asks again when it heard nothing,
//! leaves memory now and then, and compares what it is told with what it was told before.

use std::time::Duration;

use bytes::Bytes;
use mainspring_core::command::Claim;
use mainspring_core::id::fingerprint;
use mainspring_core::journal::{Completion, Request};
use mainspring_core::rate::RateUse;
use mainspring_core::row::OnParentEnd;
use mainspring_core::{Command, Refusal, Reply};
use serde_json::json;
use tokio::sync::mpsc;

use crate::books::{TAKEN, marker};
use crate::chance::Chance;
use crate::link::{Answered, call};
use crate::workers::Worker;

/// What workers offer for it.
pub const ACTION: &str = "scripted";
/// Entries of the script.
const ENTRIES: u32 = 6;
/// Far behind the last entry.
const BEYOND: u32 = 1_000;
/// How long it waits to hear of a completion before it asks itself.
const LISTEN: Duration = Duration::from_millis(900);

/// What the script asks at a position. The same at every replay, whoever carries it out.
fn entry(worker: &Worker, claim: Claim, position: u32) -> Request {
    let run = claim.task.run;
    let text = format!("{}entry {position} of {run}.", marker(worker.tenant.0));
    match position {
        0 | 4 => {
            let result = Ok(Bytes::from(json!({ "text": text }).to_string()));
            Request::Run { name: format!("once outside {position}"), result, took_ms: 1 }
        }
        1 if run.0.is_multiple_of(2) => {
            let (name, units, window_ms) = TAKEN;
            let from = RateUse { name: name.to_owned(), units: 1, sets: Some((units, window_ms)) };
            Request::Take { from, until: None }
        }
        1 => Request::Sleep { duration_ms: 100 + (run.0 as u64 % 500) },
        2 => {
            let scope = Some(format!("order-{}", run.0 % 2));
            Request::WaitEvent { name: "paid".to_owned(), scope, timeout_ms: Some(700) }
        }
        3 => Request::Spawn {
            workflow: "job".to_owned(),
            key: Some(format!("key-{}", run.0 % 2)),
            input: Bytes::from(json!({ "text": text }).to_string()),
            priority: None,
            detached: false,
            on_parent_end: OnParentEnd::Cancel,
        },
        _ => Request::Emit {
            name: "scripted.over".to_owned(),
            scope: None,
            data: Bytes::from(json!({ "text": text }).to_string()),
        },
    }
}

/// Carries one hand-over out, from the top of the script.
pub async fn perform(
    worker: Worker,
    claim: Claim,
    mut hears: mpsc::UnboundedReceiver<(u32, Completion)>,
    mut chance: Chance,
) {
    let sim = worker.host.sim().clone();
    for position in 0..ENTRIES {
        let plan = sim.plan();
        sim.pause(&mut chance, 30).await;
        if chance.permille(plan.attempt_dies / 4) {
            // It is gone, and nobody says so but the timeout, or the worker that comes back without it.
            worker.let_go(claim);
            return;
        }
        if chance.permille(plan.attempt_late / 4) {
            sim.pause(&mut chance, 4_000).await;
        }
        if chance.permille(plan.lies) && !skip_ahead(&worker, claim, position, &mut chance).await {
            worker.let_go(claim);
            return;
        }
        match ask(&worker, claim, position, &mut hears, &mut chance).await {
            Asked::Done(completion) => {
                let digest = fingerprint([format!("{completion:?}").as_bytes()]);
                sim.lock().books.entry_told((claim.task.run.0, claim.task.index, position), digest);
            }
            Asked::Left => {
                sim.sometimes("a function outside left memory");
                worker.let_go(claim);
                return;
            }
            Asked::Stale => {
                worker.let_go(claim);
                return;
            }
        }
    }
    if chance.permille(sim.plan().attempt_fails / 2) {
        worker.report_failure(claim, &mut chance).await;
    } else {
        worker.report_output(claim, &mut chance).await;
    }
}

enum Asked {
    Done(Completion),
    /// It left memory, and comes back when there is something to come back for.
    Left,
    /// Its claim does not count any more.
    Stale,
}

async fn ask(
    worker: &Worker,
    claim: Claim,
    position: u32,
    hears: &mut mpsc::UnboundedReceiver<(u32, Completion)>,
    chance: &mut Chance,
) -> Asked {
    loop {
        let asking = Command::Journal { claim, position, before: Vec::new(), request: entry(worker, claim, position) };
        match worker.insist(claim, chance, asking).await {
            Some(Reply::EntryDone(completion)) => return Asked::Done(completion),
            Some(Reply::EntryPending { .. }) => {}
            Some(other) => {
                worker.host.sim().violated(format!("a journal entry was answered with {other:?}"));
                return Asked::Stale;
            }
            None => return Asked::Stale,
        }
        if chance.permille(300) {
            let leave = Command::Suspend { claim, waiting: vec![position] };
            match worker.insist(claim, chance, leave).await {
                Some(Reply::Suspended) => return Asked::Left,
                Some(_) => {}
                None => return Asked::Stale,
            }
        }
        let heard = async {
            while let Some((at, completion)) = hears.recv().await {
                if at == position {
                    return completion;
                }
            }
            std::future::pending().await
        };
        // What it was told may have been lost with a connection, so it asks again after a while.
        if let Ok(completion) = tokio::time::timeout(LISTEN, heard).await {
            return Asked::Done(completion);
        }
    }
}

/// Asks for an entry beyond the next one, which must be refused. False if the claim does not count any more.
async fn skip_ahead(worker: &Worker, claim: Claim, position: u32, chance: &mut Chance) -> bool {
    let asking = Command::Journal { claim, position: position + BEYOND, before: Vec::new(), request: Request::Peek };
    match call(&worker.host, chance, worker.tenant, asking).await {
        Answered::No(Refusal::JournalGap { .. }) => {
            worker.host.sim().sometimes("an entry out of order was refused");
            true
        }
        Answered::No(Refusal::StaleClaim { .. }) => false,
        Answered::Unknown => true,
        other => {
            worker.host.sim().violated(format!(
                "entry {} of {} was answered with {other:?}",
                position + BEYOND,
                claim.task
            ));
            false
        }
    }
}
