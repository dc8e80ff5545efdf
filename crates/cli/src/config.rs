//! `mainspring.toml`, and what `dev` uses instead of one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use mainspring_client::TenantId;
use mainspring_core::limit::Limits;
use mainspring_engine::{Retention, SyncMode};
use mainspring_flows::egress::{EgressOptions, Policy};
use mainspring_flows::incoming::{Integration, Platform};
use mainspring_flows::tools::Secrets;
use mainspring_flows::window::{WindowMode, WindowRules};
use mainspring_flows::{AgentKind, AgentSettings, ChannelSettings, OnMessage, Protection, Secret};
use mainspring_server::api::incoming::Placed;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) server: Server,
    #[serde(default)]
    pub(crate) store: Store,
    /// Tenants, and how turns of all agents of each go.
    #[serde(default)]
    pub(crate) tenants: BTreeMap<String, Turns>,
    #[serde(default)]
    pub(crate) agents: Vec<Agent>,
    #[serde(default)]
    pub(crate) limits: ConfiguredLimits,
    /// What may be called at addresses that tenants choose.
    #[serde(default)]
    pub(crate) egress: Egress,
    /// By tenant, secrets by name: the environment variable that holds each.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, BTreeMap<String, String>>,
    /// Accounts at platforms whose webhooks come in.
    #[serde(default)]
    pub(crate) integrations: Vec<ConfiguredIntegration>,
    /// Which database nodes share, if there are several.
    pub(crate) postgres: Option<crate::node::ConfiguredPostgres>,
    /// Which of them this is.
    pub(crate) node: Option<crate::node::ConfiguredNode>,
    /// Where Redis is.
    pub(crate) redis: Option<crate::bus::ConfiguredRedis>,
    /// The streams channel gateways and routers are spoken to over.
    pub(crate) bus: Option<crate::bus::ConfiguredBus>,
}

/// An account of a tenant at a platform, whose webhooks come in at `/v1/incoming/ID`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfiguredIntegration {
    /// The last part of its address.
    pub(crate) id: String,
    /// Whose it is.
    tenant: String,
    /// Who answers.
    agent: String,
    /// `generic`, `meta` or `twilio`.
    kind: Platform,
    /// Over which channel. `whatsapp` for Meta and `sms` for Twilio if it is not said.
    channel: Option<String>,
    /// The environment variable that has the secret its requests are signed with.
    secret_env: String,
    /// The environment variable that has Meta's verify token.
    verify_token_env: Option<String>,
    /// The address as the platform knows it, if it is not `public_url` and the path.
    url: Option<String>,
    /// Ids or numbers at the platform whose messages are taken. Empty takes all.
    #[serde(default)]
    accounts: Vec<String>,
}

impl ConfiguredIntegration {
    /// The integration, with its secrets from the environment.
    pub(crate) fn placed(&self, config: &Config) -> anyhow::Result<Placed> {
        let id = &self.id;
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            bail!("integration {id:?}: an id has letters, digits, and - _ . only");
        }
        if !config.agents.iter().any(|agent| agent.tenant == self.tenant && agent.name == self.agent) {
            bail!("integration {id:?}: tenant {:?} has no agent {:?} under [[agents]]", self.tenant, self.agent);
        }
        let secret = |name: &String| {
            let found =
                std::env::var(name).with_context(|| format!("integration {id:?}: {name} is not set: export it"));
            found.map(Secret)
        };
        let channel = match (&self.channel, self.kind) {
            (Some(channel), _) => channel.clone(),
            (None, Platform::Meta) => "whatsapp".to_owned(),
            (None, Platform::Twilio) => "sms".to_owned(),
            (None, Platform::Generic) => bail!("integration {id:?}: say over which channel"),
        };
        let url = match (&self.url, &config.server.public_url) {
            (Some(url), _) => url.clone(),
            (None, Some(public)) => format!("{public}/v1/incoming/{id}"),
            // Nobody else signs the address.
            (None, None) if self.kind != Platform::Twilio => String::new(),
            (None, None) => bail!("integration {id:?}: Twilio signs the address: set url here, or server.public_url"),
        };
        let integration = Integration {
            platform: self.kind,
            secret: secret(&self.secret_env)?,
            verify_token: self.verify_token_env.as_ref().map(secret).transpose()?,
            url,
            accounts: self.accounts.clone(),
        };
        Ok(Placed { integration, tenant: tenant_id(&self.tenant), agent: self.agent.clone(), channel })
    }
}

/// What may be called at addresses that tenants choose, and how.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Egress {
    /// Whether `http://` is allowed beside `https://`.
    http: bool,
    /// Ports that may be called; empty allows all. 443 and 8443 if it is not said.
    ports: Option<Vec<u16>>,
    /// Networks that may be called although they are not public.
    allow: Vec<String>,
    /// Names that may be called whatever they stand for.
    allow_hosts: Vec<String>,
    /// Networks that may not be called although they are public.
    deny: Vec<String>,
    /// Name servers to ask instead of the system's.
    name_servers: Vec<SocketAddr>,
    /// Files with certificates that are trusted beside the system's, in PEM.
    trust: Vec<PathBuf>,
}

impl Egress {
    /// What calls are made with. `dev` may call its own machine.
    pub(crate) fn options(&self, dev: bool) -> anyhow::Result<EgressOptions> {
        let nets = |field: &str, texts: &[String]| {
            let net = |text: &String| {
                text.parse().with_context(|| format!("egress.{field}: {text:?} is no network: write it as 10.0.0.0/8"))
            };
            texts.iter().map(net).collect::<anyhow::Result<Vec<_>>>()
        };
        let policy = Policy {
            http: self.http,
            ports: self.ports.clone().unwrap_or_else(|| Policy::default().ports),
            allow: nets("allow", &self.allow)?,
            allow_hosts: self.allow_hosts.clone(),
            deny: nets("deny", &self.deny)?,
        };
        let policy = if dev { policy.with_loopback() } else { policy };
        let read = |path: &PathBuf| {
            let bytes = std::fs::read(path).with_context(|| format!("egress.trust: {}", path.display()))?;
            Ok(bytes.into())
        };
        let extra_roots = self.trust.iter().map(read).collect::<anyhow::Result<_>>()?;
        Ok(EgressOptions { policy, name_servers: self.name_servers.clone(), extra_roots })
    }
}

/// Secrets of tenants, read from the environment when the server starts.
#[derive(Clone, Default)]
pub(crate) struct Configured(BTreeMap<(TenantId, String), String>);

impl Configured {
    pub(crate) fn read(named: &BTreeMap<String, BTreeMap<String, String>>) -> anyhow::Result<Self> {
        let mut secrets = BTreeMap::new();
        for (tenant, names) in named {
            for (name, variable) in names {
                let secret = std::env::var(variable).ok().filter(|secret| !secret.is_empty());
                let secret = secret.with_context(|| {
                    format!("[secrets.{tenant}]: {variable} is not set: export it, or leave {name:?} out")
                })?;
                secrets.insert((tenant_id(tenant), name.clone()), secret);
            }
        }
        Ok(Configured(secrets))
    }
}

impl Secrets for Configured {
    fn secret(&self, tenant: TenantId, name: &str) -> Option<String> {
        self.0.get(&(tenant, name.to_owned())).cloned()
    }
}

/// Limits of the engine that can be configured.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfiguredLimits {
    /// How long an `Idempotency-Key` is remembered.
    idempotency_ttl_s: Option<u64>,
    /// Messages that may wait in or be with the live turn of one session.
    session_messages_max: Option<usize>,
    /// Bytes of one session's state, or of one phase's result.
    document_bytes_max: Option<usize>,
}

impl ConfiguredLimits {
    pub(crate) fn limits(&self) -> anyhow::Result<Limits> {
        let mut limits = Limits::default();
        if let Some(ttl_s) = self.idempotency_ttl_s {
            limits.idempotency_ttl_ms = ttl_s.saturating_mul(1_000);
        }
        limits.inbox_messages_max = self.session_messages_max.unwrap_or(limits.inbox_messages_max);
        limits.document_bytes_max = self.document_bytes_max.unwrap_or(limits.document_bytes_max);
        if limits.idempotency_ttl_ms > DAY_S * 1_000 {
            bail!("limits.idempotency_ttl_s may be a day at most: keys are kept in memory; use message_id for longer");
        }
        if limits.inbox_messages_max == 0 || limits.document_bytes_max > 1024 * 1024 {
            bail!("limits.session_messages_max must be at least 1, document_bytes_max at most 1 MiB");
        }
        Ok(limits)
    }
}

const DAY_S: u64 = 24 * 60 * 60;

/// Where to listen and what to be called.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) dir: PathBuf,
    /// The address clients reach the server at, if not the one it listens on.
    pub(crate) public_url: Option<String>,
    /// The key tokens are signed with, if it is not `keys/signing.pem` in `dir`.
    pub(crate) signing_key: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            dir: ".mainspring".into(),
            public_url: None,
            signing_key: None,
        }
    }
}

/// What is kept, and how safely.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    /// `durable`, or `off` for experiments that may lose everything.
    fsync: Fsync,
    /// Partitions of a new store: 1 in a directory, 64 in a database. An existing one keeps its number.
    pub(crate) partitions: Option<u16>,
    /// Days for which finished runs are kept.
    keep_runs_days: u64,
    /// Days for which events are kept.
    keep_events_days: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store { fsync: Fsync::Durable, partitions: None, keep_runs_days: 30, keep_events_days: 30 }
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

/// How turns go, as far as it is said: for a tenant's agents together, or for one.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Turns {
    timeout_ms: Option<u64>,
    attempts_max: Option<u32>,
    backoff_ms: Option<u64>,
    on_message: Option<OnMessage>,
    window: Option<WindowRules>,
    /// The short form of a fixed window.
    quiet_ms: Option<u64>,
    max_wait_ms: Option<u64>,
    messages_max: Option<u32>,
    restarts_max: Option<u32>,
    streaming_commits: Option<bool>,
    grace_ms: Option<u64>,
    state_ttl_days: Option<u64>,
    artifact_ttl_s: Option<u64>,
    effect_ttl_hours: Option<u64>,
    message_id_ttl_days: Option<u64>,
    failure_reply: Option<String>,
    deliver_url: Option<String>,
    deliver_attempts_more: Option<u32>,
    protection: Option<Protection>,
    channels: BTreeMap<String, ChannelSettings>,
}

/// One agent of one tenant. What it leaves out is as `[tenants.NAME]` says, and after that as the default is.
#[derive(Debug, Deserialize)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) tenant: String,
    kind: Kind,
    url: Option<String>,
    workflow: Option<String>,
    /// The environment variable that has the secret its requests are signed with.
    secret_env: Option<String>,
    /// The environment variable that has the secret its replies are signed with.
    deliver_secret_env: Option<String>,
    #[serde(flatten)]
    turns: toml::Table,
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
                "{} can't be read; write one (one line is enough, [tenants.default]; the rest is in \
                 docs/configuration.md) or name another with --config",
                path.display()
            )
        })?;
        let config: Config = toml::from_str(&text).with_context(|| format!("{} is not understood", path.display()))?;
        if config.store.keep_runs_days == 0 || config.store.keep_events_days == 0 {
            bail!("{}: keep_runs_days and keep_events_days must be at least 1", path.display());
        }
        Ok(config)
    }

    /// The names of all tenants, each once: those of agents first, in the order of the file. A tenant without agents has
    /// workflows alone, and its section has to be empty: what that says is about turns, so its name may be misspelt.
    pub(crate) fn tenants(&self) -> anyhow::Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        for agent in &self.agents {
            if !names.contains(&agent.tenant) {
                names.push(agent.tenant.clone());
            }
        }
        for (name, turns) in &self.tenants {
            if names.contains(name) {
                continue;
            }
            if *turns != Turns::default() {
                bail!(
                    "[tenants.{name}] says how agents' turns go and has no agent: add one under [[agents]] with \
                     tenant = {name:?}, or leave the section empty"
                );
            }
            names.push(name.clone());
        }
        if names.is_empty() {
            bail!("no tenant is configured: add [tenants.NAME], or an [[agents]] section (docs/configuration.md)");
        }
        Ok(names)
    }
}

impl Turns {
    /// Changes settings as far as it says something.
    fn apply(&self, settings: &mut AgentSettings) {
        fn set<T: Clone>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        let ms = |value: Option<u64>| value.map(Duration::from_millis);
        let seconds =
            |value: Option<u64>, each: u64| value.map(|value| Duration::from_secs(value.saturating_mul(each)));
        set(&mut settings.timeout, ms(self.timeout_ms));
        set(&mut settings.retry.backoff, ms(self.backoff_ms));
        set(&mut settings.retry.attempts_max, self.attempts_max);
        set(&mut settings.on_message, self.on_message);
        set(&mut settings.window, self.window.clone());
        if let Some(quiet_ms) = self.quiet_ms {
            settings.window.mode = WindowMode::Fixed;
            settings.window.base_ms = Some(quiet_ms);
        }
        set(&mut settings.window.max_wait_ms, self.max_wait_ms);
        set(&mut settings.window.messages_max, self.messages_max);
        set(&mut settings.restarts_max, self.restarts_max);
        set(&mut settings.streaming_commits, self.streaming_commits);
        set(&mut settings.grace, ms(self.grace_ms));
        set(&mut settings.state_ttl, seconds(self.state_ttl_days, DAY_S));
        set(&mut settings.artifact_ttl, seconds(self.artifact_ttl_s, 1));
        set(&mut settings.effect_ttl, seconds(self.effect_ttl_hours, 60 * 60));
        set(&mut settings.message_id_ttl, seconds(self.message_id_ttl_days, DAY_S));
        set(&mut settings.failure_reply, self.failure_reply.clone().map(Some));
        set(&mut settings.deliver_url, self.deliver_url.clone().map(Some));
        set(&mut settings.deliver_attempts_more, self.deliver_attempts_more);
        set(&mut settings.protection, self.protection);
        settings.channels.extend(self.channels.clone());
    }
}

impl Agent {
    /// The settings, with the tenant's and then the defaults for what is not said.
    pub(crate) fn settings(&self, of_tenant: Option<&Turns>) -> anyhow::Result<AgentSettings> {
        let kind = match (self.kind, &self.url, &self.workflow) {
            (Kind::Http, Some(url), None) => AgentKind::Http { url: url.clone() },
            (Kind::Workflow, None, Some(name)) => AgentKind::Workflow { name: name.clone() },
            (Kind::Http, ..) => bail!("agent {:?}: kind \"http\" takes url, and no workflow", self.name),
            (Kind::Workflow, ..) => bail!("agent {:?}: kind \"workflow\" takes workflow, and no url", self.name),
        };
        let mut settings = AgentSettings::new(kind);
        if let Some(of_tenant) = of_tenant {
            of_tenant.apply(&mut settings);
        }
        let own: Turns = toml::Value::Table(self.turns.clone())
            .try_into()
            .with_context(|| format!("agent {:?} is not understood", self.name))?;
        own.apply(&mut settings);
        let secret = |key: &str, name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let secret = std::env::var(name).with_context(|| {
                format!("agent {:?}: its {key} {name} is not set: export it, or leave {key} out", self.name)
            });
            secret.map(|secret| Some(Secret(secret)))
        };
        settings.secret = secret("secret_env", &self.secret_env)?;
        settings.deliver_secret = secret("deliver_secret_env", &self.deliver_secret_env)?;
        settings.window.check().with_context(|| format!("agent {:?}: window", self.name))?;
        for (channel, own) in &settings.channels {
            if let Some(window) = &own.window {
                window.check().with_context(|| format!("agent {:?}: the window of channel {channel:?}", self.name))?;
            }
        }
        if settings.retry.attempts_max == 0 || settings.timeout.is_zero() {
            bail!("agent {:?}: attempts_max and timeout_ms must be at least 1", self.name);
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

/// How fast the example agent of `dev` works.
pub(crate) struct Pace {
    /// How slow the carrier is.
    pub(crate) carrier: Duration,
    /// The pause between two words of the answer.
    pub(crate) word: Duration,
}

/// The example agent's settings in `dev`, with what the environment overrides.
pub(crate) fn dev_agent() -> anyhow::Result<(AgentSettings, Pace)> {
    let mut settings = AgentSettings::new(AgentKind::Workflow { name: orders_agent::WORKFLOW.to_owned() });
    settings.on_message = OnMessage::Supersede;
    // Whoever tries it out may as well try what a loop does.
    settings.protection = Protection { session_messages_per_minute: 0, ..Protection::default() };
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text:?} is not a number of milliseconds")),
        Err(_) => Ok(default),
    };
    // Adaptive, so that the page has something to explain; a number makes it the same for each message.
    if std::env::var_os("MAINSPRING_DEV_QUIET_MS").is_some() {
        settings.window.mode = WindowMode::Fixed;
        settings.window.base_ms = Some(number("MAINSPRING_DEV_QUIET_MS", 900)?);
    }
    let carrier_ms = number("MAINSPRING_DEV_TOOL_MS", 1_500)?;
    let word_ms = number("MAINSPRING_DEV_WORD_MS", carrier_ms.min(800) / 40)?;
    let pace = Pace { carrier: Duration::from_millis(carrier_ms), word: Duration::from_millis(word_ms) };
    match std::env::var("MAINSPRING_DEV_ON_MESSAGE").as_deref() {
        Ok("queue") => settings.on_message = OnMessage::Queue,
        Ok("absorb") => settings.on_message = OnMessage::Absorb,
        Ok("supersede") | Err(_) => {}
        Ok(other) => bail!("MAINSPRING_DEV_ON_MESSAGE={other:?}: use queue, absorb or supersede"),
    }
    settings.deliver_url = std::env::var("MAINSPRING_DEV_DELIVER_URL").ok();
    Ok((settings, pace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_for_a_cluster_is_understood() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cluster/mainspring.toml");
        let config = Config::read(&file).expect("it is understood");
        assert!(config.postgres.is_some());
        assert_eq!(config.agents.len(), 1);
    }
}
