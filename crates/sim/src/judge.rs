//! Whoever gives verdicts on tasks: the same one for the same run, but late, twice, and something else afterwards.

use std::sync::Arc;

use bytes::Bytes;
use mainspring_client::{TaskId, TenantId};
use mainspring_core::Command;
use mainspring_core::judge::Verdict;
use mainspring_core::rate::RateUse;
use serde_json::json;

use crate::books::marker;
use crate::chance::Chance;
use crate::host::Host;
use crate::link::{Answered, call};
use crate::pump::Process;

/// What all judged tasks of a tenant may take in a window, as their verdicts say: units and milliseconds.
pub const BROUGHT: (u32, u64) = (2, 500);

/// Answers the questions of one process until it ends.
pub async fn run(host: Host, process: Arc<Process>) {
    let Some(mut questions) = process.engine.hub().judge() else { return };
    let mut chance = host.sim().fork();
    loop {
        tokio::select! {
            biased;
            () = process.ended.wait() => return,
            asked = questions.recv() => {
                let Some((tenant, task)) = asked else { return };
                tokio::spawn(answer(host.clone(), tenant, task, chance.fork()));
            }
        }
    }
}

/// The verdict on a task, which depends on nothing but its run.
fn verdict(tenant: TenantId, task: TaskId) -> Verdict {
    match (task.run.0 >> 17) % 8 {
        0 => Verdict::Skip,
        1 => Verdict::Cancel { reason: "simulated: it must not run".to_owned() },
        2 => Verdict::Fail { error: "simulated: it can't be told".to_owned() },
        _ => {
            let brought = RateUse { name: "brought".to_owned(), units: 1, sets: Some(BROUGHT) };
            let grounds = json!({ "text": format!("{}grounds of {task}.", marker(tenant.0)) }).to_string();
            Verdict::Run { rates: vec![brought], grounds: Some(Bytes::from(grounds)) }
        }
    }
}

async fn answer(host: Host, tenant: TenantId, task: TaskId, mut chance: Chance) {
    let sim = host.sim();
    let late = chance.permille(sim.plan().attempt_late);
    sim.pause(&mut chance, if late { 3_000 } else { 100 }).await;
    if late {
        sim.sometimes("a verdict came late");
    }
    let verdict = verdict(tenant, task);
    let runs = matches!(verdict, Verdict::Run { .. });
    sim.lock().books.verdict_given((task.run.0, task.index), runs);
    loop {
        let given = Command::Judge { task, verdict: verdict.clone() };
        match call(&host, &mut chance, tenant, given).await {
            Answered::Yes(_) => break,
            Answered::No(refusal) => return sim.violated(format!("a verdict was refused with {}", refusal.code())),
            Answered::Unknown if sim.has_failed() => return,
            Answered::Unknown => sim.pause(&mut chance, 200).await,
        }
    }
    if runs && chance.permille(sim.plan().lies) {
        // It thinks better of it, too late.
        sim.pause(&mut chance, 100).await;
        let _ = call(&host, &mut chance, tenant, Command::Judge { task, verdict: Verdict::Skip }).await;
    }
}
