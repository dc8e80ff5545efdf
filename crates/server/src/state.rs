//! What all handlers share.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use mainspring_client::{Client, TenantId};
use mainspring_engine::Engine;
use mainspring_flows::Agents;
use mainspring_flows::tools::{Door as ToolDoor, Kit};
use mainspring_flows::webhooks::Webhooks;

use crate::api::incoming::Placed;
use crate::api::webhooks::OfTenants;
use crate::auth::Auth;
use crate::auth::Keys;
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

/// Shared by all handlers. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    agents: Agents,
    auth: Auth,
    pages: Pages,
    options: ServerOptions,
    door: OnceLock<Door>,
    kit: OnceLock<Kit>,
    webhooks: OnceLock<OfTenants>,
    integrations: OnceLock<BTreeMap<String, Placed>>,
    requests: AtomicU64,
    accepted: AtomicU64,
}

impl AppState {
    /// Puts the server's parts together.
    pub fn new(engine: Engine, agents: Agents, keys: Keys, options: ServerOptions) -> Self {
        let inner = Inner {
            engine,
            agents,
            auth: Auth::new(keys),
            pages: Pages::new(),
            options,
            door: OnceLock::new(),
            kit: OnceLock::new(),
            webhooks: OnceLock::new(),
            integrations: OnceLock::new(),
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
