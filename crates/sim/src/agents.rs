//! Agents: what they do in a turn beside answering. They live outside the process, so they work on when it has ended or
//! has taken their right to act from them, ask whichever process is up, and ask again when they heard nothing.

use std::future::Future;
use std::time::Duration;

use mainspring_client::{Client, ClientError, EngineError, Refusal, RetryPolicy, RunId};
use mainspring_flows::agent::AgentError;
use mainspring_flows::calls::{
    Artifact, BeginEffect, CallError, EffectPolicy, EffectStatus, EffectVerdict, EndEffect, Reuse,
};
use mainspring_flows::channel::CapabilityChanges;
use mainspring_flows::window::{WindowMode, WindowRules};
use mainspring_flows::{
    Action, AgentAnswer, AgentKind, AgentRequest, AgentSettings, Calls, ChannelSettings, Decision, Grant, OnMessage,
    Protection,
};
use serde_json::{Value, json};

use crate::books::{Asked, marker};
use crate::chance::Chance;
use crate::host::Host;

/// Agents of every tenant: their name, whether they are asked outside or are functions, and what a message does that
/// comes while they work.
pub const AGENTS: [(&str, bool, OnMessage); 8] = [
    ("asked-queue", true, OnMessage::Queue),
    ("function-supersede", false, OnMessage::Supersede),
    ("asked-absorb", true, OnMessage::Absorb),
    ("function-ask", false, OnMessage::Ask),
    ("asked-supersede", true, OnMessage::Supersede),
    ("function-queue", false, OnMessage::Queue),
    ("asked-ask", true, OnMessage::Ask),
    ("function-absorb", false, OnMessage::Absorb),
];

/// The channel its sessions use. Some cut a reply into segments, some wait as long as a person's pace suggests.
pub fn channel_of(nth: usize) -> &'static str {
    ["chat", "sms", "web"][nth % 3]
}

/// How an agent is set up.
pub fn settings(nth: usize) -> AgentSettings {
    let (_, asked, on_message) = AGENTS[nth];
    let kind = if asked {
        AgentKind::Http { url: "http://agent".to_owned() }
    } else {
        AgentKind::Workflow { name: "agent-function".to_owned() }
    };
    let short = CapabilityChanges { chars_max: Some(30), natural_delay_ms: Some(20), ..CapabilityChanges::default() };
    let channel = ChannelSettings {
        window: (channel_of(nth) == "web").then_some(WindowRules {
            mode: WindowMode::Adaptive,
            base_ms: Some(150),
            quiet_min_ms: 20,
            quiet_max_ms: 400,
            max_wait_ms: 900,
            messages_max: 6,
        }),
        on_message: None,
        capability: if channel_of(nth) == "chat" { CapabilityChanges::default() } else { short },
    };
    let protection = match nth % 4 {
        0 => Protection { session_messages_waiting: 3, ..Protection::default() },
        1 => Protection { agent_turns: 1, session_messages_per_minute: 0, ..Protection::default() },
        2 => Protection { session_messages_per_minute: 6, ..Protection::default() },
        _ => Protection { session_messages_per_minute: 0, ..Protection::default() },
    };
    AgentSettings {
        on_message,
        window: WindowRules { max_wait_ms: 700, messages_max: 4, ..WindowRules::fixed(150) },
        channels: [(channel_of(nth).to_owned(), channel)].into(),
        protection,
        timeout: Duration::from_secs(2),
        retry: RetryPolicy {
            attempts_max: 4,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_millis(400),
        },
        restarts_max: nth as u32 % 4,
        grace: Duration::from_millis(if nth.is_multiple_of(3) { 100 } else { 0 }),
        failure_reply: nth.is_multiple_of(2).then(|| "this did not work".to_owned()),
        deliver_url: Some("http://channel".to_owned()),
        ..AgentSettings::new(kind)
    }
}

/// Tools and what happens when they are used twice.
const TOOLS: [(&str, EffectPolicy, &str); 4] = [
    ("read", EffectPolicy::Pure, "pure"),
    ("note", EffectPolicy::Idempotent, "idempotent"),
    ("book", EffectPolicy::Compensatable, "compensatable"),
    ("refund", EffectPolicy::Irreversible, "irreversible"),
];

/// Times a request is made that nobody answers.
const ASKED_MAX: u32 = 20;
/// How long an agent waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why an agent stops.
enum Stop {
    /// Its attempt is over.
    Over,
    /// A message waits that changes what should be done.
    Waits,
    /// It does not know whether what it asked was done.
    Unheard,
    /// It was told no.
    No(String),
}

impl From<Stop> for AgentError {
    fn from(stop: Stop) -> AgentError {
        AgentError::Retryable(match stop {
            Stop::Over => "simulated: I was stopped".to_owned(),
            Stop::Waits => "simulated: a message waits".to_owned(),
            Stop::Unheard => "simulated: nobody answers me".to_owned(),
            Stop::No(why) => format!("simulated: I was refused ({why})"),
        })
    }
}

/// One agent at work on one attempt.
struct AtWork {
    host: Host,
    grant: Grant,
    chance: Chance,
    /// What it knows: that messages wait, and that nothing can be begun anew.
    pending: bool,
    committed: bool,
    /// Tools it used, and for what.
    used: Vec<(&'static str, String)>,
}

/// Does what an agent does in an attempt, tells the books, and answers.
///
/// # Errors
/// The agent was stopped, or does not answer this time.
pub async fn work(host: Host, request: AgentRequest, mut chance: Chance) -> Result<AgentAnswer, AgentError> {
    let Some(grant) = Grant::of_token(&request.token) else {
        host.sim().violated(format!("an agent was asked without a token: {request:?}"));
        return Err(AgentError::Final("no token".to_owned()));
    };
    note_asked(&host, &request);
    let steps = chance.below(host.sim().plan().calls + 1);
    let ms_max = if host.sim().plan().hour { 1_500 } else { 400 } / (steps + 1);
    let mut agent = AtWork { host: host.clone(), grant, chance, pending: false, committed: false, used: Vec::new() };
    for _ in 0..steps {
        host.sim().pause(&mut agent.chance, ms_max).await;
        agent.step().await?;
    }
    host.sim().pause(&mut agent.chance, ms_max).await;
    agent.answer(&request)
}

fn note_asked(host: &Host, request: &AgentRequest) {
    let Ok(turn) = request.turn_id.parse::<RunId>() else {
        host.sim().violated(format!("an agent was asked in turn {:?}", request.turn_id));
        return;
    };
    host.sim().trace(format_args!("agent asked in turn {} with {} messages", request.turn_id, request.messages.len()));
    if let Some(restart) = &request.restart {
        match restart.reason.as_str() {
            "absorbed" => host.sim().sometimes("an agent began anew after messages were absorbed"),
            "state_conflict" => host.sim().sometimes("an agent began anew because its session's state was changed"),
            _ => {}
        }
    }
    let asked = Asked {
        tenant: mainspring_flows::SessionKey::parse(&request.session).map_or(0, |session| session.tenant.0),
        session: request.session.clone(),
        turn: turn.0,
        group: request.turn_group_id.clone(),
        texts: request.messages.iter().map(|message| message.text.clone()).collect(),
        version: request.state.version,
        state: request.state.data.clone(),
    };
    host.sim().lock().books.agent_asked(asked);
}

impl AtWork {
    fn turn(&self) -> u128 {
        self.grant.turn.0
    }

    /// Asks whichever process is up, again and again while nobody answers.
    async fn ask<T, F: Future<Output = Result<T, CallError>>>(
        &mut self,
        what: &'static str,
        ask: impl Fn(Calls) -> F,
    ) -> Result<T, Stop> {
        for _ in 0..ASKED_MAX {
            let sim = self.host.sim().clone();
            sim.pause(&mut self.chance, sim.plan().net_ms).await;
            if let Some(process) = self.host.current() {
                let calls = Calls::new(Client::new(process.engine.clone(), self.grant.tenant), self.grant.clone());
                let fell = sim.lock().books.fence_fell(self.turn(), self.grant.position);
                let answer = tokio::select! {
                    biased;
                    () = process.ended.wait() => None,
                    answer = tokio::time::timeout(PATIENCE, ask(calls)) => answer.ok(),
                };
                sim.pause(&mut self.chance, sim.plan().net_ms).await;
                let lost = self.chance.permille(sim.plan().answer_lost);
                match answer {
                    Some(Ok(answer)) => {
                        let is_up = self.host.current().is_some_and(|up| up.number == process.number);
                        // A process that was put aside and does not know it may still say what it knew.
                        if fell && what != "end_effect" && is_up {
                            let (turn, position) = (self.turn(), self.grant.position);
                            sim.violated(format!("{what} was heard for turn {turn:x} at {position}, which is over"));
                        }
                        if !lost {
                            return Ok(answer);
                        }
                    }
                    Some(Err(CallError::Client(ClientError::Engine(EngineError::Refused(refusal))))) if !lost => {
                        return Err(match refusal {
                            Refusal::StaleFence { .. } => {
                                sim.sometimes("an agent that was given up was refused");
                                Stop::Over
                            }
                            Refusal::MessageWaits { .. } => {
                                sim.sometimes("an effect was not begun because a message waits");
                                Stop::Waits
                            }
                            other => Stop::No(other.to_string()),
                        });
                    }
                    Some(Err(CallError::Unusable(why))) if !lost => return Err(Stop::No(why)),
                    Some(Err(_)) | None => {}
                }
            }
            sim.pause(&mut self.chance, 200).await;
        }
        Err(Stop::Unheard)
    }

    async fn step(&mut self) -> Result<(), Stop> {
        match self.chance.below(10) {
            0 => self.stand().await,
            1 => self.keep_or_reuse().await,
            2 => {
                let data = json!({ "text": marker(self.grant.tenant.0) });
                self.ask("event", |calls| {
                    let data = data.clone();
                    async move { calls.event("agent.noted", &data).await }
                })
                .await?;
                Ok(())
            }
            3 if self.chance.permille(400) => {
                self.ask("commit_point", |calls| async move { calls.commit_point().await }).await?;
                self.commits("its agent declared it");
                Ok(())
            }
            4 if self.chance.permille(400) => self.speak().await,
            3..=5 => self.stand().await,
            _ => self.use_tool().await,
        }
    }

    async fn stand(&mut self) -> Result<(), Stop> {
        let standing = self.ask("standing", |calls| async move { calls.standing().await }).await?;
        if self.pending && !standing.has_pending && !standing.committed {
            // What waits is taken by nobody while this attempt stands.
            let turn = self.turn();
            self.host.sim().violated(format!("a message waited for turn {turn:x} and does no more, in one attempt"));
        }
        self.pending = standing.has_pending;
        if standing.committed {
            self.commits("its agent was told so");
        }
        if self.pending {
            self.host.sim().sometimes("an agent saw that a message waits");
        }
        Ok(())
    }

    fn commits(&mut self, how: &'static str) {
        self.committed = true;
        let turn = self.turn();
        self.host.sim().lock().books.turn_commits(turn, how);
    }

    async fn speak(&mut self) -> Result<(), Stop> {
        // Two words with one voice, so that a first one that failed is followed by a second.
        let Some(process) = self.host.current() else { return Ok(()) };
        let fell = self.host.sim().lock().books.fence_fell(self.turn(), self.grant.position);
        let calls = Calls::new(Client::new(process.engine.clone(), self.grant.tenant), self.grant.clone());
        let voice = calls.voice();
        for word in ["one", "two"] {
            let text = format!("{}{word}", marker(self.grant.tenant.0));
            let said = tokio::select! {
                biased;
                () = process.ended.wait() => return Ok(()),
                said = voice.delta(&text) => said,
            };
            if said.is_ok() {
                if fell {
                    let turn = self.turn();
                    self.host.sim().violated(format!("somebody whose attempt at turn {turn:x} is over spoke"));
                }
                self.commits("its agent spoke");
                self.host.sim().sometimes("an agent spoke");
            }
            self.host.sim().pause(&mut self.chance, 20).await;
        }
        Ok(())
    }

    async fn keep_or_reuse(&mut self) -> Result<(), Stop> {
        let phase = *self.chance.pick(&["understand", "retrieve"]);
        let (input, depends) = (format!("in-{}", self.chance.below(2)), format!("on-{}", self.chance.below(2)));
        let (turn, reuse) = (self.turn(), *self.chance.pick(&[Reuse::Always, Reuse::Conditional, Reuse::Never]));
        if self.chance.permille(500) {
            let asked = (input.clone(), depends.clone());
            let found = self.ask("artifact", |calls| {
                let (input, depends) = asked.clone();
                async move { calls.artifact(phase, &input, &depends).await }
            });
            if let Ok(artifact) = found.await? {
                let says = artifact.data.to_string();
                let sim = self.host.sim();
                sim.sometimes("a phase's result was used again");
                sim.lock().books.artifact_given(turn, phase, &says);
                let fits = artifact.data["input"] == *input
                    && artifact.data["reuse"] != "never"
                    && (artifact.data["reuse"] == "always" || artifact.data["depends"] == *depends);
                if !fits {
                    sim.violated(format!("turn {turn:x} was given {says} for {input} {depends}"));
                }
                return Ok(());
            }
        }
        let data = json!({
            "by": self.grant.turn.to_string(), "at": self.grant.position, "nth": self.chance.word(),
            "input": input, "depends": depends, "reuse": reuse,
        });
        self.host.sim().lock().books.artifact_kept(turn, phase, &data.to_string());
        let artifact = Artifact {
            phase: phase.to_owned(),
            data,
            input_fingerprint: input,
            dependency_fingerprint: depends,
            reuse,
            turn_id: String::new(),
            reuse_count: 0,
        };
        self.ask("put_artifact", |calls| {
            let artifact = artifact.clone();
            async move { calls.put_artifact(artifact).await }
        })
        .await
    }

    async fn use_tool(&mut self) -> Result<(), Stop> {
        let (tool, policy, word) = *self.chance.pick(&TOOLS);
        let (turn, key) = (self.turn(), format!("order-{}", self.chance.below(2)));
        // An attempt uses a tool for one thing once: its reports may arrive late and twice, and must not be taken for
        // those of a later use.
        if self.used.iter().any(|used| *used == (tool, key.clone())) {
            return Ok(());
        }
        self.used.push((tool, key.clone()));
        let begin =
            BeginEffect { tool: tool.to_owned(), key: key.clone(), policy, unless_pending: self.chance.permille(300) };
        let begun = self.ask("begin_effect", |calls| {
            let begin = begin.clone();
            async move { calls.begin_effect(&begin).await }
        });
        let verdict = match begun.await {
            // It thinks again, and does not do it.
            Err(Stop::Waits) => return Ok(()),
            other => other?,
        };
        let sim = self.host.sim().clone();
        match verdict {
            EffectVerdict::Go { idempotency_key, tries } => {
                sim.trace(format_args!("turn {turn:x} does {word} {tool} {key}, try {tries}"));
                sim.lock().books.effect_go(turn, (tool, &key), word, &idempotency_key);
                if policy == EffectPolicy::Irreversible {
                    self.committed = true;
                }
            }
            EffectVerdict::Done { result } => {
                sim.sometimes("an effect was done before");
                let result = result.unwrap_or_default();
                sim.lock().books.effect_done(turn, (tool, &key), result.as_str().unwrap_or_default());
                return Ok(());
            }
            EffectVerdict::Unknown { .. } => {
                sim.sometimes("nobody knew what came of an effect");
                return Ok(());
            }
        }
        sim.pause(&mut self.chance, 100).await;
        if self.chance.permille(150) {
            // The agent is gone in the middle of it, and nobody will ever say what came of it.
            return Err(Stop::Unheard);
        }
        let fails = self.chance.permille(250);
        let result = format!("{}done at {:x}.{}", marker(self.grant.tenant.0), turn, self.grant.position);
        sim.lock().books.effect_ends(turn, (tool, &key), (!fails).then_some(&result));
        let end = EndEffect {
            tool: tool.to_owned(),
            key,
            status: if fails { EffectStatus::Failed } else { EffectStatus::Done },
            result: (!fails).then(|| Value::from(result)),
        };
        if self.chance.permille(sim.plan().request_repeated) {
            tokio::spawn(tell_again(self.host.clone(), self.grant.clone(), end.clone(), self.chance.fork()));
        }
        match self
            .ask("end_effect", |calls| {
                let end = end.clone();
                async move { calls.end_effect(end).await }
            })
            .await
        {
            // Somebody else said first what came of it, which is only possible where twice is as once.
            Err(Stop::No(why)) => {
                sim.trace(format_args!("an outcome was not taken: {why}"));
                Ok(())
            }
            other => other,
        }
    }

    fn answer(&mut self, request: &AgentRequest) -> Result<AgentAnswer, AgentError> {
        let (turn, mark) = (self.turn(), marker(self.grant.tenant.0));
        if self.pending && (!self.committed || self.chance.permille(100)) && self.chance.permille(400) {
            self.host.sim().sometimes("an agent yielded");
            let action = *self.chance.pick(&[Action::Supersede, Action::Absorb, Action::Queue]);
            let yields = Some(Decision::new(action, "simulated: something new came"));
            return Ok(AgentAnswer { yields, ..AgentAnswer::default() });
        }
        let more = if self.chance.permille(300) { " and more of it, and then some." } else { "" };
        let text = format!("{mark} answer {} to {}{more}", request.attempt, request.turn_id);
        let state = self.chance.permille(700).then(|| {
            json!({ "who": mark, "over": request.state.version, "turn": request.turn_id, "nth": self.chance.word() })
        });
        self.host.sim().lock().books.agent_answers(turn, &text, state.clone());
        Ok(AgentAnswer { state, ..AgentAnswer::text(text) })
    }
}

/// The network brings a report once more, long after.
async fn tell_again(host: Host, grant: Grant, end: EndEffect, mut chance: Chance) {
    host.sim().pause(&mut chance, 3_000).await;
    let Some(process) = host.current() else { return };
    let calls = Calls::new(Client::new(process.engine.clone(), grant.tenant), grant);
    host.sim().sometimes("the outcome of an effect was reported again");
    tokio::select! {
        biased;
        () = process.ended.wait() => {}
        _ = calls.end_effect(end) => {}
    }
}
