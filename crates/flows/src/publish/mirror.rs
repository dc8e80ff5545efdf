//! Where a configuration is read besides the tables: a cache that many processes share, say. It is told what the log has
//! decided, at least once each time, and can be made anew from the tables at any time.

use bytes::Bytes;
use mainspring_client::{Client, TenantId};
use serde::{Deserialize, Serialize};

use super::bundle::{BundleError, Bundles};
use super::door::Configs;
use super::register::Register;
use crate::outside::Calling;

/// What a mirror can't do at the moment. It is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MirrorError(pub String);

/// A bundle as a mirror is given it.
#[derive(Debug, Clone)]
pub struct MirrorBundle {
    /// Whose.
    pub tenant: TenantId,
    /// Which agent's.
    pub agent: String,
    /// The version.
    pub version: u64,
    /// The kind.
    pub kind: String,
    /// `sha256:` and the digest of the content.
    pub digest: String,
    /// The content, uncompressed.
    pub content: Bytes,
}

/// A pointer as a mirror is given it. One of a lower epoch than the mirror has comes late, and changes nothing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorPointer {
    /// Whose.
    pub tenant: TenantId,
    /// Which agent's.
    pub agent: String,
    /// The current version.
    pub version: u64,
    /// Counts the moves.
    pub epoch: u64,
}

/// That the pointer, or the canary, has moved. The event `config.updated` says the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Updated {
    /// Whose.
    pub tenant_id: String,
    /// Which agent's.
    pub agent_id: String,
    /// The current version.
    pub version: u64,
    /// Counts the moves.
    pub epoch: u64,
    /// What was done: `publish`, `rollback`, `canary`, `end_canary` or `promote`.
    pub action: String,
    /// The version some sessions get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_version: Option<u64>,
    /// Which job did it.
    pub publish_id: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a configuration is read besides the tables. Each call may come twice, and late.
pub trait Mirror: Send + Sync {
    /// Whether it fetches by itself, later, what it can't take now. Then a publish does not wait for it: it goes on and says
    /// so. Such a mirror must see to it that its pointer never names a version whose bundles it has not got.
    fn catches_up(&self) -> bool {
        false
    }

    /// Keeps a bundle. It never changes: the same again is the same.
    fn put<'a>(&'a self, bundle: &'a MirrorBundle) -> Calling<'a, Result<(), MirrorError>>;

    /// Moves the pointer, unless the mirror's has a higher epoch.
    fn point<'a>(&'a self, pointer: &'a MirrorPointer) -> Calling<'a, Result<(), MirrorError>>;

    /// Tells whoever listens. It may be lost on the way to them.
    fn notify<'a>(&'a self, updated: &'a Updated) -> Calling<'a, Result<(), MirrorError>>;

    /// Forgets the bundles of a version that was given up.
    fn forget<'a>(
        &'a self,
        tenant: TenantId,
        agent: &'a str,
        version: u64,
        kinds: &'a [String],
    ) -> Calling<'a, Result<(), MirrorError>>;
}

/// A mirror that can't be made anew.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The tables.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The mirror.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

impl From<mainspring_client::ClientError> for RebuildError {
    fn from(error: mainspring_client::ClientError) -> Self {
        RebuildError::Bundle(error.into())
    }
}

/// Gives a mirror everything of a tenant that the tables have: the bundles of all versions that are kept, then the
/// pointers. Answers how many bundles there were. It may be done again at any time.
///
/// # Errors
/// [`RebuildError`]: what was given so far is right, and giving it again does no harm.
pub async fn rebuild(client: &Client, mirror: &dyn Mirror) -> Result<usize, RebuildError> {
    let configs = Configs::reading(client.clone());
    let mut given = 0;
    for (agent, _) in configs.registers().await? {
        for manifest in configs.manifests(&agent).await?.into_iter().filter(|one| one.collected_at.is_none()) {
            given +=
                put_all(&Bundles::new(client.clone()), mirror, &agent, manifest.version, &manifest.bundles).await?;
        }
        // Read after the bundles: what it points to is there.
        let (_, register) = configs.register(&agent).await?;
        if let Some(pointer) = pointer_of(client.tenant(), &agent, &register) {
            mirror.point(&pointer).await?;
        }
    }
    Ok(given)
}

impl Configs {
    /// Gives the mirror everything of the tenant anew, as [`rebuild`] does. Answers how many bundles there were and how many
    /// agents have a pointer, or `None` if there is no mirror.
    ///
    /// # Errors
    /// [`RebuildError`]: what was given so far is right, and giving it again does no harm.
    pub async fn rebuild_mirror(&self) -> Result<Option<(usize, usize)>, RebuildError> {
        let Some(mirror) = &self.shared.mirror else { return Ok(None) };
        let bundles = rebuild(&self.client, &**mirror).await?;
        let agents = self.registers().await?.iter().filter(|(_, register)| register.pointer.is_some()).count();
        Ok(Some((bundles, agents)))
    }
}

/// Gives a mirror the bundles of a version.
pub(crate) async fn put_all(
    bundles: &Bundles,
    mirror: &dyn Mirror,
    agent: &str,
    version: u64,
    all: &std::collections::BTreeMap<String, super::bundle::BundleRef>,
) -> Result<usize, RebuildError> {
    for (kind, one) in all {
        let content = bundles.get(&one.digest).await?.ok_or_else(|| BundleError::Damaged {
            digest: one.digest.clone(),
            cause: "nothing of it is there".to_owned(),
        })?;
        let bundle = MirrorBundle {
            tenant: bundles.client().tenant(),
            agent: agent.to_owned(),
            version,
            kind: kind.clone(),
            digest: one.digest.clone(),
            content,
        };
        mirror.put(&bundle).await?;
    }
    Ok(all.len())
}

/// An agent's pointer, for a mirror.
pub(crate) fn pointer_of(tenant: TenantId, agent: &str, register: &Register) -> Option<MirrorPointer> {
    let pointer = register.pointer.as_ref()?;
    Some(MirrorPointer { tenant, agent: agent.to_owned(), version: pointer.version, epoch: pointer.epoch })
}
