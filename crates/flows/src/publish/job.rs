//! One publish, rollback, canary or promotion, as its document tells it: what is to be done, and how far it came.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bundle::BundleRef;
use super::check::Finding;

/// Bytes of a description or a reason.
pub const TEXT_BYTES_MAX: usize = 2_000;
/// Sessions a canary may list.
pub const LISTED_MAX: usize = 500;

/// What is to be done to an agent's pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Action {
    /// Makes a version of the draft. With a share it becomes the canary, otherwise the current one.
    Publish {
        /// Which sessions get it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        canary: Option<Share>,
    },
    /// Moves back to an earlier version.
    Rollback {
        /// Which.
        target_version: u64,
        /// Whether sessions stay with the version that is left. They move on otherwise: it is left because it is bad.
        #[serde(default)]
        keep_pinned: bool,
    },
    /// Gives a version to some sessions.
    Canary {
        /// Which.
        version: u64,
        /// Which sessions get it.
        share: Share,
    },
    /// Ends the canary: its sessions go back to the current version.
    EndCanary,
    /// Makes the canary the current version.
    Promote,
}

impl Action {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Action::Publish { .. } => "publish",
            Action::Rollback { .. } => "rollback",
            Action::Canary { .. } => "canary",
            Action::EndCanary => "end_canary",
            Action::Promote => "promote",
        }
    }
}

/// Which sessions get a canary: those listed, and a part of all others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Share {
    /// Percent of the sessions, by the hash of their key: 0 to 100.
    pub percent: u32,
    /// Session keys that get it in any case, also if they are pinned to another version.
    pub sessions: Vec<String>,
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for another of its agent.
    Pending,
    /// It is at work.
    Running,
    /// The pointer moved, and everybody was told.
    Completed,
    /// Nothing moved.
    Failed,
    /// Somebody stopped it before the pointer moved.
    Cancelled,
    /// A later one took its place before the pointer moved.
    Superseded,
}

impl Status {
    /// Whether nothing more will happen.
    pub fn over(self) -> bool {
        match self {
            Status::Pending | Status::Running => false,
            Status::Completed | Status::Failed | Status::Cancelled | Status::Superseded => true,
        }
    }
}

/// How a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// Its turn has not come.
    Pending,
    /// It is at work, or waits to try again.
    Running,
    /// It is done.
    Completed,
    /// It failed for good.
    Failed,
}

/// The stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// The request is on record, with the draft as it was.
    Accept,
    /// The draft is checked.
    Validate,
    /// Bundles are made of it.
    Compile,
    /// Whoever has to prepare something for it does so.
    Apply,
    /// The version's bundles are complete, in the tables and where else they are read.
    WriteBundles,
    /// The pointer moves.
    SwapPointer,
    /// What is kept in front of the tables learns of the pointer.
    InvalidateCache,
    /// Readers are told.
    Notify,
}

impl StageName {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            StageName::Accept => "accept",
            StageName::Validate => "validate",
            StageName::Compile => "compile",
            StageName::Apply => "apply",
            StageName::WriteBundles => "write_bundles",
            StageName::SwapPointer => "swap_pointer",
            StageName::InvalidateCache => "invalidate_cache",
            StageName::Notify => "notify",
        }
    }

    /// Those of an action: what makes no version has no use for the first half.
    pub fn of(action: &Action) -> Vec<StageName> {
        use StageName::{Accept, Apply, Compile, InvalidateCache, Notify, SwapPointer, Validate, WriteBundles};
        match action {
            Action::Publish { .. } => {
                vec![Accept, Validate, Compile, Apply, WriteBundles, SwapPointer, InvalidateCache, Notify]
            }
            Action::Rollback { .. } | Action::Canary { .. } | Action::Promote => {
                vec![Accept, WriteBundles, SwapPointer, InvalidateCache, Notify]
            }
            Action::EndCanary => vec![Accept, SwapPointer, InvalidateCache, Notify],
        }
    }
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Which.
    pub name: StageName,
    /// How it stands.
    pub status: StageStatus,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// How long it took, waits between tries included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Tries that failed.
    #[serde(default)]
    pub failed_tries: u32,
    /// What went wrong, lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What there was to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A publish, rollback, canary or promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// The agent.
    pub agent: String,
    /// What is to be done.
    pub action: Action,
    /// The version that is made or moved to.
    pub version: u64,
    /// The version that was current when it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_version: Option<u64>,
    /// How it stands.
    pub status: Status,
    /// Its stages.
    pub stages: Vec<Stage>,
    /// What is new, in words; of a rollback, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether sessions that are pinned to another version move on.
    #[serde(default)]
    pub force: bool,
    /// Who asked.
    pub by: String,
    /// When it was accepted.
    pub requested_at: u64,
    /// When it began to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// When it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<u64>,
    /// Why it did not come to a good end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is wrong with the draft.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// How many findings there were, where not all are listed.
    #[serde(default)]
    pub findings_total: usize,
    /// The draft as it was when this was accepted.
    #[serde(default)]
    pub sources: BTreeMap<String, BundleRef>,
    /// What was made of it.
    #[serde(default)]
    pub bundles: BTreeMap<String, BundleRef>,
    /// The pointer's epoch since this moved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// What makes a repeat of the request recognisable.
    pub fingerprint: String,
}

impl Job {
    /// `{tenant}:{agent}:v{version}`, for logs.
    pub fn correlation_id(&self, tenant: impl std::fmt::Display) -> String {
        format!("{tenant}:{}:v{}", self.agent, self.version)
    }

    /// Whether it has moved the pointer.
    pub fn swapped(&self) -> bool {
        self.epoch.is_some()
    }

    /// A stage of it.
    pub fn stage_mut(&mut self, name: StageName) -> Option<&mut Stage> {
        self.stages.iter_mut().find(|stage| stage.name == name)
    }

    /// The stages of an accepted request: the first is done.
    pub fn new_stages(action: &Action, now: u64) -> Vec<Stage> {
        let stage = |name| Stage {
            name,
            status: StageStatus::Pending,
            started_at: None,
            duration_ms: None,
            failed_tries: 0,
            error: None,
            note: None,
        };
        let mut stages: Vec<Stage> = StageName::of(action).into_iter().map(stage).collect();
        if let Some(first) = stages.first_mut() {
            (first.status, first.started_at, first.duration_ms) = (StageStatus::Completed, Some(now), Some(0));
        }
        stages
    }

    /// Comes to an end other than a good one.
    pub fn end(&mut self, status: Status, error: String, now: u64) {
        for stage in self.stages.iter_mut().filter(|stage| stage.status == StageStatus::Running) {
            stage.duration_ms = Some(now.saturating_sub(stage.started_at.unwrap_or(now)));
            stage.status = StageStatus::Failed;
            stage.error.get_or_insert_with(|| error.clone());
        }
        (self.status, self.error, self.completed_at) = (status, Some(error), Some(now));
    }
}

/// A version that was made, as its document tells it. It is written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version.
    pub version: u64,
    /// The digest of all its bundles together: of the JSON object of their digests by kind.
    pub digest: String,
    /// Its bundles by kind.
    pub bundles: BTreeMap<String, BundleRef>,
    /// The draft they were made of.
    pub sources: BTreeMap<String, BundleRef>,
    /// Which publish made it.
    pub publish_id: String,
    /// Who asked for it.
    pub by: String,
    /// What is new, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When it was complete.
    pub at: u64,
    /// When its bundles were given up. It can't be moved to any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected_at: Option<u64>,
}

impl Manifest {
    /// The digest of bundles together.
    pub fn digest_of(bundles: &BTreeMap<String, BundleRef>) -> String {
        let digests: BTreeMap<&String, &String> = bundles.iter().map(|(kind, one)| (kind, &one.digest)).collect();
        super::bundle::digest_of(&serde_json::to_vec(&digests).unwrap_or_default())
    }
}
