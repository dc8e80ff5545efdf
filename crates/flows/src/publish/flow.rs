//! A publish at work: a durable function that takes a job through its stages.
//!
//! The job's document is the progress everybody sees, and each change of it is a commit that expects the version before.
//! Somebody who stops the job writes it too, so the next commit of a function that does not know it yet changes
//! nothing, and it ends. Before the pointer moves, a stage that fails ends the job, and nothing was published. Afterwards
//! stages are tried until they are done: what they do can be done again.

mod stages;

use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{
    Commit, Committed, Context, Failure, KeyRule, KeyStrategy, OnParentEnd, PutDocument, SpawnOptions, Worker,
    WorkflowDef,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::check::Finding;
use super::collect;
use super::door::{ConfigError, Configs, put_job, put_register};
use super::job::{Job, StageName, StageStatus, Status};
use super::register::Moved;
use super::{SCOPE, UPDATED_EVENT};

/// The workflow. A run's key is the job's id.
pub const WORKFLOW: &str = "publish";

/// Tries of a stage before the pointer has moved.
const TRIES_BEFORE: u32 = 8;
/// Tries of one afterwards: with the waits between them, over about three days. What is told then is told by other means
/// as well, and a mirror can be made anew.
const TRIES_AFTER: u32 = 4_300;
/// The wait after the first failed try. It doubles.
const WAIT: Duration = Duration::from_millis(500);
/// The longest wait before the pointer has moved, and afterwards.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Times the register is read again because another decision came in between.
const DECISIONS_MAX: u32 = 50;

/// The input of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// Which job.
    pub publish_id: String,
}

/// What a run ends with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Which job.
    pub publish_id: String,
    /// How it ended.
    pub status: Status,
    /// The version it made or moved to.
    pub version: u64,
}

fn definition() -> WorkflowDef {
    let mut def = WorkflowDef::single(WORKFLOW, true);
    // One run per job; by its key it can be looked for.
    def.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    def
}

pub(super) fn offer(worker: Worker, configs: &Configs) -> Worker {
    let configs = configs.clone();
    worker.function(definition(), move |ctx: Context, input: Input| {
        let configs = configs.clone();
        async move {
            let (version, job) = read(&ctx, &configs, &input.publish_id).await?;
            let desk = Desk { ctx: &ctx, configs: &configs, version, job };
            desk.work().await
        }
    })
}

/// The job as it stands, on record.
async fn read(ctx: &Context, configs: &Configs, id: &str) -> Result<(u64, Job), Failure> {
    ctx.note("job", || async {
        configs.job(id).await.map_err(|error| match error {
            ConfigError::NotFound(_) => Failure::Final(format!("publish {id} is not remembered any more")),
            other => Failure::GivenUp(other.to_string()),
        })
    })
    .await
}

/// What ends a stage other than with its end.
enum Stop {
    /// Something is wrong with the draft.
    Findings(Vec<Finding>, usize),
    /// It failed for good.
    Failed(String),
    /// Somebody else has ended the job.
    Over,
    /// The function itself ends.
    Ends(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Ends(failure)
    }
}

/// A job at work.
struct Desk<'a> {
    ctx: &'a Context,
    configs: &'a Configs,
    /// The version of the job's document.
    version: u64,
    job: Job,
}

impl Desk<'_> {
    async fn work(mut self) -> Result<Output, Failure> {
        let stopped = match self.stages().await {
            Ok(()) => None,
            Err(Stop::Ends(failure)) => return Err(failure),
            Err(Stop::Over) => None,
            Err(Stop::Failed(error)) => Some((error, Vec::new(), 0)),
            Err(Stop::Findings(findings, total)) => {
                let error = match total {
                    1 => "the draft has a mistake, and nothing was published".to_owned(),
                    more => format!("the draft has {more} mistakes, and nothing was published"),
                };
                Some((error, findings, total))
            }
        };
        if let Some((error, findings, total)) = stopped {
            (self.job.findings, self.job.findings_total) = (findings, total);
            match self.fail(error).await {
                Ok(()) | Err(Stop::Over | Stop::Failed(_) | Stop::Findings(..)) => {}
                Err(Stop::Ends(failure)) => return Err(failure),
            }
        }
        Ok(Output { publish_id: self.job.id.clone(), status: self.job.status, version: self.job.version })
    }

    async fn stages(&mut self) -> Result<(), Stop> {
        if self.job.status.over() {
            return Err(Stop::Over);
        }
        for name in StageName::of(&self.job.action) {
            if name == StageName::Accept {
                continue;
            }
            self.begin(name).await?;
            let note = self.tried(name).await?;
            // Recorded with the next stage's beginning, or with the end.
            let now = self.clock().await?;
            if let Some(stage) = self.job.stage_mut(name) {
                stage.status = StageStatus::Completed;
                stage.duration_ms = Some(now.saturating_sub(stage.started_at.unwrap_or(now)));
                (stage.error, stage.note) = (None, note);
            }
        }
        (self.job.status, self.job.completed_at) = (Status::Completed, Some(self.clock().await?));
        let told = json!({
            "publish_id": self.job.id, "agent": self.job.agent, "action": self.job.action.word(),
            "version": self.job.version,
        });
        self.save(Vec::new(), Vec::new(), vec![event("publish.completed", &told)]).await?;
        let input = collect::Input { agent: self.job.agent.clone() };
        let options = SpawnOptions {
            key: Some(self.job.agent.clone()),
            on_parent_end: OnParentEnd::Abandon,
            ..SpawnOptions::default()
        };
        self.ctx.spawn_detached(collect::WORKFLOW, &input, options).await?;
        Ok(())
    }

    /// The time, on record.
    async fn clock(&self) -> Result<u64, Failure> {
        self.ctx.note("clock", || async { Ok(self.configs.now_ms()) }).await
    }

    async fn begin(&mut self, name: StageName) -> Result<(), Stop> {
        let now = self.clock().await?;
        self.job.status = Status::Running;
        self.job.started_at.get_or_insert(now);
        if let Some(stage) = self.job.stage_mut(name) {
            (stage.status, stage.started_at) = (StageStatus::Running, Some(now));
        }
        self.save(Vec::new(), Vec::new(), Vec::new()).await
    }

    /// Carries a stage out, again after a failure that may pass. Each failure is seen by those who look.
    async fn tried(&mut self, name: StageName) -> Result<Option<String>, Stop> {
        let mut wait = WAIT;
        loop {
            let failure = match self.carry_out(name).await {
                Ok(note) => return Ok(note),
                Err(Stop::Ends(Failure::Retryable(error))) => error,
                Err(Stop::Ends(Failure::Final(error))) => {
                    return Err(Stop::Failed(format!("{}: {error}", name.word())));
                }
                Err(other) => return Err(other),
            };
            let max = if self.job.swapped() { TRIES_AFTER } else { TRIES_BEFORE };
            let Some(stage) = self.job.stage_mut(name) else { return Err(Stop::Failed(failure)) };
            stage.failed_tries += 1;
            stage.error = Some(failure.clone());
            if stage.failed_tries >= max {
                return Err(Stop::Failed(format!("{} failed {max} times, last: {failure}", name.word())));
            }
            self.save(Vec::new(), Vec::new(), Vec::new()).await?;
            self.ctx.sleep(wait).await?;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Writes the job as it is now, with whatever goes with it. If somebody else has written it, they have ended it.
    async fn save(
        &mut self,
        mut documents: Vec<PutDocument>,
        runs: Vec<(String, Option<String>, Bytes)>,
        events: Vec<(String, Bytes)>,
    ) -> Result<(), Stop> {
        documents.push(put_job(self.version, &self.job).map_err(Failure::permanent)?);
        let commit =
            Commit { force: true, documents, runs, events, scope: Some(SCOPE.to_owned()), ..Commit::default() };
        match self.ctx.commit(commit).await? {
            Committed::Done => {
                self.version += 1;
                Ok(())
            }
            Committed::Conflict(_) | Committed::MessageWaits => self.look_again().await,
        }
    }

    /// Who has written the job? `Ok` if nobody has: then it was another document that did not fit.
    async fn look_again(&mut self) -> Result<(), Stop> {
        let (version, job) = read(self.ctx, self.configs, &self.job.id).await?;
        if job.status.over() {
            (self.version, self.job) = (version, job);
            return Err(Stop::Over);
        }
        if version != self.version {
            return Err(Stop::Failed("somebody else works on it as well".to_owned()));
        }
        Ok(())
    }

    /// Ends the job without having moved the pointer, or, afterwards, without having told everybody.
    async fn fail(&mut self, error: String) -> Result<(), Stop> {
        let now = self.clock().await?;
        self.job.end(Status::Failed, error.clone(), now);
        let told = json!({
            "publish_id": self.job.id, "agent": self.job.agent, "action": self.job.action.word(),
            "version": self.job.version, "error": error, "findings": self.job.findings_total,
        });
        for _ in 0..DECISIONS_MAX {
            let (at, register) = self.register().await?;
            let (documents, runs) = match register.leave(&self.job.id) {
                Some(Moved { register, next }) => {
                    let put = put_register(&self.job.agent, at, &register).map_err(Failure::permanent)?;
                    (vec![put], next.iter().map(|next| run_of(next)).collect::<Result<Vec<_>, _>>()?)
                }
                None => (Vec::new(), Vec::new()),
            };
            let before = self.version;
            self.save(documents, runs, vec![event("publish.failed", &told)]).await?;
            if self.version != before {
                return Ok(());
            }
        }
        Err(Stop::Ends(Failure::Final("the register was changed by others each time".to_owned())))
    }

    /// The register as it stands, on record.
    async fn register(&self) -> Result<(u64, super::Register), Failure> {
        let read = self.ctx.note("register", || async {
            self.configs.register(&self.job.agent).await.map_err(|error| Failure::GivenUp(error.to_string()))
        });
        read.await
    }
}

/// The run of a job that waited.
fn run_of(id: &str) -> Result<(String, Option<String>, Bytes), Failure> {
    let input = super::bundle::json_of(&Input { publish_id: id.to_owned() }).map_err(Failure::permanent)?;
    Ok((WORKFLOW.to_owned(), Some(id.to_owned()), input))
}

fn event(name: &str, data: &serde_json::Value) -> (String, Bytes) {
    (name.to_owned(), Bytes::from(data.to_string()))
}
