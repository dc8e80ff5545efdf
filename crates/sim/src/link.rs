//! The network between a client or worker and the process that is up: late, lost, repeated; and no answer means that one
//! does not know.

use std::time::Duration;

use mainspring_client::TenantId;
use mainspring_core::{Command, Refusal, Reply};
use mainspring_engine::EngineError;

use crate::chance::Chance;
use crate::host::Host;

/// How long somebody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of a request.
#[derive(Debug)]
pub enum Answered {
    /// It was carried out.
    Yes(Reply),
    /// It was refused.
    No(Refusal),
    /// It may have been carried out or not.
    Unknown,
}

/// Sends a command once, or twice if the network does, and waits for an answer for a while.
pub async fn call(host: &Host, chance: &mut Chance, tenant: TenantId, command: Command) -> Answered {
    let sim = host.sim();
    sim.pause(chance, sim.plan().net_ms).await;
    if chance.permille(sim.plan().request_lost) {
        return Answered::Unknown;
    }
    let Some(process) = host.current() else { return Answered::Unknown };
    if chance.permille(sim.plan().request_repeated) {
        sim.sometimes("a request arrived twice");
        let (host, again, mut chance) = (host.clone(), command.clone(), chance.fork());
        tokio::spawn(async move {
            let sim = host.sim();
            sim.pause(&mut chance, 20 * (sim.plan().net_ms + 1)).await;
            if let Some(process) = host.current() {
                let _ = process.engine.submit(tenant, again).await;
            }
        });
    }
    let answer = tokio::time::timeout(PATIENCE, process.engine.submit(tenant, command)).await;
    sim.pause(chance, sim.plan().net_ms).await;
    if chance.permille(sim.plan().answer_lost) {
        sim.sometimes("an answer was lost");
        return Answered::Unknown;
    }
    match answer {
        Ok(Ok((reply, position))) => {
            let partition = process.engine.partition_number(tenant);
            let durable = sim.lock().witnesses[usize::from(partition)].position();
            if position > durable {
                sim.violated(format!("an answer spoke of position {position}, the log stands at {durable}"));
            }
            Answered::Yes(reply)
        }
        Ok(Err(EngineError::Refused(refusal))) => Answered::No(refusal),
        Ok(Err(
            EngineError::Busy { .. }
            | EngineError::Stopped { .. }
            | EngineError::ShuttingDown
            | EngineError::Missing { .. }
            | EngineError::Unreadable { .. },
        ))
        | Err(_) => Answered::Unknown,
    }
}
