//! The door: a call is checked, claimed in the ledger, carried out the way its policy asks for, and followed.

mod settle;

use std::time::Duration;

use mainspring_client::{
    ATTENTION, Attention, Client, ClientError, DocumentKey, EngineError, Failure, Guard, PendingKind, PutDocument,
    Record, Refusal, RunId, TaskId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::call::{self, Execution, OnBehalf, Outcome, OutcomeStatus, StepOutcome, is_false};
use super::catalogue::{Catalogue, Entry, Standing};
use super::provider::Kit;
use super::run;
use super::schema;
use super::tool::{Finding, Path, Provider, Tool};
use super::tried::ToolError;
use crate::calls::{EffectPolicy, EffectStatus, EffectView, Grant};
use crate::records;
use crate::settings::millis;

pub use settle::{CallbackAnswer, Verdict, late_of};

/// The scope of calls that are made outside of turns.
const NO_TURN: &str = "-";
/// Bytes of a call's arguments.
pub const ARGUMENTS_BYTES_MAX: usize = 256 * 1024;
/// How long outcomes of calls outside of turns are remembered.
const REMEMBER_MS: u64 = 24 * 60 * 60 * 1_000;
/// The longest a call is followed for whoever waits.
pub const WAIT_MS_MAX: u64 = 10 * 60 * 1_000;
/// How long it is followed if whoever asks does not say.
const DEFAULT_WAIT_MS: u64 = 30_000;
/// The longest a request waits for the next try of a call that is carried out in it.
const DIRECT_WAIT_MS_MAX: u64 = 10_000;
/// Waits between two looks at a call whose run has not ended.
const LOOK_MS: [u64; 4] = [150, 300, 600, 1_000];

/// A call that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    /// The arguments.
    pub arguments: Value,
    /// What makes it this call and no other. Within a turn it follows from the arguments; elsewhere a call without one is
    /// a call of its own.
    pub idempotency_key: Option<String>,
    /// Refuse if a message waits that might change what should be done. Within a turn.
    pub unless_pending: bool,
    /// How long the outcome is waited for, in milliseconds. Then the answer is a receipt.
    pub wait_ms: Option<u64>,
    /// When it is too late to begin, in milliseconds from now.
    pub deadline_ms: Option<u64>,
    /// On behalf of which agent, for whoever acts for the tenant.
    pub agent: Option<String>,
    /// In which session, likewise.
    pub session: Option<String>,
}

/// How a call stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// `done`, `failed`, `declined`, `compensated`; or, not over yet: `running`, `awaiting_confirmation`, `unknown`.
    pub status: String,
    /// Its execution. `None` for one that was carried out directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// The tool.
    pub tool: String,
    /// What the provider recognises a repeat by.
    pub idempotency_key: String,
    /// What it gave.
    pub result: Value,
    /// Why it failed, or what is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ToolError>,
    /// Whether it may have been carried out although it failed.
    #[serde(skip_serializing_if = "is_false")]
    pub in_doubt: bool,
    /// Whether it had been carried out, or begun, before it was asked for.
    pub repeated: bool,
    /// What a person is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Where it is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<Asks>,
    /// The steps of a plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepOutcome>,
}

/// Where a person's answer goes: `POST /v1/attention/{run_id}/{step}/settle`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asks {
    /// The run that asks: the call, or of a plan's step.
    pub run_id: String,
    /// At which step.
    pub step: String,
    /// What may be said.
    pub verbs: Vec<String>,
}

/// A call that is not made.
#[derive(Debug, thiserror::Error)]
pub enum ToolCallError {
    /// No tool of this name, or not for this agent.
    #[error("{detail}")]
    NotThere {
        /// `tool_unknown`, `tool_unavailable`, `tool_disabled`.
        code: &'static str,
        /// Which tier it is in.
        detail: String,
    },
    /// The arguments do not fit. Nothing was sent.
    #[error("{} thing(s) are wrong with the arguments", .0.len())]
    Arguments(Vec<Finding>),
    /// What is asked for can't be done so.
    #[error("{0}")]
    Unusable(String),
    /// The same key was used for something else.
    #[error("{0}")]
    Conflict(String),
    /// No such execution.
    #[error("there is no execution {0} of a tool")]
    NoExecution(String),
    /// The engine refused, or failed.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl From<Failure> for ToolCallError {
    fn from(failure: Failure) -> Self {
        ToolCallError::Unusable(failure.to_string())
    }
}

/// Calls of tools. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    client: Client,
    kit: Kit,
}

impl Door {
    /// For the client's tenant.
    pub fn new(client: Client, kit: Kit) -> Self {
        Door { client, kit }
    }

    /// The tenant's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The tenant's catalogue.
    pub fn catalogue(&self) -> Catalogue {
        Catalogue::new(self.client.clone(), self.kit.known.clone())
    }

    /// Makes a call: on behalf of a turn's attempt, or for the tenant. Whatever has a side effect is durable before it
    /// leaves.
    ///
    /// # Errors
    /// [`ToolCallError`]: then nothing was sent.
    pub async fn call(
        &self,
        name: &str,
        asked: Asked,
        by: Option<&str>,
        grant: Option<&Grant>,
    ) -> Result<Answer, ToolCallError> {
        let agent = match grant {
            Some(grant) => Some(agent_of(&grant.session)),
            None => asked.agent.clone(),
        };
        let Entry { version, tool } = self.enabled(agent.as_deref(), name).await?;
        let arguments = if asked.arguments.is_null() { serde_json::json!({}) } else { asked.arguments.clone() };
        check_arguments(&tool, &arguments)?;
        let caller = caller(&asked, agent, by, grant);
        let business = self.business_key(&tool, &arguments, &asked, grant)?;
        let scope = grant.map_or_else(|| NO_TURN.to_owned(), |grant| grant.group.to_string());
        let ledger = records::effect_name(&scope, &tool.name, &business);
        let key = match grant {
            Some(grant) => format!("{}:{}:{business}:turn_group:{}", grant.tenant, tool.name, grant.group),
            None => format!("{}:{}:{business}", self.client.tenant(), tool.name),
        };
        let now = self.client.engine().world().now_ms();
        let confirm = run::prompt(&tool, &arguments).map_err(|error| ToolCallError::Unusable(error.to_string()))?;
        let others = if tool.others().is_empty() { Default::default() } else { self.catalogue().others(&tool).await? };
        let way = match tool.way() {
            // What is counted or kept in order is recorded before.
            Path::Direct if tool.rate.is_none() && tool.concurrency_key.is_none() => Path::Direct,
            Path::Direct => Path::Queued,
            way => way,
        };
        let execution = Execution {
            version,
            others,
            arguments,
            key,
            ledger: Some(ledger.clone()),
            caller,
            deadline_at: asked.deadline_ms.map(|ms| now.saturating_add(ms)),
            confirm,
            undoes: None,
            remember_ms: grant.map_or(REMEMBER_MS, |grant| millis(grant.effect_ttl)),
            step: None,
            tool,
        };
        let wait_ms = asked.wait_ms.unwrap_or(DEFAULT_WAIT_MS);
        let wait = Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
        if way == Path::Direct {
            return self.directly(execution, grant).await;
        }
        let guard = Guard {
            no_message_waits: asked.unless_pending,
            // Nothing is done before a person has said yes; the turn may still be begun anew.
            passes_commit_point: execution.tool.policy == EffectPolicy::Irreversible && execution.confirm.is_none(),
        };
        match self.claim(&ledger, execution, way, guard, grant).await? {
            Claimed::New(run, execution) => self.follow_known(run, Some(&execution), false, wait).await,
            Claimed::Run(run) => self.follow(run, true, wait).await,
            Claimed::Settled(answer) => Ok(*answer),
        }
    }

    async fn enabled(&self, agent: Option<&str>, name: &str) -> Result<Entry, ToolCallError> {
        let not_there = |code, detail| ToolCallError::NotThere { code, detail };
        match self.catalogue().standing(agent, name).await? {
            Standing::Enabled(entry) => Ok(*entry),
            Standing::Unknown => Err(not_there("tool_unknown", format!("the catalogue has no tool {name:?}"))),
            Standing::Unavailable => Err(not_there(
                "tool_unavailable",
                format!("tool {name:?} is in the catalogue, and not available to this tenant's agents"),
            )),
            Standing::Disabled => Err(not_there(
                "tool_disabled",
                format!("tool {name:?} is available, and not enabled for agent {:?}", agent.unwrap_or_default()),
            )),
        }
    }

    fn business_key(
        &self,
        tool: &Tool,
        arguments: &Value,
        asked: &Asked,
        grant: Option<&Grant>,
    ) -> Result<String, ToolCallError> {
        if let Some(key) = &asked.idempotency_key {
            if !(1..=call::KEY_BYTES_MAX).contains(&key.len()) {
                let text = format!("idempotency_key has {} bytes: use 1 to {}", key.len(), call::KEY_BYTES_MAX);
                return Err(ToolCallError::Unusable(text));
            }
            return Ok(key.clone());
        }
        if grant.is_some() || !tool.key_fields.is_empty() {
            return call::business_key(tool, arguments).map_err(ToolCallError::Unusable);
        }
        let chance = self.client.engine().world().chance().map_err(|cause| ClientError::Random { cause })?;
        Ok(format!("{chance:032x}"))
    }

    /// Carries a call out in the request that asks for it, which only what may happen twice is.
    async fn directly(&self, execution: Execution, grant: Option<&Grant>) -> Result<Answer, ToolCallError> {
        if let Some(grant) = grant {
            // Whoever is not the present attempt does nothing any more.
            self.client.standing(grant.fence()).await?;
        }
        // Nothing is claimed, so there is no entry to end.
        let execution = Execution { ledger: None, ..execution };
        let outcome = run::call_plainly(&self.client, &self.kit, &execution, "direct", DIRECT_WAIT_MS_MAX).await?;
        run::record_end(&self.client, &execution, "direct", &outcome).await?;
        Ok(answer(&execution, None, outcome, false))
    }

    /// Writes the call into the ledger and starts its run, in one decision; or finds the one that is there already.
    async fn claim(
        &self,
        ledger: &str,
        mut execution: Execution,
        way: Path,
        guard: Guard,
        grant: Option<&Grant>,
    ) -> Result<Claimed, ToolCallError> {
        let digest = call::digest(&execution.arguments);
        let first_key = execution.key.clone();
        // Most calls are asked for once: that there is an entry is found out by not being able to make one.
        let mut looks = false;
        loop {
            let mut expect = 0;
            if looks && let Some(row) = self.client.document(DocumentKey::new(records::EFFECT, ledger)).await? {
                let view: EffectView = serde_json::from_slice(&row.body).map_err(|error| {
                    ToolCallError::Unusable(format!("the ledger's entry for this call is not understood: {error}"))
                })?;
                if view.digest.as_ref().is_some_and(|known| *known != digest) {
                    return Err(ToolCallError::Conflict(format!(
                        "the key of this call was used with other arguments: {} is another wish, and needs another key",
                        execution.tool.name
                    )));
                }
                match self.known(&execution, &view).await? {
                    Known::Follow(run) => return Ok(Claimed::Run(run)),
                    Known::Answer(answer) => return Ok(Claimed::Settled(answer)),
                    Known::Again => {}
                }
                expect = row.version;
                if view.status == EffectStatus::Compensated {
                    // The provider knows the first one as done; this is another.
                    execution.key = format!("{first_key}:again:{expect}");
                }
            }
            let view = run::entry(&execution, "", EffectStatus::Started, None, None);
            let body = run::json_of(&EffectView { execution_id: None, ..view })?;
            let key = DocumentKey::new(records::EFFECT, ledger);
            let put = PutDocument { key, expect: Some(expect), body, ttl_ms: None, history: 0 };
            let fence = grant.map(Grant::fence);
            let data = run::about(&execution, "").to_string();
            let event = Some(("tool.started".to_owned(), execution.caller.session.clone(), data.into()));
            let rates = run::rate_use(&execution.tool).into_iter().collect();
            let record = Record { put, fence, guard, event, rates };
            let (workflow, key) = Door::place(&execution, way)?;
            match self.client.start_recorded(workflow, key, &execution, record).await {
                Ok(run) => return Ok(Claimed::New(run, Box::new(execution))),
                Err(ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. }))) => looks = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is to be done about a call that the ledger knows.
    async fn known(&self, execution: &Execution, view: &EffectView) -> Result<Known, ToolCallError> {
        let id = match (&view.execution_id, &view.digest) {
            (Some(id), _) => Some(id.clone()),
            (None, Some(_)) => self.writer(execution).await?,
            // An agent does it itself, and no run of ours knows more.
            (None, None) => None,
        };
        let run = id.as_deref().and_then(|id| id.parse::<RunId>().ok());
        let settled = |status: &str, error| {
            let mut answer = standing(execution, run, status);
            (answer.result, answer.error, answer.repeated) = (view.result.clone().unwrap_or_default(), error, true);
            Known::Answer(Box::new(answer))
        };
        Ok(match view.status {
            EffectStatus::Done => settled("done", view.error.clone()),
            // Of a plan that failed, what was done may stay: then it is not done again.
            EffectStatus::Failed if matches!(execution.tool.provider, Provider::Steps(_)) => match run {
                Some(run) => {
                    let answer = self.execution(run).await?;
                    let stays = answer.steps.iter().any(|step| step.status == run::NOT_COMPENSATED);
                    if stays { Known::Answer(Box::new(Answer { repeated: true, ..answer })) } else { Known::Again }
                }
                None => Known::Again,
            },
            EffectStatus::Failed | EffectStatus::Compensated => Known::Again,
            EffectStatus::Started | EffectStatus::Unknown => {
                let row = match run {
                    Some(run) => self.client.run(run).await?,
                    None => None,
                };
                match (run, row) {
                    (Some(run), Some(row)) if !row.state.ended() => Known::Follow(run),
                    // It ended before it began anything.
                    (Some(_), Some(row)) if !row.guarded => Known::Again,
                    _ if matches!(view.policy, EffectPolicy::Pure | EffectPolicy::Idempotent) => Known::Again,
                    _ => {
                        let text = "its run ended without saying what came of it, or an agent began it and never said";
                        settled("unknown", Some(ToolError::new("outcome_unknown", text)))
                    }
                }
            }
        })
    }

    /// The run that wrote a ledger's entry which does not name it yet.
    async fn writer(&self, execution: &Execution) -> Result<Option<String>, ToolCallError> {
        let Some(name) = &execution.ledger else { return Ok(None) };
        let row = self.client.document(DocumentKey::new(records::EFFECT, name.as_str())).await?;
        Ok(row.and_then(|row| row.by).map(|run| run.to_string()))
    }

    /// The workflow that carries it out, and what serialises it.
    fn place(execution: &Execution, way: Path) -> Result<(&'static str, Option<String>), ToolCallError> {
        let key = run::order_key(&execution.tool, &execution.arguments);
        Ok(match key.map_err(|error| ToolCallError::Unusable(format!("concurrency_key: {error}")))? {
            Some(key) => (run::ORDERED, Some(key)),
            None => (if way == Path::Queued { run::TASK } else { run::WORKFLOW }, None),
        })
    }

    /// Waits for a call's outcome, or says how it stands when the time is over.
    ///
    /// # Errors
    /// [`ToolCallError`].
    pub async fn follow(&self, run: RunId, repeated: bool, wait: Duration) -> Result<Answer, ToolCallError> {
        self.follow_known(run, None, repeated, wait).await
    }

    async fn follow_known(
        &self,
        run: RunId,
        known: Option<&Execution>,
        repeated: bool,
        wait: Duration,
    ) -> Result<Answer, ToolCallError> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut ended = std::pin::pin!(self.client.wait::<Outcome>(run));
        let mut looks = LOOK_MS.into_iter();
        loop {
            let look = Duration::from_millis(looks.next().unwrap_or(LOOK_MS[LOOK_MS.len() - 1]));
            let until = (tokio::time::Instant::now() + look).min(deadline);
            match (tokio::time::timeout_at(until, &mut ended).await, known) {
                (Ok(Ok(outcome)), Some(execution)) => return Ok(answer(execution, Some(run), outcome, repeated)),
                (Ok(_), _) => break,
                // A person is asked: whoever waits is told, and does not wait for that.
                (Err(_), _) if !self.asks(run).await?.is_empty() => break,
                (Err(_), _) if tokio::time::Instant::now() >= deadline => break,
                (Err(_), _) => {}
            }
        }
        Ok(Answer { repeated, ..self.execution(run).await? })
    }

    /// How an execution stands.
    ///
    /// # Errors
    /// [`ToolCallError::NoExecution`] if it is none.
    pub async fn execution(&self, run: RunId) -> Result<Answer, ToolCallError> {
        let (execution, row) = self.read(run).await?;
        if let Some(output) = row.output {
            let bytes = self.client.payload(output).await.map_err(ClientError::from)?;
            if let Ok(outcome) = serde_json::from_slice::<Outcome>(&bytes) {
                return Ok(answer(&execution, Some(run), outcome, false));
            }
        }
        if row.state.ended() {
            let error = ToolError::new(row.state.word(), row.error.unwrap_or_default());
            return Ok(Answer { error: Some(error), ..standing(&execution, Some(run), "failed") });
        }
        Ok(match self.asks(run).await?.into_iter().next() {
            Some(attention) => {
                let status = match attention.kind.as_str() {
                    "confirmation" => "awaiting_confirmation",
                    "task" => "awaiting_person",
                    "compensation_failed" => "compensation_failed",
                    _ => "unknown",
                };
                let error = attention.detail.get("error").and_then(|error| serde_json::from_value(error.clone()).ok());
                let asks = Some(Asks { run_id: attention.run_id, step: attention.step, verbs: attention.verbs });
                let prompt = Some(attention.title);
                Answer { prompt, error, asks, ..standing(&execution, Some(run), status) }
            }
            None => standing(&execution, Some(run), "running"),
        })
    }

    /// What an execution asks of people: itself, or by the runs of its steps that it waits for.
    ///
    /// # Errors
    /// [`ToolCallError`].
    pub async fn asks(&self, run: RunId) -> Result<Vec<Attention>, ToolCallError> {
        let mut runs = vec![run];
        if let Some(task) = self.client.task(TaskId { run, index: 0 }).await? {
            runs.extend(task.pending.values().filter_map(|pending| match pending.kind {
                PendingKind::Child { run } => Some(run),
                PendingKind::Sleep
                | PendingKind::Receive { .. }
                | PendingKind::Event { .. }
                | PendingKind::Signal { .. } => None,
            }));
        }
        let mut asks = Vec::new();
        for run in runs {
            let found = self.client.documents(ATTENTION, &format!("{run}/")).await?;
            asks.extend(found.iter().filter_map(|(_, row)| serde_json::from_slice::<Attention>(&row.body).ok()));
        }
        Ok(asks)
    }

    /// What a run carries out, and its row.
    ///
    /// # Errors
    /// [`ToolCallError::NoExecution`] if it is none.
    pub async fn read(&self, run: RunId) -> Result<(Execution, mainspring_client::RunRow), ToolCallError> {
        let none = || ToolCallError::NoExecution(run.to_string());
        let row = self.client.run(run).await?.ok_or_else(none)?;
        if ![run::WORKFLOW, run::ORDERED, run::TASK].contains(&row.workflow.as_str()) {
            return Err(none());
        }
        let input = row.input.ok_or_else(none)?;
        let bytes = self.client.payload(input).await.map_err(ClientError::from)?;
        Ok((serde_json::from_slice(&bytes).map_err(|_| none())?, row))
    }
}

enum Claimed {
    /// It is begun.
    New(RunId, Box<Execution>),
    /// It was begun before.
    Run(RunId),
    /// It is over.
    Settled(Box<Answer>),
}

enum Known {
    /// It is under way.
    Follow(RunId),
    /// It is over.
    Answer(Box<Answer>),
    /// It was certainly not carried out, or may be carried out again.
    Again,
}

fn agent_of(session: &str) -> String {
    crate::session::SessionKey::parse(session).map(|key| key.agent).unwrap_or_default()
}

fn caller(asked: &Asked, agent: Option<String>, by: Option<&str>, grant: Option<&Grant>) -> OnBehalf {
    match grant {
        Some(grant) => OnBehalf {
            agent,
            session: Some(grant.session.clone()),
            turn_id: Some(grant.turn.to_string()),
            turn_group_id: Some(grant.group.to_string()),
            by: by.map(str::to_owned),
        },
        None => OnBehalf {
            agent,
            session: asked.session.clone(),
            turn_id: None,
            turn_group_id: None,
            by: by.map(str::to_owned),
        },
    }
}

fn check_arguments(tool: &Tool, arguments: &Value) -> Result<(), ToolCallError> {
    let bytes = arguments.to_string().len();
    if bytes > ARGUMENTS_BYTES_MAX {
        let text =
            format!("the arguments have {bytes} bytes, at most {ARGUMENTS_BYTES_MAX} are taken: send a reference");
        return Err(ToolCallError::Unusable(text));
    }
    let findings = schema::findings(&tool.parameters, arguments);
    if findings.is_empty() { Ok(()) } else { Err(ToolCallError::Arguments(findings)) }
}

fn standing(execution: &Execution, run: Option<RunId>, status: &str) -> Answer {
    Answer {
        status: status.to_owned(),
        execution_id: run.map(|run| run.to_string()),
        tool: execution.tool.name.clone(),
        idempotency_key: execution.key.clone(),
        result: Value::Null,
        error: None,
        in_doubt: false,
        repeated: false,
        prompt: None,
        asks: None,
        steps: Vec::new(),
    }
}

fn answer(execution: &Execution, run: Option<RunId>, outcome: Outcome, repeated: bool) -> Answer {
    let status = match outcome.status {
        OutcomeStatus::Done => "done",
        OutcomeStatus::Failed => "failed",
        OutcomeStatus::Declined => "declined",
        OutcomeStatus::Compensated => "compensated",
    };
    let Outcome { result, error, in_doubt, steps, .. } = outcome;
    Answer { result, error, in_doubt, steps, repeated, ..standing(execution, run, status) }
}
