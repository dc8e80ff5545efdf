//! Wiring: opens the engine, offers the flows, listens, and ends in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mainspring_client::{Client, RunningWorker, TenantId, Worker};
use mainspring_core::limit::Limits;
use mainspring_core::row::TokenRow;
use mainspring_core::{Command, Table, TokenId};
use mainspring_engine::{Embedded, Engine, EngineOptions, LogOptions};
use mainspring_flows::egress::{EgressOptions, HttpEgress};
use mainspring_flows::publish;
use mainspring_flows::tools::breaker::Breakers;
use mainspring_flows::tools::catalogue::KnownTools;
use mainspring_flows::tools::{CallbackDoor, Kit};
use mainspring_flows::webhooks::{Filter, Filters, Seen, Shared, Webhooks};
use mainspring_flows::{AgentSettings, Agents, Outside, TurnDoor, Web};
use mainspring_hatchet::expression::{Environment, Expression};
use mainspring_hatchet::{Caller, Gate, Hatchet};
use mainspring_server::api::incoming::Placed;
use mainspring_server::api::tokens;
use mainspring_server::auth::Scope;
use mainspring_server::{AppState, Keys, ServerOptions};
use tokio::net::TcpListener;

use crate::bus::{self, BusSetup};
use crate::config::{Config, Configured, Egress, Pace, Store, dev_agent, tenant_id};
use crate::{local, mcp};

/// The tenant of `dev`.
const DEV_TENANT: &str = "dev";
/// Open connections get this long to finish their requests at the end. Event streams never finish by themselves.
const DRAIN: Duration = Duration::from_secs(2);

struct Setup {
    dir: PathBuf,
    listen: SocketAddr,
    public_url: Option<String>,
    store: Store,
    limits: Limits,
    agents: Vec<(String, String, AgentSettings)>,
    example: Option<orders_agent::Settings>,
    egress: EgressOptions,
    integrations: BTreeMap<String, Placed>,
    secrets: Configured,
    bus: Option<BusSetup>,
    began: Instant,
}

pub(crate) async fn dev(dir: &Path, listen: SocketAddr, began: Instant) -> anyhow::Result<()> {
    if !listen.ip().is_loopback() {
        bail!("dev listens on loopback only, not on {listen}: use 'mainspring serve' to be reached from elsewhere");
    }
    let (settings, Pace { carrier, word }) = dev_agent()?;
    let side_effects = dir.join("orders-agent").join("side-effects.jsonl");
    run(Setup {
        dir: dir.to_owned(),
        listen,
        public_url: None,
        store: Store::default(),
        limits: Limits::default(),
        agents: vec![("orders".to_owned(), DEV_TENANT.to_owned(), settings)],
        example: Some(orders_agent::Settings { side_effects, carrier, thinking: carrier / 2, word }),
        egress: Egress::default().options(true)?,
        integrations: BTreeMap::new(),
        secrets: Configured::default(),
        bus: None,
        began,
    })
    .await
}

pub(crate) async fn serve(
    config: &Path,
    dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    began: Instant,
) -> anyhow::Result<()> {
    let config = Config::read(config)?;
    if config.agents.is_empty() {
        bail!("no agent is configured: add an [[agents]] section (docs/configuration.md)");
    }
    for name in config.tenants.keys() {
        if !config.agents.iter().any(|agent| agent.tenant == *name) {
            bail!("[tenants.{name}] has no agent: add one under [[agents]] with tenant = {name:?}, or remove it");
        }
    }
    let agents = config.agents.iter().map(|agent| {
        Ok((agent.name.clone(), agent.tenant.clone(), agent.settings(config.tenants.get(&agent.tenant))?))
    });
    let placed = config.integrations.iter().map(|one| Ok((one.id.clone(), one.placed(&config)?)));
    let integrations: BTreeMap<String, Placed> = placed.collect::<anyhow::Result<_>>()?;
    if integrations.len() < config.integrations.len() {
        bail!("two [[integrations]] have the same id: give each its own");
    }
    run(Setup {
        integrations,
        dir: dir.unwrap_or(config.server.dir),
        listen: listen.unwrap_or(config.server.listen),
        public_url: config.server.public_url,
        agents: agents.collect::<anyhow::Result<_>>()?,
        limits: config.limits.limits()?,
        store: config.store,
        example: None,
        egress: config.egress.options(false)?,
        secrets: Configured::read(&config.secrets)?,
        bus: bus::setup(config.redis.as_ref(), config.bus)?,
        began,
    })
    .await
}

async fn run(mut setup: Setup) -> anyhow::Result<()> {
    let listener = TcpListener::bind(setup.listen).await.with_context(|| {
        format!(
            "can't listen on {}: end what uses it, or choose another with --listen (port 0 takes a free one)",
            setup.listen
        )
    })?;
    let address = listener.local_addr()?;
    let log = LogOptions { sync: setup.store.sync(), ..LogOptions::default() };
    let options = EngineOptions {
        partitions: setup.store.partitions,
        retention: setup.store.retention(),
        limits: setup.limits,
        ..EngineOptions::on(Arc::new(Embedded::new(&setup.dir, log)))
    };
    let engine = Engine::open(&options).context("the store can't be opened")?;
    let keys = Keys::load_or_create(&setup.dir)?;

    let mut tenants: Vec<(TenantId, &str)> = setup.agents.iter().map(|(_, t, _)| (tenant_id(t), t.as_str())).collect();
    tenants.dedup();
    for (tenant, name) in &tenants {
        engine.submit(*tenant, Command::PutTenant { name: (*name).to_owned() }).await?;
    }
    let agents =
        Agents::new(setup.agents.iter().map(|(name, t, settings)| (tenant_id(t), name.clone(), settings.clone())));
    let public_url = setup.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
    let egress = HttpEgress::new(setup.egress.clone());
    let egress = egress.map_err(|error| anyhow::anyhow!("calls to other addresses can't be set up: {error}"))?;
    let published_by = egress.clone();
    let callbacks = CallbackDoor { tokens: keys.turn_tokens().clone(), url: format!("{public_url}/v1/tool-callbacks") };
    let kit = Kit {
        egress: Arc::new(egress.clone()),
        secrets: Arc::new(setup.secrets.clone()),
        remote: Some(Arc::new(mcp::OfServers::new(egress))),
        callbacks,
        breakers: Breakers::default(),
        known: KnownTools::default(),
    };
    let calls_url = format!("{public_url}/v1/turn");
    let door = TurnDoor { tokens: keys.turn_tokens().clone(), calls_url, tools: Some(kit.clone()) };
    let mut publishing = publish::Shared::new(published_by.clone(), kit.secrets.clone());
    if let Some(bus) = &mut setup.bus {
        publishing.mirror = bus.mirror(&engine, &tenants)?;
    }
    let mut workers = offer_all(&setup, &engine, &tenants, &agents, &door, &publishing).await?;
    let webhooks = offer_webhooks(&setup, &engine, &tenants, &keys, &mut workers).await?;
    forget_revoked(&engine, &tenants).await?;

    let home = tenants[0].0;
    let server = ServerOptions { public_url: public_url.clone(), grpc_address: address.to_string(), home_tenant: home };
    let running_bus = match setup.bus.take() {
        Some(bus) => Some(bus::start(bus, &engine, &tenants, &agents, address.port()).await?),
        None => None,
    };
    let state = AppState::new(engine.clone(), agents, keys, server);
    if let Some(bus) = &running_bus {
        state.set_beside(bus.standing());
    }
    state.set_tools(kit);
    state.set_publishing(publishing);
    let matching: Vec<_> = webhooks.values().map(|one| tokio::spawn(one.clone().match_events())).collect();
    state.set_webhooks(webhooks);
    state.set_integrations(setup.integrations.clone());
    // Before anything is answered, so that whoever finds the server ready finds the token too.
    let door = if setup.example.is_some() { Some(open_door(&setup, &state, home).await?) } else { None };
    let hatchet = Hatchet::start(engine.clone(), gate(&state));
    let routes = mainspring_server::router(state.clone()).merge(hatchet.routes()).merge(mcp::routes(&state));
    let serving = tokio::spawn(listen_on(listener, routes));
    let names = tenants.iter().map(|(_, name)| (*name).to_owned()).collect();
    local::write(&setup.dir, &format!("http://{address}"), home, names)?;
    announce(&setup, &public_url, door.as_deref())?;

    stop_signal().await?;
    tracing::info!("stopping: what was accepted is made durable first");
    serving.abort();
    matching.iter().for_each(tokio::task::JoinHandle::abort);
    if let Some(bus) = running_bus {
        bus.stop().await;
    }
    for worker in workers {
        worker.stop().await;
    }
    tokio::task::spawn_blocking(move || engine.shut_down()).await?;
    local::remove(&setup.dir);
    Ok(())
}

/// The flows for every tenant, and the example agent where there is one.
async fn offer_all(
    setup: &Setup,
    engine: &Engine,
    tenants: &[(TenantId, &str)],
    agents: &Agents,
    door: &TurnDoor,
    publishing: &publish::Shared,
) -> anyhow::Result<Vec<RunningWorker>> {
    let web: Arc<dyn Outside> = Arc::new(Web::new(setup.egress.extra_roots.clone()).map_err(anyhow::Error::msg)?);
    let mut workers = Vec::new();
    for (tenant, name) in tenants {
        let client = Client::new(engine.clone(), *tenant);
        let worker = Worker::new(client.clone(), "built-in flows");
        let mut worker = mainspring_flows::offer(worker, &client, agents, web.clone(), door.clone());
        worker = publish::offer(worker, &publish::Configs::new(client.clone(), publishing.clone()));
        if let Some(settings) = &setup.example {
            worker = orders_agent::offer(worker, settings.clone());
        }
        workers
            .push(worker.start().await.with_context(|| format!("the flows of tenant {name:?} could not be started"))?);
    }
    Ok(workers)
}

/// Webhooks for every tenant, each on a worker of its own: endpoints that hang take from its slots alone.
async fn offer_webhooks(
    setup: &Setup,
    engine: &Engine,
    tenants: &[(TenantId, &str)],
    keys: &Keys,
    workers: &mut Vec<RunningWorker>,
) -> anyhow::Result<BTreeMap<TenantId, Webhooks>> {
    let egress = HttpEgress::new(setup.egress.clone()).map_err(|error| anyhow::anyhow!("egress: {error}"))?;
    let shared = Shared::new(Arc::new(egress), keys.sealer().clone(), filters());
    let mut all = BTreeMap::new();
    for (tenant, name) in tenants {
        let webhooks = Webhooks::new(Client::new(engine.clone(), *tenant), shared.clone());
        let worker = webhooks.offer(Worker::new(webhooks.client().clone(), "webhooks"));
        let started = worker.start().await;
        workers.push(started.with_context(|| format!("the webhooks of tenant {name:?} could not be started"))?);
        all.insert(*tenant, webhooks);
    }
    Ok(all)
}

/// CEL with the limits it has where Hatchet's workers use it.
fn filters() -> Filters {
    Arc::new(|text: &str| {
        let expression = Expression::parse(text).map_err(|error| error.to_string())?;
        let filter = move |seen: Seen<'_>| {
            let environment = Environment::Event {
                input: seen.data,
                additional_metadata: seen.about,
                payload: &serde_json::Value::Null,
                event_id: "",
                event_key: seen.name,
            };
            expression.is_true(&environment).map_err(|error| error.to_string())
        };
        Ok(Arc::new(filter) as Filter)
    })
}

/// Tokens revoked before this process began stay refused.
async fn forget_revoked(engine: &Engine, tenants: &[(TenantId, &str)]) -> anyhow::Result<()> {
    for (tenant, _) in tenants {
        let tenant = *tenant;
        let tokens: Vec<(u128, TokenRow)> = engine.read(tenant, move |reader| reader.all(tenant, Table::Token)).await?;
        for (id, _) in tokens.into_iter().filter(|(_, row)| row.revoked_at.is_some()) {
            engine.hub().mark_revoked(TokenId(id));
        }
    }
    Ok(())
}

/// Tokens are the server's affair; the wire of Hatchet's SDKs asks it who calls.
fn gate(state: &AppState) -> Gate {
    let state = state.clone();
    Arc::new(move |token| {
        let caller = state.auth().caller(token)?;
        if state.engine().hub().is_revoked(caller.token) {
            return None;
        }
        Some(Caller { tenant: caller.tenant, writes: caller.must_have(Scope::Write).is_ok() })
    })
}

async fn listen_on(listener: TcpListener, routes: axum::Router) {
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Small answers must not wait for more to send. A peer that vanished without a word is noticed after a minute.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_keepalive(&*stream, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(&*stream, Duration::from_secs(30));
        let _ = rustix::net::sockopt::set_tcp_keepintvl(&*stream, Duration::from_secs(10));
        let _ = rustix::net::sockopt::set_tcp_keepcnt(&*stream, 3);
    });
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the listener ended");
    }
    tokio::time::sleep(DRAIN).await;
}

/// Makes a code that stands for a token of `dev` in the address it prints.
async fn open_door(setup: &Setup, state: &AppState, tenant: TenantId) -> anyhow::Result<String> {
    let token = dev_token(&setup.dir, state, tenant).await?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let code: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    state.open_door(code.clone(), token);
    Ok(code)
}

#[expect(clippy::print_stdout, reason = "what a person at a terminal reads first")]
fn announce(setup: &Setup, url: &str, door: Option<&str>) -> anyhow::Result<()> {
    let ready = format!("ready in {} ms", setup.began.elapsed().as_millis());
    let Some(code) = door else {
        println!("{ready} on {url}, data in {}", setup.dir.display());
        println!("a token: mainspring token create --dir {}", setup.dir.display());
        return Ok(());
    };
    // Pasted into a terminal that may be anywhere.
    let token_file = std::path::absolute(setup.dir.join("keys").join("dev.token"))?;
    println!("{ready}, data in {}\n", setup.dir.display());
    println!("  Open this   {url}/chat?token={code}");
    println!("  then        {url}/  and  {url}/runs;  the API is described at {url}/openapi.json\n");
    println!("  For curl    export MAINSPRING_URL={url} MAINSPRING_TOKEN=$(cat {})", token_file.display());
    println!("  For SDKs    export HATCHET_CLIENT_TOKEN=$MAINSPRING_TOKEN HATCHET_CLIENT_TLS_STRATEGY=none");
    println!(
        "              then start a worker written for Hatchet as it is: see examples/python and examples/typescript\n"
    );
    println!(
        "Type quickly, interrupt the agent, kill this process with 'kill -9 {}' and start it again.",
        std::process::id()
    );
    println!("Ctrl-C stops it in order.");
    Ok(())
}

/// One token for all starts of `dev`, kept beside the key that signed it.
async fn dev_token(dir: &Path, state: &AppState, tenant: TenantId) -> anyhow::Result<String> {
    let path = dir.join("keys").join("dev.token");
    if let Ok(token) = std::fs::read_to_string(&path)
        && let Some(caller) = state.auth().caller(&token)
        && !state.engine().hub().is_revoked(caller.token)
    {
        return Ok(token);
    }
    let month_s = 30 * 24 * 60 * 60;
    let made = tokens::make(state, tenant, "mainspring dev", &[Scope::Admin], month_s).await;
    let made = made.map_err(|problem| anyhow::anyhow!("no token could be made: {}", problem.detail))?;
    local::write_private(&path, made.token())?;
    Ok(made.token().to_owned())
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
