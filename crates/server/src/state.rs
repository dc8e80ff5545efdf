//! What all handlers share.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use mainspring_client::{Client, TenantId};
use mainspring_engine::Engine;
use mainspring_flows::Agents;
use mainspring_flows::publish::{Configs, Shared};
use mainspring_flows::tools::{Door as ToolDoor, Kit};
use mainspring_flows::webhooks::Webhooks;
use serde::Serialize;

use crate::api::incoming::Placed;
use crate::api::webhooks::OfTenants;
use crate::auth::Auth;
use crate::pages::Pages;
use crate::problem::Problem;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The address clients reach it at, for tokens and pages.
    pub public_url: String,
    /// The address Hatchet SDKs will be told for gRPC.
    pub grpc_address: String,
    /// The tenant a person without a choice sees first.
    pub home_tenant: TenantId,
}

/// A short code that stands for a token in an address, so that `dev` can print one a person may read.
#[derive(Debug)]
struct Door {
    code: String,
    token: String,
}

/// A number for `/metrics`.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, after `mainspring_`.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it is.
    pub help: &'static str,
    /// How much.
    pub value: u64,
}

/// How far a group is with a partition of a stream that is kept elsewhere.
#[derive(Debug, Clone, Serialize)]
pub struct StreamLag {
    /// The stream's name, without its partition.
    pub stream: String,
    /// The group.
    pub group: String,
    /// The partition.
    pub partition: u32,
    /// Entries not handed out yet.
    pub waiting: u64,
    /// Entries handed out and not acknowledged.
    pub pending: u64,
    /// When the oldest that is not acknowledged was published, in milliseconds since the Unix epoch.
    pub oldest_at: Option<u64>,
    /// Which consumer holds the partition.
    pub held_by: Option<String>,
}

/// What this process uses beside its own store and can go on without.
pub trait Beside: Send + Sync {
    /// What is wrong with it, as sentences that say what to do. Nothing while all is well.
    fn degraded(&self) -> Vec<String>;

    /// Its numbers.
    fn metrics(&self) -> Vec<Metric>;

    /// How a tenant's streams stood when it last looked, if they are kept elsewhere.
    fn streams(&self, tenant: TenantId) -> Vec<StreamLag>;
}

/// How the nodes of the cluster stand, as JSON, with the partition of the tenant that asks.
pub type Cluster = Arc<dyn Fn(TenantId) -> serde_json::Value + Send + Sync>;

/// Shared by all handlers. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    agents: Agents,
    auth: Arc<Auth>,
    pages: Pages,
    options: ServerOptions,
    door: OnceLock<Door>,
    kit: OnceLock<Kit>,
    publishing: OnceLock<Shared>,
    webhooks: OnceLock<OfTenants>,
    integrations: OnceLock<BTreeMap<String, Placed>>,
    beside: OnceLock<Arc<dyn Beside>>,
    cluster: OnceLock<Cluster>,
    requests: AtomicU64,
    accepted: AtomicU64,
}

impl AppState {
    /// Puts the server's parts together.
    pub fn new(engine: Engine, agents: Agents, auth: Arc<Auth>, options: ServerOptions) -> Self {
        let inner = Inner {
            engine,
            agents,
            auth,
            pages: Pages::new(),
            options,
            door: OnceLock::new(),
            kit: OnceLock::new(),
            publishing: OnceLock::new(),
            webhooks: OnceLock::new(),
            integrations: OnceLock::new(),
            beside: OnceLock::new(),
            cluster: OnceLock::new(),
            requests: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        };
        AppState { inner: Arc::new(inner) }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// A client for one tenant.
    pub fn client(&self, tenant: TenantId) -> Client {
        Client::new(self.inner.engine.clone(), tenant)
    }

    /// The agents.
    pub fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    /// Gives the server what tools are carried out with. Once, before anything is served.
    pub fn set_tools(&self, kit: Kit) {
        let _ = self.inner.kit.set(kit);
    }

    /// Tools of a tenant.
    ///
    /// # Errors
    /// A 404 if this process carries out none.
    pub fn tools(&self, tenant: TenantId) -> Result<ToolDoor, Problem> {
        let kit = self.inner.kit.get().ok_or_else(|| Problem::not_found("tools in this process"))?;
        Ok(ToolDoor::new(self.client(tenant), kit.clone()))
    }

    /// Gives the server what configurations are published with. Once, before anything is served.
    pub fn set_publishing(&self, shared: Shared) {
        let _ = self.inner.publishing.set(shared);
    }

    /// The configurations of a tenant's agents.
    ///
    /// # Errors
    /// A 404 if this process publishes none.
    pub fn configs(&self, tenant: TenantId) -> Result<Configs, Problem> {
        let shared = self.inner.publishing.get();
        let shared = shared.ok_or_else(|| Problem::not_found("configuration in this process"))?;
        Ok(Configs::new(self.client(tenant), shared.clone()))
    }

    /// Who may do what.
    pub fn auth(&self) -> &Auth {
        &self.inner.auth
    }

    /// The pages.
    pub fn pages(&self) -> &Pages {
        &self.inner.pages
    }

    /// The options.
    pub fn options(&self) -> &ServerOptions {
        &self.inner.options
    }

    /// Gives tenants their webhooks. Once, before anything is served.
    pub fn set_webhooks(&self, webhooks: OfTenants) {
        let _ = self.inner.webhooks.set(webhooks);
    }

    /// Some tenant's webhooks: what they share says how those of all tenants do.
    pub fn any_webhooks(&self) -> Option<&Webhooks> {
        self.inner.webhooks.get()?.values().next()
    }

    /// The webhooks of a tenant.
    ///
    /// # Errors
    /// A 404 if this process has none for it.
    pub fn webhooks(&self, tenant: TenantId) -> Result<&Webhooks, Problem> {
        let found = self.inner.webhooks.get().and_then(|all| all.get(&tenant));
        found.ok_or_else(|| Problem::not_found("webhooks of this tenant"))
    }

    /// Gives integrations of platforms their addresses. Once, before anything is served.
    pub fn set_integrations(&self, integrations: BTreeMap<String, Placed>) {
        let _ = self.inner.integrations.set(integrations);
    }

    /// The integration of an address.
    ///
    /// # Errors
    /// A 404 if there is none.
    pub fn integration(&self, id: &str) -> Result<&Placed, Problem> {
        let found = self.inner.integrations.get().and_then(|all| all.get(id));
        found.ok_or_else(|| Problem::not_found("integration"))
    }

    /// Gives the server what it tells of in `/readyz` and `/metrics`. Once, before anything is served.
    pub fn set_beside(&self, beside: Arc<dyn Beside>) {
        let _ = self.inner.beside.set(beside);
    }

    /// What this process uses beside its own store, if anything.
    pub fn beside(&self) -> Option<&dyn Beside> {
        self.inner.beside.get().map(|beside| &**beside)
    }

    /// Gives the server what it tells of at `/v1/cluster`. Once, before anything is served.
    pub fn set_cluster(&self, cluster: Cluster) {
        let _ = self.inner.cluster.set(cluster);
    }

    /// How the nodes stand, if this is one of several.
    pub fn cluster(&self, tenant: TenantId) -> Option<serde_json::Value> {
        self.inner.cluster.get().map(|cluster| cluster(tenant))
    }

    /// Lets a short code stand for a token in addresses of this process. For `dev`, which listens on loopback only.
    pub fn open_door(&self, code: String, token: String) {
        let _ = self.inner.door.set(Door { code, token });
    }

    /// The token a text stands for: that of the door, or the text itself.
    pub fn token_for<'a>(&'a self, text: &'a str) -> &'a str {
        self.inner.door.get().filter(|door| door.code == text).map_or(text, |door| &door.token)
    }

    /// Requests served.
    pub fn requests(&self) -> &AtomicU64 {
        &self.inner.requests
    }

    /// Messages accepted by this process.
    pub fn accepted(&self) -> &AtomicU64 {
        &self.inner.accepted
    }
}
