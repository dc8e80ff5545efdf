//! `[redis]` and `[bus]`: Redis, and the streams over which channel gateways and routers are spoken to. Without
//! `[redis]` the bus is the engine's own streams, which are spoken to over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use mainspring_bus::inbound::Counts;
use mainspring_bus::{
    Bus, EmbeddedBus, EmbeddedBusOptions, Gateway, Health, Hints, Intake, MirrorOptions, Names, Pattern, Redis,
    RedisBus, RedisBusOptions, RedisMirror, RedisOptions, Relay, Source,
};
use mainspring_client::{Client, StreamSettings, TenantId};
use mainspring_engine::Engine;
use mainspring_flows::Agents;
use mainspring_flows::publish::Mirror;
use mainspring_server::state::{Beside, Metric, StreamLag};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::listen::host_name;

/// Streams one process reads. Each takes a connection.
const SOURCES_MAX: usize = 256;
/// How often is looked how far behind the groups are.
const LAG_EVERY: Duration = Duration::from_secs(10);
/// How long the end waits for groups to be left.
const LEAVE: Duration = Duration::from_secs(5);

/// Where Redis is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfiguredRedis {
    /// `redis://` or `rediss://`. One with a password is better kept in the environment.
    url: Option<String>,
    /// The environment variable that has the address.
    url_env: Option<String>,
    #[serde(default)]
    cluster: bool,
    #[serde(default)]
    nodes: Vec<String>,
    /// The file with the certificates of its authority, in PEM.
    ca: Option<PathBuf>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    mirror: ConfiguredMirror,
}

/// How published configurations are kept in Redis.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfiguredMirror {
    enabled: bool,
    /// Bundles as gzip.
    compress: bool,
    /// How long keys outlive the last server that renewed them.
    ttl_days: u64,
    /// How often pointers are compared with the log.
    check_s: u64,
}

impl Default for ConfiguredMirror {
    fn default() -> Self {
        ConfiguredMirror { enabled: true, compress: false, ttl_days: 30, check_s: 5 }
    }
}

impl ConfiguredMirror {
    fn options(&self) -> anyhow::Result<Option<MirrorOptions>> {
        if !(1..=3_650).contains(&self.ttl_days) || !(1..=3_600).contains(&self.check_s) {
            bail!("redis.mirror: ttl_days may be 1 to 3650, check_s 1 to 3600");
        }
        let options = MirrorOptions {
            compress: self.compress,
            ttl: Duration::from_secs(self.ttl_days * 24 * 60 * 60),
            look_every: Duration::from_secs(self.check_s),
            ..MirrorOptions::default()
        };
        Ok(self.enabled.then_some(options))
    }
}

/// The bus.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfiguredBus {
    /// Channels whose streams are read and written.
    channels: Vec<String>,
    /// Patterns of the names.
    inbound: String,
    routed: String,
    outbound: String,
    events: String,
    /// Partitions of streams; 0 for one without a suffix. `inbound_partitions` for what comes in, if that differs.
    partitions: u32,
    inbound_partitions: Option<u32>,
    /// The group we read as, and our name in it.
    group: String,
    consumer: Option<String>,
    /// Groups that read what goes out, and what was accepted: it waits for them from the first entry on.
    outbound_groups: Vec<String>,
    routed_groups: Vec<String>,
    /// By tenant, who answers where an envelope names no agent.
    agents: BTreeMap<String, String>,
    keep_hours: u64,
    entries_max: u64,
    deliveries_max: u32,
    visibility_s: u64,
}

impl Default for ConfiguredBus {
    fn default() -> Self {
        ConfiguredBus {
            channels: Vec::new(),
            inbound: "events.inbound.{tenant}.{channel}".to_owned(),
            routed: "events.routed.{tenant}.{channel}".to_owned(),
            outbound: "events.outbound.{tenant}.{channel}".to_owned(),
            events: "events.acf.{tenant}".to_owned(),
            partitions: 8,
            inbound_partitions: None,
            group: "runtime".to_owned(),
            consumer: None,
            outbound_groups: Vec::new(),
            routed_groups: Vec::new(),
            agents: BTreeMap::new(),
            keep_hours: 24,
            entries_max: 100_000,
            deliveries_max: 5,
            visibility_s: 30,
        }
    }
}

/// What is started.
#[derive(Clone)]
pub(crate) struct BusSetup {
    redis: Option<Redis>,
    bus: Option<ConfiguredBus>,
    mirror_options: Option<MirrorOptions>,
    mirror: Option<RedisMirror>,
}

impl BusSetup {
    /// Where published configurations are read besides the tables, if they are to be.
    pub(crate) fn mirror(
        &mut self,
        engine: &Engine,
        tenants: &[(TenantId, &str)],
    ) -> anyhow::Result<Option<Arc<dyn Mirror>>> {
        let (Some(options), Some(redis)) = (self.mirror_options.take(), self.redis.clone()) else { return Ok(None) };
        let tenants = tenants.iter().map(|(id, name)| ((*name).to_owned(), Client::new(engine.clone(), *id)));
        let mirror = RedisMirror::new(redis, tenants, options)?;
        self.mirror = Some(mirror.clone());
        Ok(Some(Arc::new(mirror)))
    }
}

impl std::fmt::Debug for ConfiguredRedis {
    /// Without the address: it may have a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfiguredRedis").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl ConfiguredRedis {
    fn options(&self) -> anyhow::Result<RedisOptions> {
        let url = match (&self.url, &self.url_env) {
            (Some(url), None) => url.clone(),
            (None, Some(name)) => {
                std::env::var(name).with_context(|| format!("redis.url_env: {name} is not set: export it"))?
            }
            _ => bail!("[redis] takes either url or url_env"),
        };
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("redis.ca: {}", path.display()));
        let timeout_ms = self.timeout_ms.unwrap_or(2_000);
        if !(10..=60_000).contains(&timeout_ms) {
            bail!("redis.timeout_ms is {timeout_ms}: use 10 to 60000");
        }
        Ok(RedisOptions {
            cluster: self.cluster,
            nodes: self.nodes.clone(),
            ca: self.ca.as_ref().map(read).transpose()?,
            timeout: Duration::from_millis(timeout_ms),
            ..RedisOptions::new(url)
        })
    }
}

/// Reads and checks both sections.
pub(crate) fn setup(
    redis: Option<&ConfiguredRedis>,
    bus: Option<ConfiguredBus>,
    tenants: &[String],
) -> anyhow::Result<Option<BusSetup>> {
    if redis.is_none() && bus.is_none() {
        return Ok(None);
    }
    if let Some(bus) = &bus {
        bus.names()?;
        if bus.channels.is_empty() {
            bail!("bus.channels is empty: name the channels whose streams are read and written");
        }
        if bus.partitions > 256 || bus.inbound_partitions.is_some_and(|count| count > 256) {
            bail!("bus.partitions may be 256 at most");
        }
        if let Some(unknown) = bus.agents.keys().find(|name| !tenants.contains(name)) {
            bail!("[bus.agents]: there is no tenant {unknown:?}");
        }
        if bus.deliveries_max == 0 || bus.entries_max < 1_000 || bus.keep_hours == 0 || bus.visibility_s == 0 {
            bail!("bus.deliveries_max, keep_hours and visibility_s must be at least 1, entries_max at least 1000");
        }
    }
    let mirror_options = redis.map(|redis| redis.mirror.options()).transpose()?.flatten();
    let redis = redis.map(|redis| anyhow::Ok(Redis::new(&redis.options()?)?)).transpose()?;
    Ok(Some(BusSetup { redis, bus, mirror_options, mirror: None }))
}

impl ConfiguredBus {
    fn names(&self) -> anyhow::Result<Names> {
        let pattern = |field: &str, text: &str| Pattern::new(text).with_context(|| format!("bus.{field}"));
        Ok(Names {
            inbound: pattern("inbound", &self.inbound)?,
            routed: pattern("routed", &self.routed)?,
            outbound: pattern("outbound", &self.outbound)?,
            events: pattern("events", &self.events)?,
        })
    }

    fn keep(&self) -> Duration {
        Duration::from_secs(self.keep_hours.saturating_mul(60 * 60))
    }

    /// How the streams are kept on Redis.
    fn on_redis(&self, streams: Streams) -> RedisBusOptions {
        RedisBusOptions {
            partitions: self.partitions,
            partitions_of: streams.partitions_of,
            groups_of: streams.groups_of,
            deliveries_max: self.deliveries_max,
            visibility: Duration::from_secs(self.visibility_s),
            keep: self.keep(),
            entries_max: self.entries_max,
            ..RedisBusOptions::default()
        }
    }

    /// How they are kept without it. What a partition may have on Redis, each has a share of here.
    fn embedded(&self, streams: Streams) -> EmbeddedBusOptions {
        // Checked: there are 256 at most. None at all means one, whose name has no suffix anyway.
        let count = |partitions: u32| partitions.clamp(1, 256) as u16;
        let partitions = count(self.partitions);
        let settings = StreamSettings {
            partitions: Some(partitions),
            keep_ms: Some(self.keep().as_millis() as u64),
            waiting_max: Some(self.entries_max.saturating_mul(u64::from(partitions))),
            deliveries_max: Some(self.deliveries_max),
            ..StreamSettings::default()
        };
        EmbeddedBusOptions {
            settings,
            partitions_of: streams.partitions_of.into_iter().map(|(name, of)| (name, count(of))).collect(),
            groups_of: streams.groups_of,
            ..EmbeddedBusOptions::default()
        }
    }
}

/// What is particular to streams, by their names.
#[derive(Debug, Clone, Default)]
struct Streams {
    partitions_of: BTreeMap<String, u32>,
    groups_of: BTreeMap<String, Vec<String>>,
}

/// What runs while the server does.
pub(crate) struct RunningBus {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    standing: Arc<Standing>,
}

/// How Redis and the bus stand.
struct Standing {
    redis: Option<Redis>,
    mirror: Option<RedisMirror>,
    counts: Mutex<Vec<Arc<Counts>>>,
    backlog: AtomicU64,
    pending: AtomicU64,
    /// Each tenant's streams on Redis, as they were seen last.
    lag: Mutex<BTreeMap<TenantId, Vec<StreamLag>>>,
}

impl Beside for Standing {
    fn degraded(&self) -> Vec<String> {
        match self.redis.as_ref().map(Redis::health) {
            Some(Health::Ill(trouble)) => vec![trouble.to_string()],
            // Whoever reads configurations there may read an old one.
            Some(Health::Well) => {
                let behind = self.mirror.as_ref().and_then(RedisMirror::behind);
                behind
                    .map(|why| format!("Redis has not all configurations that are published: {why}"))
                    .into_iter()
                    .collect()
            }
            Some(Health::Unknown) | None => Vec::new(),
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Counts) -> &AtomicU64| counts.iter().map(|one| of(one).load(Ordering::Relaxed)).sum::<u64>();
        let metric = |name, kind, help, value| Metric { name, kind, help, value };
        let well = self.redis.as_ref().map(|redis| u64::from(redis.health() == Health::Well));
        let mirrored = self.redis.as_ref().map(|_| u64::from(self.mirror.as_ref().is_some_and(RedisMirror::is_whole)));
        let mut metrics = vec![
            metric(
                "bus_taken_total",
                "counter",
                "Entries of the bus that became something new.",
                sum(|one| &one.taken),
            ),
            metric(
                "bus_repeated_total",
                "counter",
                "Entries of the bus that had come before.",
                sum(|one| &one.repeated),
            ),
            metric("bus_dead_total", "counter", "Entries of the bus that became dead letters.", sum(|one| &one.dead)),
            metric("bus_backlog", "gauge", "Entries no group was handed yet.", self.backlog.load(Ordering::Relaxed)),
            metric(
                "bus_pending",
                "gauge",
                "Entries handed out and not acknowledged.",
                self.pending.load(Ordering::Relaxed),
            ),
        ];
        let help = "1 while Redis has the published configurations.";
        metrics.extend(mirrored.map(|mirrored| metric("config_mirrored", "gauge", help, mirrored)));
        metrics.extend(well.map(|well| metric("redis_well", "gauge", "1 while Redis answers.", well)));
        metrics
    }

    fn streams(&self, tenant: TenantId) -> Vec<StreamLag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned().unwrap_or_default()
    }
}

impl RunningBus {
    /// How it stands, for `/readyz` and metrics.
    pub(crate) fn standing(&self) -> Arc<dyn Beside> {
        self.standing.clone()
    }

    /// Leaves the groups, so that others take over at once.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(true);
        let all = async {
            for task in self.tasks {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(LEAVE, all).await.is_err() {
            tracing::info!("the bus was not left in order; others take over in a while");
        }
    }
}

/// Starts reading and relaying for every tenant.
pub(crate) async fn start(
    setup: BusSetup,
    engine: &Engine,
    tenants: &[(TenantId, &str)],
    agents: &Agents,
    port: u16,
) -> anyhow::Result<RunningBus> {
    let (stop, stopping) = watch::channel(false);
    let standing = Arc::new(Standing {
        redis: setup.redis.clone(),
        mirror: setup.mirror.clone(),
        counts: Mutex::default(),
        backlog: AtomicU64::new(0),
        pending: AtomicU64::new(0),
        lag: Mutex::default(),
    });
    let watching = setup.redis.clone().map(|redis| tokio::spawn(watch_redis(redis, stopping.clone())));
    let mut tasks: Vec<_> = watching.into_iter().collect();
    if let Some(mirror) = setup.mirror {
        tasks.push(tokio::spawn(mirror.keep(stopping.clone())));
    }
    let Some(config) = setup.bus else { return Ok(RunningBus { stop, tasks, standing }) };
    let names = config.names()?;
    let mut sources = Vec::new();
    let (mut streams, mut watched) = (Streams::default(), BTreeMap::new());
    for (id, tenant) in tenants {
        let agent = config.agents.get(*tenant).cloned();
        if let Some(agent) = &agent
            && agents.get(*id, agent).is_none()
        {
            bail!("[bus.agents]: tenant {tenant:?} has no agent {agent:?} under [[agents]]");
        }
        let intake = Intake::new(Client::new(engine.clone(), *id), agents.clone(), agent);
        for channel in &config.channels {
            let named = |pattern: &Pattern| {
                pattern.of(tenant, channel).with_context(|| {
                    format!(
                        "tenant {tenant:?}, channel {channel:?}: no names of streams: use no '.' and no ':' in them"
                    )
                })
            };
            let (inbound, outbound) = (named(&names.inbound)?, named(&names.outbound)?);
            if let Some(count) = config.inbound_partitions {
                streams.partitions_of.insert(inbound.clone(), count);
            }
            streams.groups_of.insert(outbound.clone(), config.outbound_groups.clone());
            streams.groups_of.insert(named(&names.routed)?, config.routed_groups.clone());
            watched.entry(*id).or_insert_with(BTreeSet::new).extend([inbound.clone(), outbound]);
            let by_channel = names.inbound.is_by_channel();
            if !sources.iter().any(|known: &Source| known.stream == inbound) {
                sources.push(Source {
                    stream: inbound,
                    tenant: (*tenant).to_owned(),
                    channel: by_channel.then(|| channel.clone()),
                    intake: intake.clone(),
                });
            }
        }
    }
    if sources.len() > SOURCES_MAX {
        bail!("{} streams would be read, at most {SOURCES_MAX} by one process: name fewer channels", sources.len());
    }
    // On Redis one bus has every tenant's streams; the engine's own streams are a tenant's each.
    let of_all = setup.redis.clone().map(|redis| {
        let bus: Arc<dyn Bus> = Arc::new(RedisBus::new(redis, config.on_redis(streams.clone())));
        bus
    });
    let hints = setup.redis.map(Hints::over).unwrap_or_default();
    let consumer = config.consumer.clone().unwrap_or_else(|| format!("{}-{port}", host_name()));
    let mut seen = Vec::new();
    // Below, each tenant's relay begins before anything is taken in for it: replies to what waits already go out too.
    for (id, tenant) in tenants {
        let client = Client::new(engine.clone(), *id);
        let own = || Arc::new(EmbeddedBus::new(&client, config.embedded(streams.clone())));
        let bus: Arc<dyn Bus> = of_all.clone().unwrap_or_else(|| own());
        let relay = Relay::new(bus.clone(), client, agents.clone(), tenant, names.clone(), hints.clone());
        let relay = relay.of_channels(config.channels.iter().cloned());
        relay.prepare().await.with_context(|| format!("the bus can't begin for tenant {tenant:?}"))?;
        let gateway = Arc::new(Gateway::new(bus.clone(), &config.group, &consumer, hints.clone()));
        standing.counts.lock().unwrap_or_else(PoisonError::into_inner).push(gateway.counts());
        for source in sources.iter().filter(|source| source.tenant == **tenant).cloned() {
            let (gateway, stopping) = (gateway.clone(), stopping.clone());
            tasks.push(tokio::spawn(async move { gateway.read(source, stopping).await }));
        }
        let stopping = stopping.clone();
        tasks.push(tokio::spawn(async move { relay.run(stopping).await }));
        seen.extend(watched.remove(id).map(|streams| (*id, bus, streams)));
    }
    tasks.push(tokio::spawn(watch_lag(seen, standing.clone(), stopping)));
    Ok(RunningBus { stop, tasks, standing })
}

/// Asks Redis now and then, so that how it stands is known before anybody needs it.
async fn watch_redis(redis: Redis, mut stopping: watch::Receiver<bool>) {
    loop {
        let _ = redis.ping().await;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = stopping.changed() => return,
        }
    }
}

async fn watch_lag(
    seen: Vec<(TenantId, Arc<dyn Bus>, BTreeSet<String>)>,
    standing: Arc<Standing>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let (mut backlog, mut pending) = (0, 0);
        for (tenant, bus, streams) in &seen {
            let mut of_tenant = Vec::new();
            for stream in streams {
                for one in bus.lag(stream).await.unwrap_or_default() {
                    backlog += one.backlog;
                    pending += one.pending;
                    let (group, partition, oldest_at) = (one.group, one.partition, one.oldest_at_ms);
                    let (stream, waiting, pending, held_by) = (stream.clone(), one.backlog, one.pending, one.held_by);
                    of_tenant.push(StreamLag { stream, group, partition, waiting, pending, oldest_at, held_by });
                }
            }
            // The engine's own streams have pages of their own.
            if standing.redis.is_some() {
                standing.lag.lock().unwrap_or_else(PoisonError::into_inner).insert(*tenant, of_tenant);
            }
        }
        standing.backlog.store(backlog, Ordering::Relaxed);
        standing.pending.store(pending, Ordering::Relaxed);
        tokio::select! {
            () = tokio::time::sleep(LAG_EVERY) => {}
            _ = stopping.changed() => return,
        }
    }
}
