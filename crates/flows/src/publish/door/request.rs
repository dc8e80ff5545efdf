//! Asking for a publish, a rollback, a canary or a promotion, and stopping one.
//!
//! **Accepted is one decision**: the register with the version number and the place in the line, the job's document with the
//! draft as it is, and the run that works on it. So a number is given out once, a request that comes twice is found by its
//! document, and nothing waits for somebody to notice it.

use std::collections::BTreeMap;

use mainspring_client::{DocumentKey, Start};
use serde::Serialize;

use super::{ConfigError, Configs, put_job, put_register};
use crate::publish::PUBLISH;
use crate::publish::bundle::{digest_of, from_json, hex, is_conflict, json_of};
use crate::publish::flow::{Input, WORKFLOW};
use crate::publish::job::{Action, Job, LISTED_MAX, Share, Status, TEXT_BYTES_MAX};
use crate::publish::register::{Moved, NotTaken};

/// How long a publish is remembered after its end, and a repeat of its request recognised.
pub const PUBLISHES_KEPT_MS: u64 = 90 * 24 * 60 * 60 * 1_000;
/// Publishes of an agent that are listed.
const RECENT_MAX: usize = 30;
/// Bytes of the sessions a canary lists, together: they stand in the register, which each turn reads.
const LISTED_BYTES_MAX: usize = 64 * 1024;
/// Times a decision is begun anew because another came in between.
const TRIES_MAX: u32 = 16;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What is to be done.
    pub action: Action,
    /// What is new, or why.
    pub description: Option<String>,
    /// Whether sessions pinned to another version move on.
    pub force: bool,
    /// Who asks.
    pub by: String,
    /// The same key again is the same request.
    pub idempotency_key: Option<String>,
    /// The version the draft must have.
    pub draft_version: Option<u64>,
}

impl Configs {
    /// Takes a request. Durable when it returns; answers the job, and whether the request came before.
    ///
    /// # Errors
    /// [`ConfigError`] says what is in the way.
    pub async fn request(&self, agent: &str, asked: &Asked) -> Result<(Job, bool), ConfigError> {
        check(asked)?;
        let fingerprint = fingerprint(asked)?;
        let id = self.new_id(agent, asked.idempotency_key.as_deref())?;
        for _ in 0..TRIES_MAX {
            if let Some(row) = self.client.document(DocumentKey::new(PUBLISH, id.as_str())).await? {
                let job: Job = from_json(&row.body)?;
                return if job.fingerprint == fingerprint { Ok((job, true)) } else { Err(ConfigError::KeyReused(id)) };
            }
            if let Some(job) = self.try_request(agent, &id, &fingerprint, asked).await? {
                return Ok((job, false));
            }
        }
        Err(ConfigError::State("others moved the pointer each time: try again".to_owned()))
    }

    async fn try_request(
        &self,
        agent: &str,
        id: &str,
        fingerprint: &str,
        asked: &Asked,
    ) -> Result<Option<Job>, ConfigError> {
        self.heal(agent).await?;
        let (at, register) = self.register(agent).await?;
        let taken = register.take(id, &asked.action).map_err(|error| match error {
            NotTaken::InProgress { publish_id, version } => ConfigError::InProgress { publish_id, version },
            NotTaken::LineFull | NotTaken::Impossible(_) => ConfigError::State(error.to_string()),
        })?;
        let (sources, bundles) = self.content_of(agent, taken.version, asked).await?;
        let now = self.now_ms();
        let job = Job {
            id: id.to_owned(),
            agent: agent.to_owned(),
            action: asked.action.clone(),
            version: taken.version,
            from_version: register.current(),
            status: if taken.waits { Status::Pending } else { Status::Running },
            stages: Job::new_stages(&asked.action, now),
            description: asked.description.clone(),
            force: asked.force,
            by: asked.by.clone(),
            requested_at: now,
            started_at: None,
            completed_at: None,
            error: None,
            findings: Vec::new(),
            findings_total: 0,
            sources,
            bundles,
            epoch: None,
            fingerprint: fingerprint.to_owned(),
        };
        let mut puts = vec![put_job(0, &job)?];
        for other in &taken.superseded {
            let (at, mut other) = self.job(other).await?;
            other.end(Status::Superseded, format!("publish {id} of version {} took its place", taken.version), now);
            puts.push(put_job(at, &other)?);
        }
        let mut register = taken.register;
        register.recent.insert(0, id.to_owned());
        register.recent.truncate(RECENT_MAX);
        puts.push(put_register(agent, at, &register)?);
        let starts = if taken.waits { Vec::new() } else { vec![start_of(id)?] };
        match self.client.advance(puts, starts).await {
            Ok(_) => {}
            Err(error) if is_conflict(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        for other in &taken.superseded {
            self.stop_runs(other, "a later publish took its place").await;
        }
        Ok(Some(job))
    }

    /// What a job is about: the draft of a publish, the bundles of a version there is.
    async fn content_of(&self, agent: &str, version: u64, asked: &Asked) -> Result<(Refs, Refs), ConfigError> {
        if matches!(asked.action, Action::Publish { .. }) {
            let (found, draft) = self.draft(agent).await?;
            if let Some(expected) = asked.draft_version.filter(|expected| *expected != found) {
                return Err(ConfigError::DraftChanged { found, expected });
            }
            if draft.kinds.is_empty() {
                let text = "the draft is empty: PUT something into it first".to_owned();
                return Err(ConfigError::State(text));
            }
            return Ok((draft.sources(), BTreeMap::new()));
        }
        let (_, manifest) = self.manifest(agent, version).await?;
        if manifest.collected_at.is_some() {
            let text = format!("version {version} was given up: publish what it said anew");
            return Err(ConfigError::State(text));
        }
        Ok((manifest.sources, manifest.bundles))
    }

    fn new_id(&self, agent: &str, key: Option<&str>) -> Result<String, ConfigError> {
        let mark = match key {
            Some(key) => digest_of(format!("{}:{agent}:{key}", agent.len()).as_bytes())[7..31].to_owned(),
            None => {
                let chance = self.client.engine().world().chance();
                let chance = chance.map_err(|cause| mainspring_client::ClientError::Random { cause })?;
                hex(&chance.to_be_bytes()[4..])
            }
        };
        Ok(format!("{agent}.{mark}"))
    }

    /// Stops a job, if it has not moved the pointer. Durable when it returns.
    ///
    /// # Errors
    /// [`ConfigError::NotFound`]; [`ConfigError::State`] if it is too late.
    pub async fn cancel(&self, id: &str, by: &str) -> Result<Job, ConfigError> {
        self.stop(id, Status::Cancelled, &format!("cancelled by {by}")).await
    }

    /// A job that is at work and has no run any more came to a bad end without saying so: its run was cancelled, or failed
    /// in a way nobody foresaw. Then it is ended here, so that nothing waits for it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub async fn heal(&self, agent: &str) -> Result<(), ConfigError> {
        let (_, register) = self.register(agent).await?;
        let Some(first) = register.line.first() else { return Ok(()) };
        // A run's last decision takes its job out of the line. So one that has ended, and is in the line as it stands
        // *after* that was seen, was not taken out.
        if !self.client.live_runs(WORKFLOW, &first.publish_id).await?.is_empty() {
            return Ok(());
        }
        let (_, register) = self.register(agent).await?;
        if register.line.first() == Some(first) {
            let error = "its run came to an end before it did: look at the runs of workflow \"publish\"";
            match self.stop(&first.publish_id, Status::Failed, error).await {
                Ok(_) | Err(ConfigError::State(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn stop(&self, id: &str, status: Status, reason: &str) -> Result<Job, ConfigError> {
        for _ in 0..TRIES_MAX {
            let (job_at, mut job) = self.job(id).await?;
            if job.status.over() {
                return Err(ConfigError::State(format!("it is over already: {}", word(job.status))));
            }
            let (at, register) = self.register(&job.agent).await?;
            let Some(Moved { register, next }) = register.leave(id) else {
                let text = "the pointer has moved already: roll back to undo it".to_owned();
                return Err(ConfigError::State(text));
            };
            job.end(status, reason.to_owned(), self.now_ms());
            let puts = vec![put_job(job_at, &job)?, put_register(&job.agent, at, &register)?];
            let starts = next.iter().map(|next| start_of(next)).collect::<Result<Vec<_>, _>>()?;
            match self.client.advance(puts, starts).await {
                Ok(_) => {
                    self.stop_runs(id, reason).await;
                    return Ok(job);
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ConfigError::State("it went on each time: look at how it stands now".to_owned()))
    }

    /// Ends what works on a job that is over. Only so that it ends sooner: it can't move the pointer any more.
    async fn stop_runs(&self, id: &str, reason: &str) {
        let runs = self.client.live_runs(WORKFLOW, id).await.unwrap_or_default();
        for run in runs {
            if let Err(error) = self.client.cancel(run, reason).await {
                tracing::debug!(%run, %error, "a publish that is over ends by itself");
            }
        }
    }
}

type Refs = BTreeMap<String, crate::publish::bundle::BundleRef>;

/// The run of a job.
fn start_of(id: &str) -> Result<Start, mainspring_client::ClientError> {
    let input = json_of(&Input { publish_id: id.to_owned() })?;
    Ok(Start { workflow: WORKFLOW.to_owned(), key: Some(id.to_owned()), input, ..Start::default() })
}

pub(crate) fn word(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Running => "running",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Superseded => "superseded",
    }
}

fn check(asked: &Asked) -> Result<(), ConfigError> {
    if asked.description.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(ConfigError::unfit("description", format!("at most {TEXT_BYTES_MAX} bytes")));
    }
    let share = match &asked.action {
        Action::Publish { canary } => canary.as_ref(),
        Action::Canary { share, .. } => Some(share),
        Action::Rollback { .. } | Action::EndCanary | Action::Promote => None,
    };
    let Some(Share { percent, sessions }) = share else { return Ok(()) };
    if *percent > 100 {
        return Err(ConfigError::unfit("percent", "from 0 to 100"));
    }
    if *percent == 0 && sessions.is_empty() {
        return Err(ConfigError::unfit("percent", "nobody would get it: say more than 0, or list sessions"));
    }
    let bytes: usize = sessions.iter().map(String::len).sum();
    if sessions.len() > LISTED_MAX || bytes > LISTED_BYTES_MAX {
        let what = format!("at most {LISTED_MAX} session keys, with {LISTED_BYTES_MAX} bytes together");
        return Err(ConfigError::unfit("sessions", what));
    }
    Ok(())
}

/// What makes two requests the same.
fn fingerprint(asked: &Asked) -> Result<String, ConfigError> {
    #[derive(Serialize)]
    struct Same<'a>(&'a Action, &'a Option<String>, bool, Option<u64>);
    let same = Same(&asked.action, &asked.description, asked.force, asked.draft_version);
    Ok(digest_of(&json_of(&same)?)[7..39].to_owned())
}
