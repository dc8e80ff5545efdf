//! An agent's configuration, as whoever looks at it or changes it sees it: the draft, versions, the pointer, publishes.
//!
//! Everything is a document. What depends on another document is written with it in one decision ([`request`]).

mod draft;
mod request;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mainspring_client::{Client, ClientError, DocumentKey, PutDocument};
use serde_json::Value;

use super::bundle::{BundleError, BundleRef, Bundles, apart, from_json, json_of};
use super::diff::{KindDiff, of_kind};
use super::job::{Job, Manifest};
use super::mirror::Mirror;
use super::pin::{self, Of};
use super::register::Register;
use super::{PUBLISH, REGISTER, VERSION};
use crate::egress::{Egress, HttpEgress};
use crate::records::{SESSION, SessionRecord};
use crate::tools::Secrets;

pub(crate) use draft::check_kind;
pub use draft::{Draft, Drafted, KINDS_MAX};
pub use request::{Asked, PUBLISHES_KEPT_MS};
pub use settings::{Hook, Settings};

/// Versions listed at once.
pub const VERSIONS_MAX: usize = 200;
/// Sessions read at once while they are counted.
const SESSIONS_PAGE: usize = 1_000;

/// What publishes of all tenants share.
#[derive(Clone, Default)]
pub struct Shared {
    /// Calls endpoints of tenants. `None` where nothing may be called.
    pub egress: Option<Arc<dyn Egress>>,
    /// What such calls are signed with.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// Where configurations are read besides the tables.
    pub mirror: Option<Arc<dyn Mirror>>,
}

impl Shared {
    /// Calls by this, signs with these, and mirrors nowhere.
    pub fn new(egress: HttpEgress, secrets: Arc<dyn Secrets>) -> Self {
        Shared { egress: Some(Arc::new(egress)), secrets: Some(secrets), mirror: None }
    }
}

/// What can't be done with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Another publish of the agent is under way.
    #[error(
        "publish {publish_id} of version {version} is under way: wait for its end, or cancel it; `concurrency` in the agent's settings makes later ones wait or win"
    )]
    InProgress {
        /// Which.
        publish_id: String,
        /// Its version.
        version: u64,
    },
    /// It does not stand so that this can be done.
    #[error("{0}")]
    State(String),
    /// Something in the request can't be taken.
    #[error("{field}: {what}")]
    Unfit {
        /// Which member.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// A text that is no JSON.
    #[error("{kind} is no JSON: {cause}, line {line}")]
    Malformed {
        /// Of which kind.
        kind: String,
        /// In which line.
        line: usize,
        /// What serde said.
        cause: String,
    },
    /// The draft was changed meanwhile.
    #[error("the draft has version {found}, not {expected}: read it again, then decide anew")]
    DraftChanged {
        /// What it has.
        found: u64,
        /// What was said.
        expected: u64,
    },
    /// The same key came with another request.
    #[error("this idempotency key belongs to publish {0}, which was another request: use a new key")]
    KeyReused(String),
    /// Content.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl From<ClientError> for ConfigError {
    fn from(error: ClientError) -> Self {
        ConfigError::Bundle(error.into())
    }
}

impl ConfigError {
    pub(crate) fn unfit(field: impl Into<String>, what: impl Into<String>) -> Self {
        ConfigError::Unfit { field: field.into(), what: what.into() }
    }
}

/// How many sessions go by a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pinned {
    /// Those whose next turn stays with it, if it comes now.
    pub holding: u64,
    /// Those whose next turn moves on.
    pub leaving: u64,
}

/// The configurations of one tenant's agents. Cheap to clone.
#[derive(Clone)]
pub struct Configs {
    pub(crate) client: Client,
    pub(crate) shared: Shared,
}

impl Configs {
    /// The configurations of a client's tenant.
    pub fn new(client: Client, shared: Shared) -> Self {
        Configs { client, shared }
    }

    /// The same, for reading alone.
    pub fn reading(client: Client) -> Self {
        Configs::new(client, Shared::default())
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Content by its digest.
    pub fn bundles(&self) -> Bundles {
        Bundles::new(self.client.clone())
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.client.engine().world().now_ms()
    }

    /// An agent's register with its document's version. One nobody has written is an empty one of version 0.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn register(&self, agent: &str) -> Result<(u64, Register), ClientError> {
        match self.client.document(DocumentKey::new(REGISTER, agent)).await? {
            Some(row) => Ok((row.version, from_json(&row.body)?)),
            None => Ok((0, Register::default())),
        }
    }

    /// The registers of all agents.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn registers(&self) -> Result<Vec<(String, Register)>, ClientError> {
        let rows = self.client.documents(REGISTER, "").await?;
        rows.into_iter().map(|(key, row)| Ok((key.name, from_json(&row.body)?))).collect()
    }

    /// A publish, rollback, canary or promotion, with its document's version.
    ///
    /// # Errors
    /// [`ConfigError::NotFound`].
    pub async fn job(&self, id: &str) -> Result<(u64, Job), ConfigError> {
        let row = self.client.document(DocumentKey::new(PUBLISH, id)).await?;
        let row = row.ok_or(ConfigError::NotFound("publish"))?;
        Ok((row.version, from_json(&row.body)?))
    }

    /// The latest publishes of an agent that are remembered, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn jobs(&self, agent: &str) -> Result<Vec<Job>, ClientError> {
        let (_, register) = self.register(agent).await?;
        let mut jobs = Vec::new();
        for id in &register.recent {
            if let Some(row) = self.client.document(DocumentKey::new(PUBLISH, id)).await? {
                jobs.push(from_json(&row.body)?);
            }
        }
        Ok(jobs)
    }

    /// A version, with its document's version.
    ///
    /// # Errors
    /// [`ConfigError::NotFound`].
    pub async fn manifest(&self, agent: &str, version: u64) -> Result<(u64, Manifest), ConfigError> {
        let row = self.client.document(DocumentKey::new(VERSION, version_name(agent, version))).await?;
        let row = row.ok_or(ConfigError::NotFound("version"))?;
        Ok((row.version, from_json(&row.body)?))
    }

    /// The versions that are remembered, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn manifests(&self, agent: &str) -> Result<Vec<Manifest>, ClientError> {
        let rows = self.client.documents(VERSION, &format!("{agent}/")).await?;
        rows.into_iter().map(|(_, row)| from_json(&row.body)).collect()
    }

    /// Which bundle a version has of a kind.
    ///
    /// # Errors
    /// [`ConfigError::NotFound`]; [`ConfigError::State`] if the version was given up.
    pub async fn bundle_of(&self, agent: &str, version: u64, kind: &str) -> Result<BundleRef, ConfigError> {
        let (_, manifest) = self.manifest(agent, version).await?;
        if manifest.collected_at.is_some() {
            let text = format!("version {version} was given up: it was neither among the newest nor in use");
            return Err(ConfigError::State(text));
        }
        manifest.bundles.get(kind).cloned().ok_or(ConfigError::NotFound("kind in this version"))
    }

    /// What is different between two versions, by kind. Kinds without a difference are left out.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub async fn diff(&self, agent: &str, from: u64, to: u64) -> Result<BTreeMap<String, KindDiff>, ConfigError> {
        let (before, after) = (self.manifest(agent, from).await?.1, self.manifest(agent, to).await?.1);
        let kinds = before.bundles.keys().chain(after.bundles.keys()).cloned();
        let mut diffs = BTreeMap::new();
        for kind in kinds.collect::<std::collections::BTreeSet<String>>() {
            let (old, new) = (before.bundles.get(&kind), after.bundles.get(&kind));
            if old.map(|one| &one.digest) == new.map(|one| &one.digest) {
                continue;
            }
            let (old, new) = (self.content(old).await?, self.content(new).await?);
            let diff = apart(move || {
                let read =
                    |content: Option<Bytes>| content.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
                of_kind(read(old).as_ref(), read(new).as_ref())
            });
            diffs.insert(kind, diff.await);
        }
        Ok(diffs)
    }

    async fn content(&self, bundle: Option<&BundleRef>) -> Result<Option<Bytes>, ConfigError> {
        let Some(bundle) = bundle else { return Ok(None) };
        let content = self.bundles().get(&bundle.digest).await?;
        content.map(Some).ok_or_else(|| ConfigError::State("one of the versions was given up".to_owned()))
    }

    /// How many sessions go by each version. Reads every session of the agent.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pins(&self, agent: &str, register: &Register) -> Result<BTreeMap<u64, Pinned>, ClientError> {
        // Listings may lag, and a pin that is not seen would be taken for none.
        let (engine, tenant, now) = (self.client.engine(), self.client.tenant(), self.now_ms());
        engine.wait_applied(tenant, engine.durable_position(tenant), std::time::Duration::from_secs(60)).await;
        let (prefix, mut after, mut pins) = (format!("{tenant}:{agent}:"), None::<String>, BTreeMap::new());
        loop {
            let page = self.client.documents_after(SESSION, &prefix, after.as_deref(), SESSIONS_PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(pins) };
            after = Some(last.name.clone());
            for (key, row) in page {
                let Ok(record) = serde_json::from_slice::<SessionRecord>(&row.body) else { continue };
                let Some(pin) = &record.config else { continue };
                let of = Of {
                    session: &key.name,
                    pin: Some(pin),
                    there: true,
                    last_active_at: row.updated_at,
                    released: record.config_released,
                };
                let counted: &mut Pinned = pins.entry(pin.version).or_default();
                if pin::holds(register, of, now) {
                    counted.holding += 1;
                } else {
                    counted.leaving += 1;
                }
            }
        }
    }
}

/// The name of a version's document: in the order of versions.
pub(crate) fn version_name(agent: &str, version: u64) -> String {
    format!("{agent}/{version:010}")
}

/// The document that keeps a register.
pub(crate) fn put_register(agent: &str, expect: u64, register: &Register) -> Result<PutDocument, ClientError> {
    Ok(PutDocument {
        key: DocumentKey::new(REGISTER, agent),
        expect: Some(expect),
        body: json_of(register)?,
        ttl_ms: None,
        history: 0,
    })
}

/// The document that keeps a job. One that is over is forgotten after a while.
pub(crate) fn put_job(expect: u64, job: &Job) -> Result<PutDocument, ClientError> {
    Ok(PutDocument {
        key: DocumentKey::new(PUBLISH, job.id.as_str()),
        expect: Some(expect),
        body: json_of(job)?,
        ttl_ms: job.status.over().then_some(PUBLISHES_KEPT_MS),
        history: 0,
    })
}

/// The document that keeps a version.
pub(crate) fn put_manifest(agent: &str, expect: Option<u64>, manifest: &Manifest) -> Result<PutDocument, ClientError> {
    Ok(PutDocument {
        key: DocumentKey::new(VERSION, version_name(agent, manifest.version)),
        expect,
        body: json_of(manifest)?,
        ttl_ms: None,
        history: 0,
    })
}
