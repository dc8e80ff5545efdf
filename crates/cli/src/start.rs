//! A server on its own directory, for real use or as `dev`: opens it, listens, and ends in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use mainspring_client::TenantId;
use mainspring_core::limit::Limits;
use mainspring_engine::{Embedded, Engine, EngineOptions, LogOptions};
use mainspring_flows::AgentSettings;
use mainspring_flows::egress::EgressOptions;
use mainspring_server::api::incoming::Placed;
use mainspring_server::api::tokens;
use mainspring_server::auth::Scope;
use mainspring_server::{AppState, Keys};

use crate::bus::{self, BusSetup};
use crate::config::{Config, Configured, Egress, Pace, Store, dev_agent};
use crate::part::{Common, Part};
use crate::say::say;
use crate::{listen, local, node};

/// The tenant of `dev`.
const DEV_TENANT: &str = "dev";

/// What a server is started with: from the configuration, or as `dev` has it.
pub(crate) struct Setup {
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) public_url: Option<String>,
    signing_key: Option<PathBuf>,
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    /// The names of all tenants, the one a person without a choice sees first.
    pub(crate) tenants: Vec<String>,
    pub(crate) agents: Vec<(String, String, AgentSettings)>,
    pub(crate) example: Option<orders_agent::Settings>,
    pub(crate) egress: EgressOptions,
    pub(crate) integrations: BTreeMap<String, Placed>,
    pub(crate) secrets: Configured,
    pub(crate) bus: Option<BusSetup>,
    began: Instant,
}

impl Setup {
    /// The key tokens are signed with; made if there is none where it is by default.
    pub(crate) fn keys(&self) -> anyhow::Result<Keys> {
        let Some(path) = &self.signing_key else { return Ok(Keys::load_or_create(&self.dir)?) };
        let missing = || format!("server.signing_key: {} is not there: copy it from another node", path.display());
        Keys::load(path)?.with_context(missing)
    }

    /// The file of that key, if it is not where it is by default.
    pub(crate) fn signing_key(&self) -> Option<&Path> {
        self.signing_key.as_deref()
    }
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
        signing_key: None,
        store: Store::default(),
        limits: Limits::default(),
        tenants: vec![DEV_TENANT.to_owned()],
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
    let tenants = config.tenants()?;
    let agents = config.agents.iter().map(|agent| {
        Ok((agent.name.clone(), agent.tenant.clone(), agent.settings(config.tenants.get(&agent.tenant))?))
    });
    let placed = config.integrations.iter().map(|one| Ok((one.id.clone(), one.placed(&config)?)));
    let integrations: BTreeMap<String, Placed> = placed.collect::<anyhow::Result<_>>()?;
    if integrations.len() < config.integrations.len() {
        bail!("two [[integrations]] have the same id: give each its own");
    }
    let setup = Setup {
        integrations,
        dir: dir.unwrap_or(config.server.dir),
        listen: listen.unwrap_or(config.server.listen),
        public_url: config.server.public_url,
        signing_key: config.server.signing_key,
        agents: agents.collect::<anyhow::Result<_>>()?,
        limits: config.limits.limits()?,
        store: config.store,
        example: None,
        egress: config.egress.options(false)?,
        secrets: Configured::read(&config.secrets)?,
        bus: bus::setup(config.redis.as_ref(), config.bus, &tenants)?,
        tenants,
        began,
    };
    match (config.postgres, config.node) {
        (Some(postgres), node) => node::run(setup, &postgres, &node.unwrap_or_default()).await,
        (None, Some(_)) => bail!("[node] is for one of several nodes: say with [postgres] which database they share"),
        (None, None) => run(setup).await,
    }
}

async fn run(setup: Setup) -> anyhow::Result<()> {
    let listener = listen::bind(setup.listen).await?;
    let address = listener.local_addr()?;
    let log = LogOptions { sync: setup.store.sync(), ..LogOptions::default() };
    let options = EngineOptions {
        partitions: setup.store.partitions.unwrap_or(1),
        retention: setup.store.retention(),
        limits: setup.limits,
        ..EngineOptions::on(Arc::new(Embedded::new(&setup.dir, log)))
    };
    let engine = Engine::open(&options).context("the store can't be opened")?;
    let keys = setup.keys()?;
    let common = Common::new(setup, keys, address)?;
    let part = Part::open(&common, engine, common.tenants()).await?;
    // Before anything is answered, so that whoever finds the server ready finds the token too.
    let (setup, state) = (common.setup(), part.state());
    let door = if setup.example.is_some() { Some(open_door(&setup.dir, state, common.home()).await?) } else { None };
    let serving = tokio::spawn(listen::serve(listener, part.router()));
    local::write(&setup.dir, &format!("http://{address}"), &common)?;
    announce(setup, common.public_url(), door.as_deref())?;

    stop_signal().await?;
    tracing::info!("stopping: what was accepted is made durable first");
    serving.abort();
    part.finish().await;
    local::remove(&setup.dir);
    Ok(())
}

/// Makes a code that stands for a token of `dev` in the address it prints.
async fn open_door(dir: &Path, state: &AppState, tenant: TenantId) -> anyhow::Result<String> {
    let token = dev_token(dir, state, tenant).await?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let code: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    state.open_door(code.clone(), token);
    Ok(code)
}

pub(crate) fn announce(setup: &Setup, url: &str, door: Option<&str>) -> anyhow::Result<()> {
    let ready = format!("ready in {} ms", setup.began.elapsed().as_millis());
    let Some(code) = door else {
        say!("{ready} on {url}, data in {}", setup.dir.display());
        say!("a token: mainspring token create --dir {}", setup.dir.display());
        return Ok(());
    };
    // Pasted into a terminal that may be anywhere.
    let token_file = std::path::absolute(setup.dir.join("keys").join("dev.token"))?;
    say!("{ready}, data in {}\n", setup.dir.display());
    say!("  Open this   {url}/chat?token={code}");
    say!("  then        {url}/  and  {url}/runs;  the API is described at {url}/openapi.json\n");
    say!("  For curl    export MAINSPRING_URL={url} MAINSPRING_TOKEN=$(cat {})", token_file.display());
    say!("  For SDKs    export HATCHET_CLIENT_TOKEN=$MAINSPRING_TOKEN HATCHET_CLIENT_TLS_STRATEGY=none");
    say!(
        "              then start a worker written for Hatchet as it is: see examples/python and examples/typescript\n"
    );
    say!(
        "Type quickly, interrupt the agent, kill this process with 'kill -9 {}' and start it again.",
        std::process::id()
    );
    say!("Ctrl-C stops it in order.");
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

pub(crate) async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
