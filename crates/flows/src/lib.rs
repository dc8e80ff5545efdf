//! What Mainspring is for, written on itself: the turn of a conversation, and the delivery of its reply.
//!
//! These are ordinary durable functions on `client`; they use no private door. Anybody could have written them.
//!
//! What this crate does not know: how requests come in, how tokens work, how pages look.

pub mod agent;
pub mod deliver;
pub mod outside;
pub mod session;
pub mod turn;

pub use agent::{AgentAnswer, AgentKind, AgentRequest, AgentSettings, Agents, OnMessage, TurnMessage, Voice};
pub use outside::Outside;
pub use session::{BadSessionKey, SessionKey};
pub use turn::{TurnOutput, Window, WindowEnd};

use std::sync::Arc;

use mainspring_client::{Client, Worker};

/// Adds the turn flow and its delivery to a worker.
#[must_use]
pub fn offer(worker: Worker, client: &Client, agents: &Agents, outside: Arc<dyn Outside>) -> Worker {
    let worker = turn::offer(worker, client.tenant(), agents.clone(), outside.clone());
    deliver::offer(worker, outside)
}
