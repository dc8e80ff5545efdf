//! Published configurations in Redis, for readers outside: bundles, a pointer, and word that it moved.
//!
//! The log decides, and this follows. Before the pointer moves in the log its bundles are here; afterwards the pointer moves
//! here, by a script that never goes back to a lower epoch, and then `cfg-updated` is told. If Redis is away meanwhile,
//! nobody waits: [`RedisMirror::keep`] looks at each new connection and every so often whether Redis has what the tables
//! have, and brings it there, the bundles always before the pointer. Our own turns read nothing of this.
//!
//! What this module does not know: how a publish goes.

mod keep;
mod keys;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mainspring_client::{Client, TenantId};
use mainspring_flows::publish::bundle::BundleError;
use mainspring_flows::publish::mirror::RebuildError;
use mainspring_flows::publish::{ConfigError, Configs, Manifest, Mirror, MirrorBundle, MirrorError, MirrorPointer};
use mainspring_flows::publish::{Register, Updated};
use redis::Cmd;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::link::Redis;
use crate::trouble::Trouble;
use keys::{About, Keys, SWAP};

pub use keys::UPDATED_CHANNEL;

/// How configurations are kept in Redis.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// Whether bundles are there as gzip. Each says for itself which it is.
    pub compress: bool,
    /// How long keys live that nobody renews. A server that runs renews them, so they end with the last that did.
    pub ttl: Duration,
    /// How often pointers are compared with the log.
    pub look_every: Duration,
    /// How often all bundles are looked at as well, and their lives renewed.
    pub look_at_all_every: Duration,
}

impl Default for MirrorOptions {
    /// A month outlives any outage; a key that is evicted or removed is back after ten minutes, a pointer after seconds.
    fn default() -> Self {
        MirrorOptions {
            compress: false,
            ttl: Duration::from_secs(30 * 24 * 60 * 60),
            look_every: Duration::from_secs(5),
            look_at_all_every: Duration::from_secs(10 * 60),
        }
    }
}

/// A tenant whose configurations can't be in Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "configurations of tenant {0:?} can't be in Redis, because its name has one of : {{ }} and would be read as another's: rename it, or set redis.mirror.enabled = false"
)]
pub struct BadTenant(pub String);

/// Published configurations in Redis. Cheap to clone.
#[derive(Clone)]
pub struct RedisMirror {
    inner: Arc<Inner>,
}

struct Inner {
    redis: Redis,
    tenants: BTreeMap<TenantId, Tenant>,
    options: MirrorOptions,
    /// Something could not be given.
    wake: Notify,
    /// Why Redis has not what the log has.
    behind: Mutex<Option<String>>,
    /// Whether everything was compared once.
    compared: AtomicBool,
}

struct Tenant {
    /// As keys have it.
    name: String,
    configs: Configs,
}

/// How much of an agent's configuration is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// What the pointer names.
    Current,
    /// All versions that are kept; and their lives are renewed.
    All,
}

fn away(trouble: &Trouble) -> RebuildError {
    RebuildError::Mirror(MirrorError(trouble.to_string()))
}

fn as_text(error: RebuildError) -> MirrorError {
    match error {
        RebuildError::Mirror(error) => error,
        RebuildError::Bundle(error) => MirrorError(error.to_string()),
    }
}

fn of_tables(error: ConfigError) -> RebuildError {
    match error {
        ConfigError::Bundle(error) => RebuildError::Bundle(error),
        other => RebuildError::Mirror(MirrorError(other.to_string())),
    }
}

fn command(words: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    for word in words {
        cmd.arg(*word);
    }
    cmd
}

impl RedisMirror {
    /// A mirror in this Redis, of these tenants: the names that keys have, and clients to read the tables with.
    ///
    /// # Errors
    /// [`BadTenant`] names one whose keys would be another's.
    pub fn new(
        redis: Redis,
        tenants: impl IntoIterator<Item = (String, Client)>,
        options: MirrorOptions,
    ) -> Result<Self, BadTenant> {
        let mut all = BTreeMap::new();
        for (name, client) in tenants {
            if name.is_empty() || name.contains([':', '{', '}']) {
                return Err(BadTenant(name));
            }
            all.insert(client.tenant(), Tenant { name, configs: Configs::reading(client) });
        }
        let inner = Inner {
            redis,
            tenants: all,
            options,
            wake: Notify::new(),
            behind: Mutex::default(),
            compared: AtomicBool::new(false),
        };
        Ok(RedisMirror { inner: Arc::new(inner) })
    }

    /// Whether everything was compared, and Redis has it as far as was seen.
    pub fn is_whole(&self) -> bool {
        self.inner.compared.load(Ordering::Acquire) && self.behind().is_none()
    }

    /// Why Redis has not what the log has. `None` if nothing of that kind was seen.
    pub fn behind(&self) -> Option<String> {
        self.inner.behind.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves a pointer in Redis, unless one of a higher epoch is there: then it answers `false`, and that one stays. The
    /// bundles must be there. May be lost with Redis.
    ///
    /// # Errors
    /// [`MirrorError`] says what is wrong with Redis; whether the pointer has moved is not known then.
    pub async fn swap(&self, pointer: &MirrorPointer) -> Result<bool, MirrorError> {
        let tenant = self.tenant(pointer.tenant)?;
        self.move_pointer(tenant, &pointer.agent, pointer.version, pointer.epoch, None, "")
            .await
            .map_err(|trouble| MirrorError(trouble.to_string()))
    }

    fn tenant(&self, id: TenantId) -> Result<&Tenant, MirrorError> {
        let found = self.inner.tenants.get(&id);
        found.ok_or_else(|| MirrorError("this tenant is not one of those in Redis".to_owned()))
    }

    fn ttl(&self) -> String {
        self.inner.options.ttl.as_millis().to_string()
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T, RebuildError> {
        self.inner.redis.ask(command(words)).await.map_err(|trouble| away(&trouble))
    }

    async fn move_pointer(
        &self,
        tenant: &Tenant,
        agent: &str,
        version: u64,
        epoch: u64,
        over: Option<&str>,
        told: &str,
    ) -> Result<bool, Trouble> {
        let at = Keys { tenant: &tenant.name, agent };
        let mut call = SWAP.prepare_invoke();
        call.key(at.pointer()).key(at.epoch());
        call.arg(version).arg(epoch).arg(over.unwrap_or_default()).arg(self.ttl()).arg(UPDATED_CHANNEL).arg(told);
        self.inner.redis.run::<u8>(&call).await.map(|moved| moved == 1)
    }

    /// What Redis has of a pointer: the version and the epoch, as they are written there.
    async fn held(&self, at: &Keys<'_>) -> Result<(Option<String>, Option<String>), RebuildError> {
        self.ask(&["MGET", &at.pointer(), &at.epoch()]).await
    }

    /// Sees to it that Redis has what the log has of an agent: first the bundles, then the pointer. Those who listen are
    /// told of a pointer that moves here, if `tells`.
    async fn bring(&self, tenant: &Tenant, agent: &str, depth: Depth, tells: bool) -> Result<(), RebuildError> {
        let at = Keys { tenant: &tenant.name, agent };
        // Redis is read first. What it has was decided before that, so the register, which is read next, can't be older
        // than it: a higher epoch in Redis is of another log (a directory that is not there any more, a backup), and is
        // written over. One that gets there after it was read is a newer decision, and stays.
        let (_, held) = self.held(&at).await?;
        let (_, register) = tenant.configs.register(agent).await?;
        let Some(pointer) = &register.pointer else { return Ok(()) };
        let over = held.filter(|held| held.parse::<u64>().is_ok_and(|held| held > pointer.epoch));
        match depth {
            Depth::Current => {
                let (_, manifest) = tenant.configs.manifest(agent, pointer.version).await.map_err(of_tables)?;
                self.ensure(tenant, agent, &manifest, depth).await?;
            }
            Depth::All => {
                let manifests = tenant.configs.manifests(agent).await?;
                for manifest in manifests.iter().filter(|one| one.collected_at.is_none()) {
                    self.ensure(tenant, agent, manifest, depth).await?;
                }
            }
        }
        let told = if tells { caught_up(&tenant.name, agent, &register).to_string() } else { String::new() };
        self.move_pointer(tenant, agent, pointer.version, pointer.epoch, over.as_deref(), &told)
            .await
            .map_err(|trouble| away(&trouble))?;
        Ok(())
    }

    /// Sees to it that Redis has a version as a whole, and nothing else under its name.
    async fn ensure(
        &self,
        tenant: &Tenant,
        agent: &str,
        manifest: &Manifest,
        depth: Depth,
    ) -> Result<(), RebuildError> {
        let at = Keys { tenant: &tenant.name, agent };
        let key = at.version(manifest.version);
        let there: BTreeMap<String, String> = self.ask(&["HGETALL", &key]).await?;
        for (kind, one) in &manifest.bundles {
            let about = there.get(kind).and_then(|text| serde_json::from_str::<About>(text).ok());
            let bundle = at.bundle(manifest.version, kind);
            let whole = match about {
                Some(about) if about.digest == one.digest => {
                    self.ask::<u64>(&["STRLEN", &bundle]).await? == about.stored
                }
                _ => false,
            };
            if !whole {
                self.write(tenant, agent, manifest.version, kind, &one.digest, None).await?;
            } else if depth == Depth::All {
                self.ask::<u64>(&["PEXPIRE", &bundle, &self.ttl()]).await?;
            }
        }
        for kind in there.keys().filter(|kind| !manifest.bundles.contains_key(*kind)) {
            self.ask::<u64>(&["HDEL", &key, kind]).await?;
            self.ask::<u64>(&["DEL", &at.bundle(manifest.version, kind)]).await?;
        }
        if depth == Depth::All {
            self.ask::<u64>(&["PEXPIRE", &key, &self.ttl()]).await?;
        }
        Ok(())
    }

    /// Writes a bundle, then what is said about it.
    async fn write(
        &self,
        tenant: &Tenant,
        agent: &str,
        version: u64,
        kind: &str,
        digest: &str,
        content: Option<&Bytes>,
    ) -> Result<(), RebuildError> {
        let bundles = tenant.configs.bundles();
        let missing = || BundleError::Damaged { digest: digest.to_owned(), cause: "nothing of it is there".to_owned() };
        let content = match content {
            Some(content) => content.clone(),
            None => bundles.get(digest).await?.ok_or_else(missing)?,
        };
        let (stored, encoding) = if self.inner.options.compress {
            (bundles.packed(digest).await?.ok_or_else(missing)?, "gzip")
        } else {
            (content.clone(), "identity")
        };
        let at = Keys { tenant: &tenant.name, agent };
        let mut set = command(&["SET", &at.bundle(version, kind)]);
        set.arg(&*stored).arg("PX").arg(self.ttl());
        self.inner.redis.ask::<()>(set).await.map_err(|trouble| away(&trouble))?;
        let about = About {
            digest: digest.to_owned(),
            bytes: content.len() as u64,
            stored: stored.len() as u64,
            encoding: encoding.to_owned(),
        };
        let key = at.version(version);
        self.ask::<u64>(&["HSET", &key, kind, &json!(about).to_string()]).await?;
        self.ask::<u64>(&["PEXPIRE", &key, &self.ttl()]).await?;
        Ok(())
    }

    /// What could not be given now is brought later.
    fn later<T>(&self, outcome: Result<T, RebuildError>) -> Result<(), MirrorError> {
        match outcome {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = as_text(error);
                *self.inner.behind.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.0.clone());
                self.inner.wake.notify_one();
                Err(error)
            }
        }
    }

    async fn tell(&self, updated: &Updated) -> Result<(), RebuildError> {
        let id = updated
            .tenant_id
            .parse::<TenantId>()
            .map_err(|_| MirrorError(format!("{:?} is no tenant", updated.tenant_id)))?;
        let tenant = self.tenant(id)?;
        // Whoever hears of it and looks finds it.
        self.bring(tenant, &updated.agent_id, Depth::Current, false).await?;
        let told = json!(Updated { tenant_id: tenant.name.clone(), ..updated.clone() }).to_string();
        self.ask::<u64>(&["PUBLISH", UPDATED_CHANNEL, &told]).await?;
        Ok(())
    }

    async fn remove(&self, id: TenantId, agent: &str, version: u64, kinds: &[String]) -> Result<(), RebuildError> {
        let tenant = self.tenant(id)?;
        let at = Keys { tenant: &tenant.name, agent };
        // Redis may be behind, with a pointer that still names it.
        self.bring(tenant, agent, Depth::Current, true).await?;
        self.ask::<u64>(&["DEL", &at.version(version)]).await?;
        for kind in kinds {
            self.ask::<u64>(&["DEL", &at.bundle(version, kind)]).await?;
        }
        Ok(())
    }
}

/// What is told when Redis has caught up with a pointer that had moved before.
fn caught_up(tenant: &str, agent: &str, register: &Register) -> Value {
    let pointer = register.pointer.as_ref();
    json!({
        "tenant_id": tenant, "agent_id": agent, "version": pointer.map(|one| one.version),
        "epoch": pointer.map(|one| one.epoch), "action": "caught_up",
        "publish_id": pointer.map(|one| one.publish_id.as_str()),
    })
}

impl Mirror for RedisMirror {
    fn catches_up(&self) -> bool {
        true
    }

    fn put<'a>(&'a self, bundle: &'a MirrorBundle) -> BoxFuture<'a, Result<(), MirrorError>> {
        Box::pin(async move {
            let MirrorBundle { tenant, agent, version, kind, digest, content } = bundle;
            let tenant = self.tenant(*tenant)?;
            self.later(self.write(tenant, agent, *version, kind, digest, Some(content)).await)
        })
    }

    fn point<'a>(&'a self, pointer: &'a MirrorPointer) -> BoxFuture<'a, Result<(), MirrorError>> {
        Box::pin(async move {
            // Where the pointer is by now, which is there or further on.
            let tenant = self.tenant(pointer.tenant)?;
            self.later(self.bring(tenant, &pointer.agent, Depth::Current, false).await)
        })
    }

    fn notify<'a>(&'a self, updated: &'a Updated) -> BoxFuture<'a, Result<(), MirrorError>> {
        Box::pin(async move { self.later(self.tell(updated).await) })
    }

    fn forget<'a>(
        &'a self,
        tenant: TenantId,
        agent: &'a str,
        version: u64,
        kinds: &'a [String],
    ) -> BoxFuture<'a, Result<(), MirrorError>> {
        // Not tried again: what stays ends with its life, which nobody renews.
        Box::pin(async move { self.remove(tenant, agent, version, kinds).await.map_err(as_text) })
    }
}
