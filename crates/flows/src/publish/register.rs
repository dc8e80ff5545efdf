//! An agent's register: which version is current, and who may move the pointer next. Every decision about it is made here,
//! by pure functions; whoever carries one out writes the register with an optimistic check, together with everything
//! that belongs to it. So a version number is given out once, a pointer moves once per publish, and one that was
//! overtaken finds that it is not in the line any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::job::{Action, Job, Share};

/// Jobs of one agent that wait, the one at work included.
const LINE_MAX: usize = 50;
/// Versions remembered that were current lately.
const PAST_MAX: usize = 20;

/// What becomes of a publish while another of the agent has not moved the pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// It is refused.
    #[default]
    Refuse,
    /// It waits.
    Queue,
    /// It takes the other's place.
    LatestWins,
}

/// The rules of an agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// What becomes of a second publish.
    pub concurrency: Concurrency,
    /// Whether sessions stay with the version they began with. Otherwise each turn takes the newest.
    pub soft_pin: bool,
    /// A session that was silent for so long moves on with its next turn.
    pub idle_move_ms: u64,
    /// Versions that are kept in any case, the newest.
    pub keep_versions: u32,
}

impl Default for Rules {
    /// A day of silence is another conversation; ten versions back is further than anybody rolls back in a hurry.
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
        Rules { concurrency: Concurrency::Refuse, soft_pin: true, idle_move_ms: DAY_MS, keep_versions: 10 }
    }
}

/// Which version is current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The version.
    pub version: u64,
    /// The digest of its bundles together.
    pub digest: String,
    /// Counts the moves. It never goes back, also when the version does.
    pub epoch: u64,
    /// When it moved.
    pub at: u64,
    /// Which job moved it.
    pub publish_id: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A version that some sessions get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The version.
    pub version: u64,
    /// The digest of its bundles together.
    pub digest: String,
    /// Which sessions.
    pub share: Share,
    /// Since when.
    pub at: u64,
}

/// A place in the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whose.
    pub publish_id: String,
    /// Its version.
    pub version: u64,
}

/// A version that was current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The version.
    pub version: u64,
    /// Until when.
    pub until: u64,
}

/// An agent's register.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Register {
    /// The highest version number that was ever given out.
    pub latest: u64,
    /// The epoch of the last move of pointer or canary.
    pub epoch: u64,
    /// The current version.
    pub pointer: Option<Pointer>,
    /// The version that some sessions get.
    pub canary: Option<Canary>,
    /// Jobs that have not moved the pointer. The first is at work, and alone may move it.
    pub line: Vec<Place>,
    /// Versions that were current lately, the latest first.
    pub past: Vec<Past>,
    /// Versions that were left because they are bad: their sessions move on.
    pub withdrawn: BTreeSet<u64>,
    /// Sessions pinned before this epoch move on.
    pub forced_epoch: u64,
    /// The latest jobs, the latest first.
    pub recent: Vec<String>,
    /// The rules.
    pub rules: Rules,
    /// When versions were last given up.
    pub collected_at: u64,
}

/// A job that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Another is under way.
    #[error("publish {publish_id} of version {version} is under way")]
    InProgress {
        /// Which.
        publish_id: String,
        /// Its version.
        version: u64,
    },
    /// Too many wait.
    #[error("{LINE_MAX} jobs of this agent wait already")]
    LineFull,
    /// It can't be done as things stand.
    #[error("{0}")]
    Impossible(String),
}

/// A job taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The register with it.
    pub register: Register,
    /// The version it makes or moves to.
    pub version: u64,
    /// Whether it waits for others.
    pub waits: bool,
    /// Those whose place it took.
    pub superseded: Vec<String>,
}

/// A job that left the line, or moved the pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The register without it.
    pub register: Register,
    /// The one that begins to work now.
    pub next: Option<String>,
}

/// Why a pointer does not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotMoved {
    /// The job is not in the line any more: it was cancelled, or another took its place.
    Overtaken,
    /// It can't be done as things stand now.
    Impossible(String),
}

impl Register {
    /// The version new sessions get, canary aside.
    pub fn current(&self) -> Option<u64> {
        self.pointer.as_ref().map(|pointer| pointer.version)
    }

    /// Takes a job into the line, as the rules have it. A publish gets the next version number, and nobody else ever will.
    ///
    /// # Errors
    /// [`NotTaken`] says what is in the way.
    pub fn take(&self, publish_id: &str, action: &Action) -> Result<Taken, NotTaken> {
        let version = match action {
            Action::Publish { .. } => self.latest + 1,
            other => self.target_of(other).map_err(NotTaken::Impossible)?,
        };
        let mut register = self.clone();
        let mut superseded = Vec::new();
        if let Some(first) = self.line.first() {
            match self.rules.concurrency {
                Concurrency::Refuse => {
                    let Place { publish_id, version } = first.clone();
                    return Err(NotTaken::InProgress { publish_id, version });
                }
                Concurrency::Queue if self.line.len() >= LINE_MAX => return Err(NotTaken::LineFull),
                Concurrency::Queue => {}
                Concurrency::LatestWins => {
                    superseded = register.line.drain(..).map(|place| place.publish_id).collect();
                }
            }
        }
        register.latest = register.latest.max(version);
        let waits = !register.line.is_empty();
        register.line.push(Place { publish_id: publish_id.to_owned(), version });
        Ok(Taken { register, version, waits, superseded })
    }

    /// The version an action moves to that makes none.
    fn target_of(&self, action: &Action) -> Result<u64, String> {
        let nothing = || "nothing was published for this agent yet".to_owned();
        let current = self.current();
        match action {
            Action::Publish { .. } => Err("a publish makes its version".to_owned()),
            Action::Rollback { target_version, .. } => match current {
                None => Err(nothing()),
                Some(current) if *target_version >= current => Err(format!(
                    "version {target_version} is not before the current one, {current}: a rollback goes back; to go on, publish or promote"
                )),
                Some(_) => Ok(*target_version),
            },
            Action::Canary { version, .. } => match current {
                None => Err(nothing()),
                Some(current) if current == *version => Err(format!("version {version} is the current one already")),
                Some(_) => Ok(*version),
            },
            Action::EndCanary => match (&self.canary, current) {
                (Some(_), Some(current)) => Ok(current),
                _ => Err("there is no canary".to_owned()),
            },
            Action::Promote => {
                self.canary.as_ref().map(|canary| canary.version).ok_or_else(|| "there is no canary".to_owned())
            }
        }
    }

    /// Without a job that comes to another end than a good one. `None` if it is not in the line.
    pub fn leave(&self, publish_id: &str) -> Option<Moved> {
        let place = self.line.iter().position(|place| place.publish_id == publish_id)?;
        let mut register = self.clone();
        register.line.remove(place);
        // Only whoever was at work had somebody waiting for it.
        let next = register.line.first().filter(|_| place == 0).map(|place| place.publish_id.clone());
        Some(Moved { register, next })
    }

    /// Moves the pointer as a job asks, once: the job leaves the line with it. `digest` is that of its version's bundles.
    ///
    /// # Errors
    /// [`NotMoved`] says why nothing moves.
    pub fn swap(&self, job: &Job, digest: &str, now: u64) -> Result<Moved, NotMoved> {
        if self.line.first().is_none_or(|first| first.publish_id != job.id) {
            return Err(NotMoved::Overtaken);
        }
        let Some(Moved { mut register, next }) = self.leave(&job.id) else { return Err(NotMoved::Overtaken) };
        register.epoch += 1;
        let canary =
            |share: &Share| Canary { version: job.version, digest: digest.to_owned(), share: share.clone(), at: now };
        match &job.action {
            Action::Publish { canary: Some(share) } if self.pointer.is_some() => register.canary = Some(canary(share)),
            Action::Publish { .. } => register.point(job, digest, now),
            Action::Rollback { target_version, keep_pinned } => {
                let current = self.current().filter(|current| current > target_version);
                let Some(current) = current else {
                    let text = format!("version {target_version} is not before the current one any more");
                    return Err(NotMoved::Impossible(text));
                };
                if !keep_pinned {
                    register.withdrawn.insert(current);
                    // What is newer than where we go back to is not to be got by another way.
                    if let Some(canary) = register.canary.take() {
                        register.withdrawn.insert(canary.version);
                    }
                }
                register.point(job, digest, now);
            }
            Action::Canary { version, share } => {
                if self.current() == Some(*version) {
                    return Err(NotMoved::Impossible(format!("version {version} is the current one by now")));
                }
                register.withdrawn.remove(version);
                register.canary = Some(canary(share));
            }
            Action::EndCanary => match register.canary.take() {
                Some(canary) => drop(register.withdrawn.insert(canary.version)),
                None => return Err(NotMoved::Impossible("there is no canary any more".to_owned())),
            },
            Action::Promote => {
                if register.canary.take().is_none_or(|canary| canary.version != job.version) {
                    return Err(NotMoved::Impossible(format!("version {} is not the canary any more", job.version)));
                }
                register.point(job, digest, now);
            }
        }
        if job.force {
            register.forced_epoch = register.epoch;
        }
        Ok(Moved { register, next })
    }

    fn point(&mut self, job: &Job, digest: &str, now: u64) {
        if let Some(before) = self.pointer.take() {
            self.past.retain(|past| past.version != before.version);
            self.past.insert(0, Past { version: before.version, until: now });
            self.past.truncate(PAST_MAX);
        }
        self.withdrawn.remove(&job.version);
        if self.canary.as_ref().is_some_and(|canary| canary.version == job.version) {
            self.canary = None;
        }
        self.pointer = Some(Pointer {
            version: job.version,
            digest: digest.to_owned(),
            epoch: self.epoch,
            at: now,
            publish_id: job.id.clone(),
            reason: job.description.clone(),
        });
    }

    /// Which of these versions can be given up: neither the newest, nor current, canary, in the line or current a moment
    /// ago. Whether a session is pinned to one is for others to find out.
    pub fn given_up(&self, versions: &[u64], now: u64, young_ms: u64) -> Vec<u64> {
        let mut newest = versions.to_vec();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.truncate(self.rules.keep_versions.max(1) as usize);
        let kept = |version: u64| {
            newest.contains(&version)
                || self.current() == Some(version)
                || self.canary.as_ref().is_some_and(|canary| canary.version == version)
                || self.line.iter().any(|place| place.version == version)
                || self.past.iter().any(|past| past.version == version && now.saturating_sub(past.until) < young_ms)
        };
        versions.iter().copied().filter(|version| !kept(*version)).collect()
    }
}

#[cfg(test)]
mod tests;
