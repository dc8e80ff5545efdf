//! What all handlers share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use mainspring_client::{Client, TenantId};
use mainspring_engine::Engine;
use mainspring_flows::Agents;

use crate::auth::Auth;
use crate::auth::Keys;
use crate::pages::Pages;

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
