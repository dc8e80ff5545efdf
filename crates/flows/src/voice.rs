//! A voice in a session: what an agent does and says while it works, for whoever follows the session now.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mainspring_client::{Client, ClientError, EngineError, Fence};

use crate::turn::OpenWindow;

/// Speaks to whoever follows a session now: what the agent is doing, and its answer as it grows. Nothing of it is
/// recorded; the reply is, once it is whole. What *is* recorded is that something was said at all: a turn whose answer
/// the person has begun to read is not begun anew.
#[derive(Debug)]
pub struct Voice {
    client: Client,
    session: String,
    turn_id: String,
    /// The attempt whose first words pass the commit point.
    commits: Option<Fence>,
    spoke: AtomicBool,
}

impl Voice {
    /// A voice in a session's turn.
    pub fn new(client: Client, session: &str, turn_id: &str) -> Self {
        let (session, turn_id) = (session.to_owned(), turn_id.to_owned());
        Voice { client, session, turn_id, commits: None, spoke: AtomicBool::new(false) }
    }

    /// The same, which passes the commit point of an attempt before it says the first words of an answer.
    #[must_use]
    pub fn committing(mut self, fence: Fence) -> Self {
        self.commits = Some(fence);
        self
    }

    /// Says what the agent is doing.
    pub fn status(&self, text: &str) {
        self.say("agent.status", text);
    }

    /// Says how long is waited for one more message. Only a wait that lasts is worth a word: a turn that is gone through
    /// again from its journal has waited already.
    pub fn window(&self, open: &OpenWindow) {
        if open.until > self.client.engine().world().now_ms()
            && let Ok(data) = serde_json::to_vec(open)
        {
            self.tell("turn.window", data.into());
        }
    }

    /// Adds to the answer.
    ///
    /// # Errors
    /// Why nothing may be said any more: the attempt is over.
    pub async fn delta(&self, text: &str) -> Result<(), String> {
        if let Some(fence) = self.commits
            && !self.spoke.load(Ordering::Acquire)
        {
            match self.client.pass_commit_point(fence).await {
                // Only now: words after a first one that was refused, or not heard, are first words too.
                Ok(_) => self.spoke.store(true, Ordering::Release),
                Err(ClientError::Engine(EngineError::Refused(refusal))) => return Err(refusal.to_string()),
                Err(error) => return Err(error.to_string()),
            }
        }
        self.say("reply.delta", text);
        Ok(())
    }

    fn say(&self, name: &str, text: &str) {
        self.tell(name, serde_json::json!({ "text": text }).to_string().into());
    }

    fn tell(&self, name: &str, data: Bytes) {
        self.client.whisper(name, &self.session, self.turn_id.parse().ok(), data);
    }
}
