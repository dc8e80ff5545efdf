//! A part of the deployment at work: some tenants' engine with the flows, webhooks, bus and routes that go with it.
//!
//! A server on its own has one, with every tenant. A node of a cluster has one for each partition it holds, which comes
//! and goes as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use mainspring_client::{Client, RunningWorker, TenantId, Worker};
use mainspring_core::row::TokenRow;
use mainspring_core::{Command, Table, TokenId};
use mainspring_engine::{Engine, Health};
use mainspring_flows::egress::HttpEgress;
use mainspring_flows::publish;
use mainspring_flows::tools::breaker::Breakers;
use mainspring_flows::tools::catalogue::KnownTools;
use mainspring_flows::tools::{CallbackDoor, Kit};
use mainspring_flows::webhooks::{Filter, Filters, Seen, Shared, Webhooks};
use mainspring_flows::{Agents, Outside, TurnDoor, Web};
use mainspring_hatchet::expression::{Environment, Expression};
use mainspring_hatchet::{Caller, Gate, Hatchet};
use mainspring_server::auth::{Auth, Scope};
use mainspring_server::state::Cluster;
use mainspring_server::{AppState, Keys, ServerOptions};
use tokio::task::JoinHandle;

use crate::bus::{self, RunningBus};
use crate::config::tenant_id;
use crate::mcp;
use crate::start::Setup;

/// How long what is in hand gets to be given back when a part is abandoned.
const ABANDON: Duration = Duration::from_secs(2);

/// What all parts of a process share.
pub(crate) struct Common {
    setup: Setup,
    auth: Arc<Auth>,
    agents: Agents,
    tenants: Vec<(TenantId, String)>,
    egress: HttpEgress,
    public_url: String,
    address: SocketAddr,
    cluster: Option<Cluster>,
}

impl Common {
    pub(crate) fn new(setup: Setup, keys: Keys, address: SocketAddr) -> anyhow::Result<Self> {
        let tenants = setup.tenants.iter().map(|name| (tenant_id(name), name.clone())).collect();
        let agents = setup.agents.iter().map(|(name, tenant, own)| (tenant_id(tenant), name.clone(), own.clone()));
        let agents = Agents::new(agents);
        let public_url = setup.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
        let egress = HttpEgress::new(setup.egress.clone());
        let egress = egress.map_err(|error| anyhow::anyhow!("calls to other addresses can't be set up: {error}"))?;
        let auth = Arc::new(Auth::new(keys));
        Ok(Common { setup, auth, agents, tenants, egress, public_url, address, cluster: None })
    }

    /// Lets parts tell how the cluster stands.
    pub(crate) fn set_cluster(&mut self, cluster: Cluster) {
        self.cluster = Some(cluster);
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    pub(crate) fn auth(&self) -> &Arc<Auth> {
        &self.auth
    }

    pub(crate) fn public_url(&self) -> &str {
        &self.public_url
    }

    /// Every tenant that is configured, by id and name.
    pub(crate) fn tenants(&self) -> Vec<(TenantId, &str)> {
        self.tenants.iter().map(|(id, name)| (*id, name.as_str())).collect()
    }

    /// The tenant a person without a choice sees first.
    pub(crate) fn home(&self) -> TenantId {
        self.tenants[0].0
    }
}

/// An engine and all that goes with it.
pub(crate) struct Part {
    engine: Engine,
    state: AppState,
    router: Router,
    running: Mutex<Running>,
}

/// What is at work beside the engine's threads.
#[derive(Default)]
struct Running {
    workers: Vec<RunningWorker>,
    matching: Vec<JoinHandle<()>>,
    bus: Option<RunningBus>,
    hatchet: Option<Hatchet>,
}

impl Part {
    /// Starts everything for some tenants, all of which must live in this engine.
    pub(crate) async fn open(common: &Common, engine: Engine, tenants: Vec<(TenantId, &str)>) -> anyhow::Result<Part> {
        let mut running = Running::default();
        match Part::assemble(common, &engine, &tenants, &mut running).await {
            Ok((state, router)) => Ok(Part { engine, state, router, running: Mutex::new(running) }),
            Err(error) => {
                running.stop().await;
                let _ = tokio::task::spawn_blocking(move || engine.shut_down()).await;
                Err(error)
            }
        }
    }

    async fn assemble(
        common: &Common,
        engine: &Engine,
        tenants: &[(TenantId, &str)],
        running: &mut Running,
    ) -> anyhow::Result<(AppState, Router)> {
        for (tenant, name) in tenants {
            engine.submit(*tenant, Command::PutTenant { name: (*name).to_owned() }).await?;
        }
        let (setup, keys) = (&common.setup, common.auth.keys());
        let url = &common.public_url;
        let callbacks = CallbackDoor { tokens: keys.turn_tokens().clone(), url: format!("{url}/v1/tool-callbacks") };
        let kit = Kit {
            egress: Arc::new(common.egress.clone()),
            secrets: Arc::new(setup.secrets.clone()),
            remote: Some(Arc::new(mcp::OfServers::new(common.egress.clone()))),
            callbacks,
            breakers: Breakers::default(),
            known: KnownTools::default(),
        };
        let calls_url = format!("{url}/v1/turn");
        let door = TurnDoor { tokens: keys.turn_tokens().clone(), calls_url, tools: Some(kit.clone()) };
        let mut publishing = publish::Shared::new(common.egress.clone(), kit.secrets.clone());
        let mut bus = setup.bus.clone();
        if let Some(bus) = &mut bus {
            publishing.mirror = bus.mirror(engine, tenants)?;
        }
        running.workers = offer_all(common, engine, tenants, &door, &publishing).await?;
        let webhooks = offer_webhooks(common, engine, tenants, &mut running.workers).await?;
        forget_revoked(engine, tenants).await?;
        let options = ServerOptions {
            public_url: url.clone(),
            grpc_address: common.address.to_string(),
            home_tenant: common.home(),
        };
        if let Some(bus) = bus {
            running.bus = Some(bus::start(bus, engine, tenants, &common.agents, common.address.port()).await?);
        }
        let state = AppState::new(engine.clone(), common.agents.clone(), common.auth.clone(), options);
        if let Some(bus) = &running.bus {
            state.set_beside(bus.standing());
        }
        if let Some(cluster) = &common.cluster {
            state.set_cluster(cluster.clone());
        }
        state.set_tools(kit);
        state.set_publishing(publishing);
        running.matching = webhooks.values().map(|one| tokio::spawn(one.clone().match_events())).collect();
        state.set_webhooks(webhooks);
        state.set_integrations(setup.integrations.clone());
        let hatchet = Hatchet::start(engine.clone(), gate(&state));
        let router = mainspring_server::router(state.clone()).merge(hatchet.routes()).merge(mcp::routes(&state));
        running.hatchet = Some(hatchet);
        Ok((state, router))
    }

    pub(crate) fn state(&self) -> &AppState {
        &self.state
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Whether the engine goes on.
    pub(crate) fn is_well(&self) -> bool {
        self.engine.health() == Health::Accepting
    }

    /// Ends in order: what was accepted is durable, and in the tables. Nothing is at work any more when it returns.
    pub(crate) async fn finish(&self) {
        self.take_running().stop().await;
        let engine = self.engine.clone();
        let _ = tokio::task::spawn_blocking(move || engine.shut_down()).await;
    }

    /// Ends what can't go on. Nothing it still tries is heard; its threads end when what they wait for does.
    pub(crate) async fn abandon(&self) {
        let running = self.take_running();
        let engine = self.engine.clone();
        let ending = tokio::task::spawn_blocking(move || engine.shut_down());
        let _ = tokio::time::timeout(ABANDON, async {
            running.stop().await;
            let _ = ending.await;
        })
        .await;
    }

    fn take_running(&self) -> Running {
        std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Running {
    async fn stop(self) {
        self.matching.iter().for_each(JoinHandle::abort);
        if let Some(hatchet) = self.hatchet {
            hatchet.stop();
        }
        if let Some(bus) = self.bus {
            bus.stop().await;
        }
        for worker in self.workers {
            worker.stop().await;
        }
    }
}

/// The flows for every tenant, and the example agent where there is one.
async fn offer_all(
    common: &Common,
    engine: &Engine,
    tenants: &[(TenantId, &str)],
    door: &TurnDoor,
    publishing: &publish::Shared,
) -> anyhow::Result<Vec<RunningWorker>> {
    let web: Arc<dyn Outside> =
        Arc::new(Web::new(common.setup.egress.extra_roots.clone()).map_err(anyhow::Error::msg)?);
    let mut workers = Vec::new();
    for (tenant, name) in tenants {
        let client = Client::new(engine.clone(), *tenant);
        let worker = Worker::new(client.clone(), "built-in flows");
        let mut worker = mainspring_flows::offer(worker, &client, &common.agents, web.clone(), door.clone());
        worker = publish::offer(worker, &publish::Configs::new(client.clone(), publishing.clone()));
        if let Some(settings) = &common.setup.example {
            worker = orders_agent::offer(worker, settings.clone());
        }
        workers
            .push(worker.start().await.with_context(|| format!("the flows of tenant {name:?} could not be started"))?);
    }
    Ok(workers)
}

/// Webhooks for every tenant, each on a worker of its own: endpoints that hang take from its slots alone.
async fn offer_webhooks(
    common: &Common,
    engine: &Engine,
    tenants: &[(TenantId, &str)],
    workers: &mut Vec<RunningWorker>,
) -> anyhow::Result<BTreeMap<TenantId, Webhooks>> {
    let shared = Shared::new(Arc::new(common.egress.clone()), common.auth.keys().sealer().clone(), filters());
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
