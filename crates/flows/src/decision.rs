//! What becomes of a message that comes while the agent works. The agent or a policy chooses; the facts decide what of it
//! is possible.

use serde::{Deserialize, Serialize};

/// What an agent's configuration says about messages that come while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMessage {
    /// They wait for the next turn.
    #[default]
    Queue,
    /// The agent's work is stopped, and the next turn has all messages.
    Supersede,
    /// The agent's work is stopped, and it begins anew in the same turn with all messages.
    Absorb,
    /// The agent is asked.
    Ask,
}

/// What can become of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Stop, and start a new turn with all messages.
    Supersede,
    /// Stop, and start anew within this turn.
    Absorb,
    /// Go on; they belong to the next turn.
    Queue,
    /// Go on, because it is nearly done; they belong to the next turn.
    ForceComplete,
}

/// A choice, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The choice.
    pub action: Action,
    /// Why, for whoever looks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The phase from which to go on when the agent begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_from: Option<String>,
}

impl Decision {
    /// A choice with its reason.
    pub fn new(action: Action, reason: &str) -> Self {
        Decision { action, reason: reason.to_owned(), restart_from: None }
    }
}

/// How a turn stands when a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Something was done that can't be taken back, or said to the person already.
    pub committed: bool,
    /// How often the chain was begun anew.
    pub restarts: u32,
    /// Whether this turn was begun anew within itself. It stays in itself then: what a successor is told of its chain is
    /// only how many turns were superseded.
    pub absorbed: bool,
    /// How often it may be.
    pub restarts_max: u32,
}

/// What may be chosen under these facts.
pub fn allowed(facts: Facts) -> &'static [Action] {
    if facts.committed || facts.restarts >= facts.restarts_max {
        &[Action::Queue, Action::ForceComplete]
    } else if facts.absorbed {
        &[Action::Absorb, Action::Queue, Action::ForceComplete]
    } else {
        &[Action::Supersede, Action::Absorb, Action::Queue, Action::ForceComplete]
    }
}

/// What a policy chooses by itself. `None`: the agent is asked.
pub fn of_policy(policy: OnMessage) -> Option<Decision> {
    let (action, reason) = match policy {
        OnMessage::Queue => (Action::Queue, "policy: queue"),
        OnMessage::Supersede => (Action::Supersede, "policy: supersede"),
        OnMessage::Absorb => (Action::Absorb, "policy: absorb"),
        OnMessage::Ask => return None,
    };
    Some(Decision::new(action, reason))
}

/// What becomes of a message that comes when nothing can be chosen any more.
pub fn past_the_commit_point() -> Decision {
    Decision::new(Action::Queue, "past the commit point: what was done or said can't be taken back")
}

/// The choice as far as the facts allow it: where a turn can't be begun anew any more, the message is queued, whatever
/// was chosen.
pub fn enforced(chosen: Decision, facts: Facts) -> Decision {
    match chosen.action {
        Action::Queue | Action::ForceComplete => chosen,
        Action::Supersede | Action::Absorb if facts.committed => past_the_commit_point(),
        Action::Supersede | Action::Absorb if facts.restarts >= facts.restarts_max => {
            let reason = format!("begun anew {} times: this attempt is completed", facts.restarts);
            Decision::new(Action::ForceComplete, &reason)
        }
        Action::Supersede if facts.absorbed => Decision { action: Action::Absorb, ..chosen },
        Action::Supersede | Action::Absorb => chosen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_back_is_not_begun_anew() {
        for action in [Action::Supersede, Action::Absorb, Action::Queue, Action::ForceComplete] {
            for committed in [false, true] {
                for restarts in 0..5 {
                    let facts = Facts { committed, restarts, absorbed: false, restarts_max: 3 };
                    let decision = enforced(Decision::new(action, "asked"), facts);
                    assert!(allowed(facts).contains(&decision.action), "{action:?} under {facts:?}: {decision:?}");
                    let within = Facts { absorbed: true, ..facts };
                    let decision_within = enforced(Decision::new(action, "asked"), within);
                    assert!(allowed(within).contains(&decision_within.action), "{action:?} under {within:?}");
                    if !committed && restarts < 3 {
                        assert_eq!(decision, Decision::new(action, "asked"));
                    }
                }
            }
        }
    }
}
