//! Giving up what nobody needs any more: versions that are neither new nor in use, and content that nothing refers to.
//!
//! A version is given up in one decision with the register, so a pointer that moves to it meanwhile makes that decision
//! stumble; a session's pin is looked for before. Should a session hold a version that is gone all the same, it moves on
//! with its next turn, and an event says so.

use std::collections::BTreeSet;
use std::time::Duration;

use mainspring_client::{ClientError, Failure, KeyRule, KeyStrategy, RetryRule, TaskContext, Worker, WorkflowDef};
use serde::{Deserialize, Serialize};

use super::bundle::{from_json, is_conflict};
use super::door::{ConfigError, Configs, put_manifest, put_register};
use super::job::{Job, Manifest};
use super::{DRAFT, Draft, PUBLISH, VERSION};

/// The workflow that gives up what an agent does not need.
pub const WORKFLOW: &str = "collect-config";
/// A version that was current until a moment ago is kept: a turn that began with it may not have said so yet.
const YOUNG: Duration = Duration::from_secs(60 * 60);
/// Content is kept for so long after its last use, in case a draft or a publish is about to refer to it.
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);
/// Versions given up in one decision.
const AT_ONCE: usize = 100;

/// What was given up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Versions, by number.
    pub versions: Vec<u64>,
    /// Versions that nobody but a session needs.
    pub pinned: Vec<u64>,
    /// How many pieces of content went.
    pub content: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Input {
    pub agent: String,
}

fn definition() -> WorkflowDef {
    let mut def = WorkflowDef::single(WORKFLOW, false);
    def.key = Some(KeyRule { runs_max: 1, strategy: KeyStrategy::Queue });
    def.tasks[0].retry = RetryRule { attempts_max: 5, backoff_ms: 1_000, backoff_percent: 300, backoff_max_ms: 60_000 };
    def
}

pub(super) fn offer(worker: Worker, configs: &Configs) -> Worker {
    let configs = configs.clone();
    worker.task(definition(), move |_: TaskContext, input: Input| {
        let configs = configs.clone();
        async move { configs.collect_now(&input.agent).await.map_err(Failure::retryable) }
    })
}

impl Configs {
    /// Gives up versions of an agent that nobody needs, and content of the tenant that nothing refers to. `young` is how
    /// long a version that was current is kept, `unused` how long content is kept after its last use.
    ///
    /// # Errors
    /// [`ConfigError`]; asking again goes on.
    pub async fn collect(&self, agent: &str, young: Duration, unused: Duration) -> Result<Collected, ConfigError> {
        let (versions, pinned) = self.give_up_versions(agent, young).await?;
        let used = self.referred_to().await?;
        let content = self.bundles().remove_unused(&used, ms(unused)).await?;
        Ok(Collected { versions, pinned, content })
    }

    /// As [`Configs::collect`], with the times every publish goes by.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub async fn collect_now(&self, agent: &str) -> Result<Collected, ConfigError> {
        self.collect(agent, YOUNG, UNUSED).await
    }

    async fn give_up_versions(&self, agent: &str, young: Duration) -> Result<(Vec<u64>, Vec<u64>), ConfigError> {
        let (at, mut register) = self.register(agent).await?;
        let now = self.now_ms();
        let manifests: Vec<Manifest> = self.manifests(agent).await?;
        let kept: Vec<u64> = manifests.iter().filter(|one| one.collected_at.is_none()).map(|one| one.version).collect();
        let candidates = register.given_up(&kept, now, ms(young));
        if candidates.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let pins = self.pins(agent, &register).await?;
        let holds = |version: &u64| pins.get(version).is_some_and(|pinned| pinned.holding > 0);
        let (pinned, mut gone): (Vec<u64>, Vec<u64>) = candidates.into_iter().partition(holds);
        gone.truncate(AT_ONCE);
        if gone.is_empty() {
            return Ok((Vec::new(), pinned));
        }
        let mut puts = Vec::new();
        for manifest in manifests.into_iter().filter(|one| gone.contains(&one.version)) {
            puts.push(put_manifest(agent, None, &Manifest { collected_at: Some(now), ..manifest })?);
        }
        register.collected_at = now;
        register.withdrawn.retain(|version| !gone.contains(version));
        puts.push(put_register(agent, at, &register)?);
        match self.client.advance(puts, Vec::new()).await {
            Ok(_) => {}
            // The pointer moved meanwhile: the next publish brings this about again.
            Err(error) if is_conflict(&error) => return Ok((Vec::new(), pinned)),
            Err(error) => return Err(error.into()),
        }
        if let Some(mirror) = &self.shared.mirror {
            for version in &gone {
                let (_, manifest) = self.manifest(agent, *version).await?;
                let kinds: Vec<String> = manifest.bundles.into_keys().collect();
                if let Err(error) = mirror.forget(self.client.tenant(), agent, *version, &kinds).await {
                    // It keeps more than it has to, which its own limits end.
                    tracing::warn!(agent, version, %error, "a version that was given up is still in the mirror");
                }
            }
        }
        Ok((gone, pinned))
    }

    /// The digests of all content that something of the tenant refers to.
    async fn referred_to(&self) -> Result<BTreeSet<String>, ClientError> {
        let mut used = BTreeSet::new();
        for (_, row) in self.client.documents(DRAFT, "").await? {
            let draft: Draft = from_json(&row.body)?;
            used.extend(draft.kinds.into_values().map(|one| one.content.digest));
        }
        for (_, row) in self.client.documents(VERSION, "").await? {
            let manifest: Manifest = from_json(&row.body)?;
            if manifest.collected_at.is_none() {
                used.extend(manifest.bundles.into_values().chain(manifest.sources.into_values()).map(|one| one.digest));
            }
        }
        for (_, row) in self.client.documents(PUBLISH, "").await? {
            let job: Job = from_json(&row.body)?;
            if !job.status.over() {
                used.extend(job.bundles.into_values().chain(job.sources.into_values()).map(|one| one.digest));
            }
        }
        Ok(used)
    }
}

fn ms(duration: Duration) -> u64 {
    crate::settings::millis(duration)
}
