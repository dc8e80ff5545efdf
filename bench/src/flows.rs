//! The flows as they are, for an agent in the same process that gives each session's messages to a durable function.

use std::sync::Arc;

use mainspring_client::{Client, TenantId, Worker};
use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentKind, AgentSettings, Agents, TurnDoor, TurnTokens, Web};

/// Has a worker carry out the turns of the agent of this name, which is a function of the same name. It is not offered here.
///
/// # Errors
/// When what calls the world outside can't be made. Nothing is called.
pub fn offer(
    worker: Worker,
    client: &Client,
    tenant: TenantId,
    agent: &str,
    window: WindowRules,
) -> anyhow::Result<Worker> {
    let settings = AgentSettings { window, ..AgentSettings::new(AgentKind::Workflow { name: agent.to_owned() }) };
    let agents = Agents::new([(tenant, agent.to_owned(), settings)]);
    let door = TurnDoor { tokens: TurnTokens::new([1; 32]), calls_url: String::new(), tools: None };
    let outside = Arc::new(Web::new(Vec::new()).map_err(anyhow::Error::msg)?);
    Ok(mainspring_flows::offer(worker, client, &agents, outside, door))
}
