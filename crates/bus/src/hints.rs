//! Hints over Redis' publish and subscribe: that a message interrupts, and what came of it. They may be lost; what they
//! are about is in the session's inbox and in its events.

use serde_json::{Value, json};

use crate::link::Redis;

/// Gives hints, or none if there is no Redis.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    redis: Option<Redis>,
}

impl Hints {
    /// Hints over this Redis.
    pub fn over(redis: Redis) -> Self {
        Hints { redis: Some(redis) }
    }

    /// That a message of a session should interrupt what goes on: `interrupt:{tenant}:{session}`.
    pub async fn interrupt(&self, tenant: &str, session: &str, message_id: &str, turn_id: &str) {
        let session = within_tenant(session);
        let said = json!({ "session": session, "message_id": message_id, "turn_id": turn_id });
        self.publish(format!("interrupt:{tenant}:{session}"), &said).await;
    }

    /// What became of messages that came while the agent worked: `interrupt_ack:{tenant}:{session}`. The action is
    /// `superseded`, `absorbed`, `queued` or `force_complete`.
    pub async fn interrupted(&self, tenant: &str, session: &str, decision: &Value) {
        let session = within_tenant(session);
        let action = match decision["action"].as_str() {
            Some("supersede") => "superseded",
            Some("absorb") => "absorbed",
            Some("force_complete") => "force_complete",
            _ => "queued",
        };
        let said = json!({
            "session": session, "action": action, "turn_id": decision["turn_id"], "reason": decision["reason"],
        });
        self.publish(format!("interrupt_ack:{tenant}:{session}"), &said).await;
    }

    async fn publish(&self, channel: String, said: &Value) {
        let Some(redis) = &self.redis else { return };
        let mut cmd = redis::cmd("PUBLISH");
        cmd.arg(channel).arg(said.to_string());
        if let Err(trouble) = redis.ask::<u64>(cmd).await {
            tracing::debug!(%trouble, "a hint is lost");
        }
    }
}

/// A session's key without the tenant, which channels name in front.
fn within_tenant(session: &str) -> &str {
    session.split_once(':').map_or(session, |(_, rest)| rest)
}
