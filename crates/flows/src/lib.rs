//! What Mainspring is for, written on itself: the turn of a conversation, the delivery of its reply, and the follow-up
//! that begins a turn when nobody speaks.
//!
//! These are ordinary durable functions on `client`; they use no private door. Anybody could have written them.
//!
//! What this crate does not know: how requests come in, how tokens of people work, how pages look.

pub mod agent;
pub mod attempt;
pub mod calls;
pub mod channel;
pub mod decision;
pub mod deliver;
pub mod egress;
pub mod follow_up;
pub mod incoming;
pub mod message;
pub mod outside;
pub mod publish;
pub mod receipts;
pub mod records;
pub mod seal;
pub mod session;
pub mod settings;
pub mod sign;
pub mod token;
pub mod tools;
pub mod turn;
pub mod voice;
pub mod webhooks;
pub mod window;

pub use agent::{AgentAnswer, AgentCall, AgentRequest, Agents};
pub use calls::{Calls, Grant};
pub use decision::{Action, Decision, OnMessage};
pub use follow_up::FollowUp;
pub use message::{MessageBody, MessageKind, TurnMessage};
pub use outside::{Outside, Web};
pub use session::{BadSessionKey, SessionKey};
pub use settings::{AgentKind, AgentSettings, ChannelSettings, Protection, Secret};
pub use token::TurnTokens;
pub use turn::{TurnDoor, TurnOutput, Window, WindowEnd};
pub use voice::Voice;

use std::sync::Arc;

use mainspring_client::{Client, Worker};

/// Adds the turn flow, its delivery, tools and follow-ups to a worker.
#[must_use]
pub fn offer(worker: Worker, client: &Client, agents: &Agents, outside: Arc<dyn Outside>, door: TurnDoor) -> Worker {
    let worker = match door.tools.clone() {
        Some(kit) => tools::offer(worker, kit, agents.clone()),
        None => worker,
    };
    let worker = turn::offer(worker, client.tenant(), agents.clone(), outside.clone(), door);
    follow_up::offer(deliver::offer(worker, agents, outside))
}
