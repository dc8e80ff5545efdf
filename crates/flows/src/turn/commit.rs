//! The end of a turn: state, reply, deliveries, a handover, and what is remembered of the session, in one decision.

use bytes::Bytes;
use mainspring_client::{Commit, Committed, Failure, PutDocument};
use serde_json::{Value, json};

use super::{
    COMMITS_MAX, DECIDE_STEP, HANDOVERS_MAX, PRE_COMMIT, PROCESSING, SESSION_STEP, Turn, TurnOutput, WORKFLOW,
    read_record,
};
use crate::agent::AgentAnswer;
use crate::channel::{self, Segment};
use crate::decision::{self, Action, Decision};
use crate::deliver::{self, Delivery};
use crate::message::{MessageBody, MessageKind};
use crate::outside::Address;
use crate::publish::{MOVED_EVENT, Pin};
use crate::records::{self, SessionRecord};
use crate::session::SessionKey;
use crate::settings::AgentKind;
use crate::settings::millis;

/// Bytes of an event's data beyond which a reply is read from the turn instead.
const EVENT_BYTES_MAX: usize = 60_000;

/// How the end went.
pub(super) enum Ended {
    /// The turn is committed.
    Done(Box<TurnOutput>),
    /// A message came before, and what was decided about it begins the work anew.
    Decided(Decision),
    /// There is nothing to end with, and the agent is asked again, for this reason.
    AskAgain(&'static str),
}

impl Turn<'_> {
    /// Commits an answer. While the inbox is open, a message that came in the last instant is decided about first.
    pub(super) async fn end(
        &mut self,
        answer: AgentAnswer,
        state_version: u64,
        decisions: Vec<Decision>,
        open: bool,
    ) -> Result<Ended, Failure> {
        let mut force = !open;
        let mut decisions: Vec<_> = decisions.into_iter().map(|decision| (decision, PROCESSING)).collect();
        if let Some(wanted) = answer.yields.clone() {
            let decision = decision::enforced(wanted, self.facts());
            return match decision.action {
                // A message that waits keeps the inbox open, unless the agent itself passed the commit point: then
                // nothing is begun anew, whatever it says now.
                Action::Supersede | Action::Absorb if open && !self.ctx.close_inbox(false).await? => {
                    Ok(Ended::Decided(decision))
                }
                // It can't be begun anew any more, and there is no answer.
                _ => Ok(Ended::AskAgain("queued")),
            };
        }
        let mut handoff = self.checked_handoff(&answer).await?;
        for _ in 0..COMMITS_MAX {
            let commit = match self.commit_of(&answer, state_version, &decisions, handoff.as_ref(), force) {
                Ok(commit) => commit,
                Err(error) => return Err(self.fail(error).await),
            };
            let segments = commit.1;
            match self.ctx.commit(commit.0).await? {
                Committed::Done => {
                    let reply = AgentAnswer { state: None, hint: None, release_config: false, ..answer };
                    let reply_id = format!("{}:0", self.turn_id);
                    let output = TurnOutput { reply_id, reply, segments, note: None, config: self.config.clone() };
                    return Ok(Ended::Done(Box::new(output)));
                }
                Committed::MessageWaits => {
                    let decision = self.decide_before_commit().await?;
                    match decision.action {
                        Action::Supersede | Action::Absorb => return Ok(Ended::Decided(decision)),
                        Action::Queue | Action::ForceComplete => {
                            decisions.push((decision, PRE_COMMIT));
                            force = true;
                        }
                    }
                }
                Committed::Conflict(_) => {
                    let (key, client) = (self.key.clone(), self.ctx.client().clone());
                    let read = self.ctx.run(SESSION_STEP, || async {
                        let (version, record) = read_record(&client, &key).await?;
                        let state = records::state(&client, &key).await;
                        let state = state.map_err(|error| Failure::GivenUp(error.to_string()))?;
                        Ok((version, record, state.version))
                    });
                    let (version, record, state): (u64, SessionRecord, u64) = read.await?;
                    self.record_version = version;
                    self.record = record;
                    // It may as well be what is remembered of the other session that was changed.
                    handoff = self.checked_handoff(&answer).await?;
                    if answer.state.is_some() && state != state_version {
                        // Somebody else changed it meanwhile: the agent has to see it.
                        return Ok(Ended::AskAgain("state_conflict"));
                    }
                }
            }
        }
        Ok(Ended::AskAgain("state_conflict"))
    }

    /// What becomes of messages that came when the agent had answered and nothing was committed.
    async fn decide_before_commit(&self) -> Result<Decision, Failure> {
        let chosen = match decision::of_policy(self.policy) {
            Some(decision) => decision,
            None => {
                self.ctx
                    .run(DECIDE_STEP, || async {
                        let request = self.decide_request(1, PRE_COMMIT);
                        let decided = match &self.settings.kind {
                            AgentKind::Http { url } => {
                                let address = Address { url, secret: self.settings.secret.as_ref() };
                                self.outside.decide(address, &request).await.map_err(|error| error.to_string())
                            }
                            // Its run has ended; the answer is worth more than another question.
                            AgentKind::Workflow { .. } => Ok(Decision::new(Action::Queue, "the agent has answered")),
                        };
                        let queue = |error| Decision::new(Action::Queue, &format!("the agent did not say ({error})"));
                        Ok(decided.unwrap_or_else(queue))
                    })
                    .await?
            }
        };
        Ok(decision::enforced(chosen, self.facts()))
    }

    /// A handover, if there is one: that can be carried out, with what is remembered of the session it goes to; or why it can't.
    async fn checked_handoff(&self, answer: &AgentAnswer) -> Result<Option<Result<Target, String>>, Failure> {
        let Some(handoff) = &answer.handoff else { return Ok(None) };
        let target =
            SessionKey::new(self.session.tenant, &handoff.agent, &self.session.interlocutor, &self.session.channel);
        let target = match target {
            Ok(target) if target.agent == self.session.agent => {
                return Ok(Some(Err("it is this very agent".to_owned())));
            }
            Ok(target) => target,
            Err(bad) => return Ok(Some(Err(bad.to_string()))),
        };
        if self.handovers >= HANDOVERS_MAX {
            return Ok(Some(Err(format!("it was handed over {HANDOVERS_MAX} times in a row"))));
        }
        if self.agents.get(target.tenant, &target.agent).is_none() {
            return Ok(Some(Err(format!("no agent {:?} is configured", handoff.agent))));
        }
        let key = target.to_string();
        let (version, record): (u64, SessionRecord) =
            self.ctx.run(SESSION_STEP, || read_record(self.ctx.client(), &key)).await?;
        Ok(Some(Ok(Target { key, version, record })))
    }

    /// Everything that goes with this answer, and how many segments the reply has.
    fn commit_of(
        &self,
        answer: &AgentAnswer,
        state_version: u64,
        decisions: &[(Decision, &str)],
        handoff: Option<&Result<Target, String>>,
        force: bool,
    ) -> Result<(Commit, u32), String> {
        let mut commit = Commit { force, ..Commit::default() };
        let state_ttl_ms = millis(self.settings.state_ttl);
        let mut record = self.next_record(answer);
        for (decision, point) in decisions {
            tell(&mut commit, "supersede.decision", &self.told(decision, point));
        }
        if let Some(config) = &self.config
            && let Some(moved) = &config.moved
        {
            let told = json!({
                "turn_id": self.turn_id, "agent": self.session.agent, "from_version": moved.version,
                "version": config.version, "epoch": config.epoch, "reason": moved.reason,
            });
            tell(&mut commit, MOVED_EVENT, &told);
        }
        match handoff {
            Some(Ok(target)) => {
                let Some(handoff) = &answer.handoff else { return Err("a handover without one".to_owned()) };
                record.handed_to = Some(handoff.agent.clone());
                let theirs = SessionRecord { handed_to: None, ..target.record.clone() };
                commit.documents.push(PutDocument {
                    key: records::of_session(records::SESSION, &target.key),
                    expect: Some(target.version),
                    body: json_of(&theirs)?,
                    ttl_ms: Some(state_ttl_ms),
                    history: 0,
                });
                let body = MessageBody {
                    text: handoff.context.clone(),
                    data: Some(
                        json!({ "from_agent": self.session.agent, "reason": handoff.reason, "turn_id": self.turn_id }),
                    ),
                    kind: MessageKind::Handoff,
                    handovers: self.handovers + 1,
                    ..MessageBody::default()
                };
                commit.messages.push((WORKFLOW.to_owned(), target.key.clone(), json_of(&body)?));
                tell(&mut commit, "session.handed_over", &json!({ "turn_id": self.turn_id, "agent": handoff.agent }));
            }
            Some(Err(why)) => {
                let agent = answer.handoff.as_ref().map(|handoff| &handoff.agent);
                let told = json!({ "turn_id": self.turn_id, "agent": agent, "reason": why });
                tell(&mut commit, "session.handover_refused", &told);
            }
            None => {}
        }
        commit.documents.push(PutDocument {
            key: records::of_session(records::SESSION, &self.key),
            expect: Some(self.record_version),
            body: json_of(&record)?,
            ttl_ms: Some(state_ttl_ms),
            history: 0,
        });
        if let Some(state) = &answer.state {
            commit.documents.push(PutDocument {
                key: records::of_session(records::STATE, &self.key),
                expect: Some(state_version),
                body: json_of(state)?,
                ttl_ms: Some(state_ttl_ms),
                history: records::STATES_KEPT,
            });
            let told = json!({ "turn_id": self.turn_id, "version": state_version + 1 });
            tell(&mut commit, "session.state_changed", &told);
        }
        let segments = self.add_reply(&mut commit, answer, "")?;
        Ok((commit, segments))
    }

    /// What is said to the person when the turn fails.
    pub(super) fn failure_commit(&self, text: &str) -> Result<Commit, String> {
        let mut commit = Commit { force: true, ..Commit::default() };
        self.add_reply(&mut commit, &AgentAnswer::text(text), "failed-")?;
        Ok(commit)
    }

    /// Adds the reply: its event, and a delivery for each segment.
    fn add_reply(&self, commit: &mut Commit, answer: &AgentAnswer, mark: &str) -> Result<u32, String> {
        let mut capability = self.settings.capability_of(&self.session.channel);
        if self.settings.deliver_url.is_none() {
            // Whoever reads the event stream has no limits of a channel.
            capability.chars_max = None;
        }
        let segments =
            channel::segments(&capability, &answer.text, &answer.media).map_err(|error| error.to_string())?;
        let count = segments.len() as u32;
        let reply_id = format!("{}:{mark}0", self.turn_id);
        if let Some(url) = &self.settings.deliver_url {
            for (place, Segment { text, media }) in segments.into_iter().enumerate() {
                let delivery = Delivery {
                    url: url.clone(),
                    reply_id: format!("{}:{mark}{place}", self.turn_id),
                    turn_id: self.turn_id.clone(),
                    session: self.key.clone(),
                    segment: place as u32,
                    segments: count,
                    text: text.unwrap_or_default(),
                    media,
                    data: answer.data.clone().filter(|_| place == 0),
                    delay_ms: capability.natural_delay_ms,
                    attempts_more: self.settings.deliver_attempts_more,
                };
                commit.runs.push((deliver::WORKFLOW.to_owned(), Some(self.key.clone()), json_of(&delivery)?));
            }
        }
        let sent = json!({ "reply_id": reply_id, "text": answer.text, "data": answer.data, "media": answer.media, "segments": count });
        // An event's data is small by nature; a long reply is read from the turn.
        let sent = if sent.to_string().len() <= EVENT_BYTES_MAX {
            sent
        } else {
            json!({ "reply_id": reply_id, "segments": count })
        };
        tell(commit, "reply.sent", &sent);
        Ok(count)
    }

    /// What is remembered of the session from now on.
    fn next_record(&self, answer: &AgentAnswer) -> SessionRecord {
        let mut record = SessionRecord { hint: answer.hint.clone(), handed_to: None, ..self.record.clone() };
        let mut before = None;
        for message in self.messages.iter().filter(|message| message.kind.is_person()) {
            if let Some(before) = before {
                record.cadence.add(message.accepted_at.saturating_sub(before));
            }
            before = Some(message.accepted_at);
            record.last_heard_at = record.last_heard_at.max(message.accepted_at);
        }
        record.config_released = answer.release_config;
        record.config = self.config.as_ref().map(|config| Pin { version: config.version, epoch: config.epoch });
        record.turns += 1;
        record.last_turn = Some(self.turn_id.clone());
        record
    }
}

/// The session of another agent, as it is remembered.
pub(super) struct Target {
    key: String,
    version: u64,
    record: SessionRecord,
}

fn tell(commit: &mut Commit, name: &str, data: &Value) {
    commit.events.push((name.to_owned(), Bytes::from(data.to_string())));
}

fn json_of(value: &impl serde::Serialize) -> Result<Bytes, String> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| error.to_string())
}
