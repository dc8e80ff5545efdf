//! A server in this process, wired as the binary wires it, on a runtime of its own so that it can be killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{Client, RetryPolicy, TenantId, Worker};
use mainspring_core::limit::Limits;
use mainspring_core::row::TokenRow;
use mainspring_core::{Command, Table, TokenId};
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::egress::{EgressOptions, HttpEgress, Policy};
use mainspring_flows::publish;
use mainspring_flows::tools::breaker::Breakers;
use mainspring_flows::tools::catalogue::KnownTools;
use mainspring_flows::tools::{CallbackDoor, Kit, Secrets};
use mainspring_flows::webhooks::{Shared, Webhooks};
use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentKind, AgentSettings, Agents, OnMessage, TurnDoor, Web};
use mainspring_server::api::incoming::Placed;
use mainspring_server::api::tokens;
use mainspring_server::auth::{Auth, Scope};
use mainspring_server::{AppState, Keys, ServerOptions};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::User;

/// The tenant most tests use.
pub(crate) const TENANT_A: TenantId = TenantId(0xa);
/// The one that must see nothing of it.
pub(crate) const TENANT_B: TenantId = TenantId(0xb);

type Offer = Arc<dyn Fn(Worker) -> Worker + Send + Sync>;

/// What a server is started with.
#[derive(Clone)]
pub(crate) struct Setup {
    agents: Vec<(TenantId, String, AgentSettings)>,
    limits: Limits,
    offer: Offer,
    integrations: BTreeMap<String, Placed>,
    mirror: Option<Arc<dyn publish::Mirror>>,
}

/// An HTTP agent that is asked at once, once, and whose turns are queued. Change what a test is about.
pub(crate) fn http(url: &str) -> AgentSettings {
    settings(AgentKind::Http { url: url.to_owned() })
}

/// The same for an agent that is a workflow.
pub(crate) fn workflow(name: &str) -> AgentSettings {
    settings(AgentKind::Workflow { name: name.to_owned() })
}

fn settings(kind: AgentKind) -> AgentSettings {
    AgentSettings {
        on_message: OnMessage::Queue,
        window: WindowRules::off(),
        retry: RetryPolicy {
            attempts_max: 3,
            backoff: Duration::from_millis(10),
            backoff_max: Duration::from_millis(40),
        },
        ..AgentSettings::new(kind)
    }
}

impl Setup {
    pub(crate) fn new() -> Setup {
        Setup {
            agents: Vec::new(),
            limits: Limits::default(),
            offer: Arc::new(|worker| worker),
            integrations: BTreeMap::new(),
            mirror: None,
        }
    }

    /// An agent of both tenants.
    pub(crate) fn agent(mut self, name: &str, settings: AgentSettings) -> Setup {
        self.agents.push((TENANT_A, name.to_owned(), settings.clone()));
        self.agents.push((TENANT_B, name.to_owned(), settings));
        self
    }

    pub(crate) fn limits(mut self, limits: Limits) -> Setup {
        self.limits = limits;
        self
    }

    /// A platform whose webhooks come in.
    pub(crate) fn integration(mut self, id: &str, placed: Placed) -> Setup {
        self.integrations.insert(id.to_owned(), placed);
        self
    }

    /// Where configurations are read besides the tables.
    pub(crate) fn mirror(mut self, mirror: Arc<dyn publish::Mirror>) -> Setup {
        self.mirror = Some(mirror);
        self
    }

    /// Functions the built-in worker offers as well.
    pub(crate) fn offer(mut self, offer: impl Fn(Worker) -> Worker + Send + Sync + 'static) -> Setup {
        self.offer = Arc::new(offer);
        self
    }

    pub(crate) async fn start(self) -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        Server::start(self, dir).await
    }
}

/// A running server.
pub(crate) struct Server {
    url: String,
    setup: Setup,
    dir: Option<TempDir>,
    /// Directories of servers that died before this one.
    left: Vec<TempDir>,
    wired: Option<Wired>,
    runtime: Option<Runtime>,
    http: reqwest::Client,
}

struct Wired {
    state: AppState,
    workers: Vec<mainspring_client::RunningWorker>,
    serving: tokio::task::AbortHandle,
}

impl Server {
    pub(super) async fn start(setup: Setup, dir: TempDir) -> Server {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let wiring = runtime.spawn(wire(setup.clone(), dir.path().to_owned()));
        let (url, wired) = wiring.await.expect("the server starts");
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Server { url, setup, dir: Some(dir), left: Vec::new(), wired: Some(wired), runtime: Some(runtime), http }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn state(&self) -> &AppState {
        &self.wired.as_ref().expect("it runs").state
    }

    /// Whoever holds an admin token of tenant A.
    pub(crate) async fn user(&self) -> User {
        self.user_of(TENANT_A).await
    }

    pub(crate) async fn user_of(&self, tenant: TenantId) -> User {
        self.with_token(&self.token(tenant, &[Scope::Admin], 3_600).await)
    }

    pub(crate) async fn token(&self, tenant: TenantId, scopes: &[Scope], ttl_s: u64) -> String {
        let made = tokens::make(self.state(), tenant, "test", scopes, ttl_s).await;
        made.map_err(|problem| problem.detail).expect("a token is made").token().to_owned()
    }

    pub(crate) fn with_token(&self, token: &str) -> User {
        User::new(self.http.clone(), &self.url, token)
    }

    /// Ends in order, and starts again on the same directory, with the same or another setup.
    pub(crate) async fn restart_with(self, setup: Setup) -> Server {
        let (_, dir) = self.end().await;
        Server::start(setup, dir).await
    }

    /// Ends in order, and gives what it was started with.
    pub(super) async fn end(mut self) -> (Setup, TempDir) {
        let (wired, runtime) = (self.wired.take().expect("it runs"), self.runtime.take().expect("it runs"));
        let ending = runtime.spawn(async move {
            wired.serving.abort();
            for worker in wired.workers {
                worker.stop().await;
            }
            let engine = wired.state.engine().clone();
            tokio::task::spawn_blocking(move || engine.shut_down()).await
        });
        super::in_time("the server ends", ending).await.expect("it ends").expect("it ends");
        runtime.shutdown_background();
        (self.setup.clone(), self.dir.take().expect("it has a directory"))
    }

    pub(crate) async fn restart(self) -> Server {
        let setup = self.setup.clone();
        self.restart_with(setup).await
    }

    /// A copy of the tables as they stand, to be given to [`Server::crash`]: tables may lag behind the log.
    pub(crate) async fn tables_now(&self) -> TempDir {
        self.applied().await;
        let copy = tempfile::tempdir().expect("a directory");
        copy_files(&self.partition(), copy.path());
        copy
    }

    /// Dies without a word, and starts again on what a crash would have left: the log as it is, the tables as they are,
    /// or as they were earlier.
    pub(crate) async fn crash(mut self, old_tables: Option<TempDir>) -> Server {
        self.runtime.take().expect("it runs").shutdown_background();
        self.applied().await;
        let image = tempfile::tempdir().expect("a directory");
        copy_all(self.dir.as_ref().expect("it has a directory").path(), image.path());
        if let Some(old) = old_tables {
            let partition = image.path().join("p0");
            for file in files_of(&partition) {
                std::fs::remove_file(&file).expect("the newer table goes");
            }
            copy_files(old.path(), &partition);
        }
        // The dead server's threads keep their directory: what they still do is not in the image.
        std::mem::forget(self.wired.take());
        let mut after = Server::start(self.setup.clone(), image).await;
        after.left = std::mem::take(&mut self.left);
        after.left.extend(self.dir.take());
        after
    }

    async fn applied(&self) {
        let engine = self.state().engine();
        let position = engine.durable_position(TENANT_A);
        assert!(engine.wait_applied(TENANT_A, position, super::PATIENCE).await, "the tables never caught up");
    }

    pub(super) fn directory(&self) -> &Path {
        self.dir.as_ref().expect("it has a directory").path()
    }

    fn partition(&self) -> PathBuf {
        self.directory().join("p0")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if let Some(wired) = self.wired.take() {
            // Its threads end before the directory goes.
            wired.state.engine().shut_down();
        }
    }
}

async fn wire(setup: Setup, dir: PathBuf) -> (String, Wired) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let options = EngineOptions { limits: setup.limits, ..EngineOptions::new(&dir) };
    let engine = Engine::open(&options).expect("the engine opens");
    let keys = Keys::load_or_create(&dir).expect("there is a key");
    let agents = Agents::new(setup.agents.clone());
    let outgoing = Arc::new(Web::new(Vec::new()).expect("a client"));
    let kit = kit(&keys, &url);
    let egress = EgressOptions { policy: Policy::default().with_loopback(), ..EgressOptions::default() };
    let egress = HttpEgress::new(egress).expect("calls can be made");
    // Who evaluates filters is chosen where the parts are put together: here nobody does.
    let shared = Shared::new(Arc::new(egress), keys.sealer().clone(), Arc::new(|_| Err("no filters here".to_owned())));
    let publishing = publish::Shared {
        egress: Some(kit.egress.clone()),
        secrets: Some(kit.secrets.clone()),
        mirror: setup.mirror.clone(),
    };
    let mut webhooks = BTreeMap::new();
    let mut workers = Vec::new();
    for (tenant, name) in [(TENANT_A, "a"), (TENANT_B, "b")] {
        let put = Command::PutTenant { name: name.to_owned() };
        engine.submit(tenant, put).await.expect("the tenant is there");
        let client = Client::new(engine.clone(), tenant);
        let tools = Some(kit.clone());
        let door = TurnDoor { tokens: keys.turn_tokens().clone(), calls_url: format!("{url}/v1/turn"), tools };
        let worker = Worker::new(client.clone(), "flows");
        let worker = mainspring_flows::offer(worker, &client, &agents, outgoing.clone(), door);
        let worker = publish::offer(worker, &publish::Configs::new(client.clone(), publishing.clone()));
        workers.push((setup.offer)(worker).start().await.expect("the worker starts"));
        let of_tenant = Webhooks::new(client.clone(), shared.clone());
        let worker = of_tenant.offer(Worker::new(client.clone(), "webhooks"));
        workers.push(worker.start().await.expect("the worker starts"));
        tokio::spawn(of_tenant.clone().match_events());
        webhooks.insert(tenant, of_tenant);
        let tokens: Vec<(u128, TokenRow)> =
            engine.read(tenant, move |reader| reader.all(tenant, Table::Token)).await.expect("the tokens are read");
        for (id, _) in tokens.into_iter().filter(|(_, row)| row.revoked_at.is_some()) {
            engine.hub().mark_revoked(TokenId(id));
        }
    }
    let options = ServerOptions { public_url: url.clone(), grpc_address: String::new(), home_tenant: TENANT_A };
    let state = AppState::new(engine, agents, Arc::new(Auth::new(keys)), options);
    state.set_tools(kit);
    state.set_publishing(publishing);
    state.set_webhooks(webhooks);
    state.set_integrations(setup.integrations);
    let router = mainspring_server::router(state.clone());
    let serving = tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    (url, Wired { state, workers, serving: serving.abort_handle() })
}

/// What tools are carried out with: addresses of this machine may be called, and there is one secret.
fn kit(keys: &Keys, url: &str) -> Kit {
    struct OneSecret;
    impl Secrets for OneSecret {
        fn secret(&self, _: TenantId, name: &str) -> Option<String> {
            (name == "provider").then(|| "geheim-4711".to_owned())
        }
    }
    let policy = Policy::default().with_loopback();
    let egress = HttpEgress::new(EgressOptions { policy, ..EgressOptions::default() }).expect("egress");
    Kit {
        egress: Arc::new(egress),
        secrets: Arc::new(OneSecret),
        remote: None,
        callbacks: CallbackDoor { tokens: keys.turn_tokens().clone(), url: format!("{url}/v1/tool-callbacks") },
        breakers: Breakers::default(),
        known: KnownTools::default(),
    }
}

pub(super) fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    copy_files(from, to);
    for entry in std::fs::read_dir(from).expect("readable").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            copy_all(&entry, &to.join(entry.file_name().expect("a name")));
        }
    }
}

pub(super) fn copy_files(from: &Path, to: &Path) {
    for file in files_of(from) {
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("a copy");
    }
}

pub(super) fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry").path()).collect();
    // The index of the journal is made anew from the journal.
    files.retain(|path| path.is_file() && path.extension().is_none_or(|end| end != "sqlite-shm"));
    // The table comes before its journal, which then is at least as new.
    files.sort();
    files
}
