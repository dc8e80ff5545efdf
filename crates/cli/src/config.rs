//! `mainspring.toml`, and what `dev` uses instead of one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use mainspring_client::{RetryPolicy, TenantId};
use mainspring_engine::{Retention, SyncMode};
use mainspring_flows::{AgentKind, AgentSettings, OnMessage};
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) server: Server,
    #[serde(default)]
    pub(crate) store: Store,
    #[serde(default)]
    pub(crate) agents: Vec<Agent>,
}

/// Where to listen and what to be called.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) dir: PathBuf,
    /// The address clients reach the server at, if not the one it listens on.
    pub(crate) public_url: Option<String>,
}

impl Default for Server {
    fn default() -> Self {
        Server { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), dir: ".mainspring".into(), public_url: None }
    }
}

/// What is kept, and how safely.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    /// `durable`, or `off` for experiments that may lose everything.
    fsync: Fsync,
    /// Partitions of a new directory. An existing one keeps its number.
    pub(crate) partitions: u16,
    /// Days for which finished runs are kept.
    keep_runs_days: u64,
    /// Days for which events are kept.
    keep_events_days: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store { fsync: Fsync::Durable, partitions: 1, keep_runs_days: 30, keep_events_days: 30 }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fsync {
    Durable,
    Off,
}

impl Store {
    pub(crate) fn sync(&self) -> SyncMode {
        match self.fsync {
            Fsync::Durable => SyncMode::Durable,
            Fsync::Off => SyncMode::Off,
        }
    }

    pub(crate) fn retention(&self) -> Retention {
        let day = 24 * 60 * 60 * 1_000;
        Retention {
            runs_ms: self.keep_runs_days.saturating_mul(day),
            events_ms: self.keep_events_days.saturating_mul(day),
        }
    }
}

/// One agent of one tenant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) tenant: String,
    kind: Kind,
    url: Option<String>,
    workflow: Option<String>,
    timeout_ms: Option<u64>,
    attempts_max: Option<u32>,
    backoff_ms: Option<u64>,
    on_message: Option<OnMessage>,
    quiet_ms: Option<u64>,
    max_wait_ms: Option<u64>,
    messages_max: Option<u32>,
    deliver_url: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Http,
    Workflow,
}

impl Config {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Config> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "{} can't be read; write one (docs/configuration.md has an example) or name another with --config",
                path.display()
            )
        })?;
        let config: Config = toml::from_str(&text).with_context(|| format!("{} is not understood", path.display()))?;
        if config.store.keep_runs_days == 0 || config.store.keep_events_days == 0 {
            bail!("{}: keep_runs_days and keep_events_days must be at least 1", path.display());
        }
        Ok(config)
    }
}

impl Agent {
    /// The settings, with defaults for what is not said.
    pub(crate) fn settings(&self) -> anyhow::Result<AgentSettings> {
        let kind = match (self.kind, &self.url, &self.workflow) {
            (Kind::Http, Some(url), None) => AgentKind::Http { url: url.clone() },
            (Kind::Workflow, None, Some(name)) => AgentKind::Workflow { name: name.clone() },
            (Kind::Http, ..) => bail!("agent {:?}: kind \"http\" takes url, and no workflow", self.name),
            (Kind::Workflow, ..) => bail!("agent {:?}: kind \"workflow\" takes workflow, and no url", self.name),
        };
        let mut settings = AgentSettings::new(kind);
        let set = |place: &mut Duration, value: Option<u64>| {
            if let Some(value) = value {
                *place = Duration::from_millis(value);
            }
        };
        set(&mut settings.timeout, self.timeout_ms);
        set(&mut settings.quiet, self.quiet_ms);
        set(&mut settings.max_wait, self.max_wait_ms);
        let RetryPolicy { attempts_max, backoff, .. } = &mut settings.retry;
        set(backoff, self.backoff_ms);
        *attempts_max = self.attempts_max.unwrap_or(*attempts_max);
        settings.on_message = self.on_message.unwrap_or(settings.on_message);
        settings.messages_max = self.messages_max.unwrap_or(settings.messages_max);
        settings.deliver_url.clone_from(&self.deliver_url);
        if settings.messages_max == 0 || settings.retry.attempts_max == 0 || settings.timeout.is_zero() {
            bail!("agent {:?}: messages_max, attempts_max and timeout_ms must be at least 1", self.name);
        }
        Ok(settings)
    }
}

/// A tenant's id follows from its name, so that a configuration file names tenants and nothing has to be looked up.
pub(crate) fn tenant_id(name: &str) -> TenantId {
    let low = mainspring_core::id::fingerprint([b"tenant".as_slice(), name.as_bytes()]);
    let high = mainspring_core::id::fingerprint([name.as_bytes(), b"tenant".as_slice()]);
    let id = (u128::from(high) << 64) | u128::from(low);
    // The form of a UUID made by a rule of its own (version 8).
    TenantId((id & !(0xf << 76) & !(0b11 << 62)) | (0x8 << 76) | (0b10 << 62))
}

/// The example agent's settings in `dev`, with what the environment overrides.
pub(crate) fn dev_agent() -> anyhow::Result<(AgentSettings, Duration)> {
    let mut settings = AgentSettings::new(AgentKind::Workflow { name: orders_agent::WORKFLOW.to_owned() });
    settings.on_message = OnMessage::Supersede;
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text:?} is not a number of milliseconds")),
        Err(_) => Ok(default),
    };
    settings.quiet = Duration::from_millis(number("MAINSPRING_DEV_QUIET_MS", 900)?);
    let carrier = Duration::from_millis(number("MAINSPRING_DEV_TOOL_MS", 1_500)?);
    match std::env::var("MAINSPRING_DEV_ON_MESSAGE").as_deref() {
        Ok("queue") => settings.on_message = OnMessage::Queue,
        Ok("supersede") | Err(_) => {}
        Ok(other) => bail!("MAINSPRING_DEV_ON_MESSAGE={other:?}: use queue or supersede"),
    }
    settings.deliver_url = std::env::var("MAINSPRING_DEV_DELIVER_URL").ok();
    Ok((settings, carrier))
}
