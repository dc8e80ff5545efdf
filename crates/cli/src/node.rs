//! One of several nodes on a PostgreSQL: wires partitions that come and go to the one port of the process.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, extract};
use mainspring_client::TenantId;
use mainspring_cluster::{Board, Front, FrontOptions, Host, Keeper, LOOK_PATH, Opening, Stop, Unserved};
use mainspring_engine::{Engine, EngineOptions, partition_of};
use mainspring_postgres::{NodeId, Nodes, Postgres, PostgresOptions};
use mainspring_server::api::ops;
use mainspring_server::problem::Problem;
use mainspring_server::{AppState, metrics, whose};
use mainspring_store::Store;
use serde::Deserialize;

use crate::part::{Common, Part};
use crate::start::{Setup, announce, stop_signal};
use crate::{listen, local};

/// Partitions of a new store in PostgreSQL: as many cores as a cluster can ever use, and few enough that each costs nothing.
pub(crate) const PARTITIONS: u16 = 64;

/// Which database nodes share.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfiguredPostgres {
    /// `postgres://`. One with a password is better kept in the environment.
    url: Option<String>,
    /// The environment variable that has the address.
    url_env: Option<String>,
    /// The schema everything is in.
    schema: Option<String>,
    /// The cluster's name: nodes of another can't join it by mistake.
    cluster: Option<String>,
    /// The file with the certificates of the database's authority, in PEM.
    ca: Option<PathBuf>,
    /// How long one answer of the database may take.
    patience_ms: Option<u64>,
    /// Connections of this node, at most.
    connections: Option<usize>,
}

impl std::fmt::Debug for ConfiguredPostgres {
    /// Without the address: it may have a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfiguredPostgres").finish_non_exhaustive()
    }
}

impl ConfiguredPostgres {
    fn options(&self) -> anyhow::Result<PostgresOptions> {
        let url = match (&self.url, &self.url_env) {
            (Some(url), None) => url.clone(),
            (None, Some(name)) => {
                std::env::var(name).with_context(|| format!("postgres.url_env: {name} is not set: export it"))?
            }
            _ => bail!("[postgres] needs either url or url_env, and not both"),
        };
        let mut options = PostgresOptions::new(url);
        options.schema = self.schema.clone().unwrap_or(options.schema);
        options.cluster = self.cluster.clone().unwrap_or(options.cluster);
        options.ca.clone_from(&self.ca);
        // Shorter than alone: a lease ends meanwhile, and requests can go to another node.
        options.patience = Duration::from_millis(self.patience_ms.unwrap_or(5_000));
        if let Some(connections) = self.connections {
            if connections < 4 {
                bail!("postgres.connections must be 4 at least");
            }
            // A third for logs, which need one for the length of a statement; one is for the lease.
            options.log_connections_max = connections / 3;
            options.table_connections_max = connections - connections / 3 - 1;
        }
        Ok(options)
    }
}

/// Which node this is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfiguredNode {
    /// What people call it; the machine's name if it is not said.
    name: Option<String>,
    /// Where the other nodes reach it: host and port. Where it listens, if it is not said.
    address: Option<String>,
    /// How long the others wait before they take over what a vanished node has.
    lease_ms: Option<u64>,
}

impl ConfiguredNode {
    /// With what the environment says instead, so that all nodes can have the same file.
    fn overridden(&self) -> ConfiguredNode {
        let said = |variable: &str, here: &Option<String>| std::env::var(variable).ok().or_else(|| here.clone());
        ConfiguredNode {
            name: said("MAINSPRING_NODE_NAME", &self.name),
            address: said("MAINSPRING_NODE_ADDRESS", &self.address),
            lease_ms: self.lease_ms,
        }
    }
}

/// Runs a node until it is told to stop.
pub(crate) async fn run(
    setup: Setup,
    postgres: &ConfiguredPostgres,
    configured: &ConfiguredNode,
) -> anyhow::Result<()> {
    let configured = configured.overridden();
    let lease = Duration::from_millis(configured.lease_ms.unwrap_or(5_000));
    if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&lease) {
        bail!("node.lease_ms may be 1000 to 60000");
    }
    let listener = listen::bind(setup.listen).await?;
    let address = listener.local_addr()?;
    if configured.address.is_none() && address.ip().is_unspecified() {
        bail!("the others can't reach this node at {address}: say with node.address where they do (host:port)");
    }
    let reached = configured.address.clone().unwrap_or_else(|| address.to_string());
    if reached.parse::<axum::http::uri::Authority>().is_err() {
        bail!("node.address: {reached:?} is not host:port");
    }
    let keys = {
        std::fs::create_dir_all(&setup.dir).with_context(|| setup.dir.display().to_string())?;
        setup.keys()?
    };
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let id = NodeId(u128::from_le_bytes(random));
    let options = PostgresOptions { node: Some(id), ..postgres.options()? };
    let name = configured.name.clone().unwrap_or_else(listen::host_name);
    let (wanted, signed_by) = (setup.store.partitions.unwrap_or(PARTITIONS), keys.fingerprint().to_owned());
    let (store, nodes, count) = tokio::task::spawn_blocking(move || {
        let store = Postgres::new(options.clone())?;
        let count = store.partitions(wanted)?;
        let nodes = Nodes::new(&options, &name, &reached, env!("CARGO_PKG_VERSION"), lease)?;
        nodes.join(&signed_by)?;
        anyhow::Ok((Arc::new(store), Arc::new(nodes), count))
    })
    .await??;

    let mut common = Common::new(setup, keys, address)?;
    let board = Board::new(id);
    let seen = board.clone();
    common.set_cluster(Arc::new(move |tenant| {
        let mut view = serde_json::to_value(seen.view()).unwrap_or_default();
        view["partition"] = partition_of(tenant, count).into();
        view
    }));
    let common = Arc::new(common);
    let house = House { common: common.clone(), store, count, parts: Arc::default() };
    let front = front(&common, &board, count, 3 * lease);
    let serving = tokio::spawn(listen::serve(listener, routes(front, &board, &house)));
    let keeper = Keeper::new(nodes, board, Arc::new(house));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let keeping = tokio::spawn(keeper.run(async move {
        let _ = stopped.await;
    }));
    local::write(&common.setup().dir, &format!("http://{address}"), &common)?;
    announce(common.setup(), common.public_url(), None)?;

    stop_signal().await?;
    tracing::info!("leaving: partitions are handed over first");
    let _ = stop.send(());
    keeping.await?;
    serving.abort();
    local::remove(&common.setup().dir);
    Ok(())
}

/// Opens the partitions that come to this node. Cheap to clone.
#[derive(Clone)]
struct House {
    common: Arc<Common>,
    store: Arc<Postgres>,
    count: u16,
    /// What is open, for metrics.
    parts: Arc<Mutex<BTreeMap<u16, AppState>>>,
}

impl House {
    fn states(&self) -> Vec<AppState> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    async fn open_part(&self, number: u16) -> anyhow::Result<Held> {
        let setup = self.common.setup();
        let options = EngineOptions {
            retention: setup.store.retention(),
            limits: setup.limits,
            ..EngineOptions::on(self.store.clone())
        };
        let count = self.count;
        let engine = tokio::task::spawn_blocking(move || Engine::open_one(&options, number, count)).await??;
        let here = |(tenant, _): &(TenantId, &str)| partition_of(*tenant, count) == number;
        let tenants = self.common.tenants().into_iter().filter(here).collect();
        let part = Part::open(&self.common, engine, tenants).await?;
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(number, part.state().clone());
        Ok(Held { number, part, house: self.clone() })
    }
}

impl Host for House {
    fn open(&self, partition: u16) -> Opening<'_> {
        Box::pin(async move {
            let held = self.open_part(partition).await.map_err(|error| format!("{error:#}"))?;
            Ok(Arc::new(held) as Arc<dyn mainspring_cluster::Part>)
        })
    }
}

/// A partition in this node's hands.
struct Held {
    number: u16,
    part: Part,
    house: House,
}

impl mainspring_cluster::Part for Held {
    fn router(&self) -> Router {
        self.part.router()
    }

    fn is_well(&self) -> bool {
        self.part.is_well()
    }

    fn stop(&self, how: Stop) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.house.parts.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        Box::pin(async move {
            match how {
                Stop::HandOver => self.part.finish().await,
                Stop::Abandon => self.part.abandon().await,
            }
        })
    }
}

/// Knows by its token, address or cookie where a request belongs.
fn front(common: &Arc<Common>, board: &Board, count: u16, patience: Duration) -> Front {
    let common = common.clone();
    let belongs = move |parts: &Parts| {
        whose(parts, common.auth(), &common.setup().integrations).map(|tenant| partition_of(tenant, count))
    };
    Front::new(board.clone(), Arc::new(belongs), refuse, FrontOptions { patience, ..FrontOptions::default() })
}

/// The routes of the node itself, and before all others the way to the partitions.
fn routes(front: Front, board: &Board, house: &House) -> Router {
    let (looked, ready, counted) = (board.clone(), board.clone(), board.clone());
    let (of_ready, of_metrics) = (house.clone(), house.clone());
    let readyz = move || {
        let (lease_stands, _) = ready.standing();
        let states = of_ready.states();
        async move {
            if !lease_stands {
                let action = "see that the database is reachable; partitions come back by themselves";
                let detail = "this node could not renew its lease";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "lease_lost", detail, action));
            }
            ops::readiness(&states)
        }
    };
    let metrics = move || {
        let (states, (lease_stands, open)) = (of_metrics.states(), counted.standing());
        let (forwarded, waiting) = counted.counts();
        async move {
            let mut text = metrics::text(&states).await;
            for (name, kind, help, value) in [
                ("lease_stands", "gauge", "1 while this node's lease stands.", u64::from(lease_stands)),
                ("partitions_open", "gauge", "Partitions open on this node.", open as u64),
                ("requests_forwarded_total", "counter", "Requests passed on to other nodes.", forwarded),
                ("requests_waiting", "gauge", "Requests that wait for a partition.", waiting as u64),
            ] {
                text.push_str(&metrics::line(name, kind, help, value));
            }
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
        }
    };
    Router::new()
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route(LOOK_PATH, post(move || async move { looked.ask_to_look() }))
        .fallback(move |request: extract::Request| {
            let front = front.clone();
            async move { front.serve(request).await }
        })
}

/// Says why a request was not answered, in the words of who asked.
fn refuse(parts: &Parts, why: Unserved) -> Response {
    let (code, detail, action) = match why {
        Unserved::Away => (
            "partition_away",
            "no node has this tenant's partition at the moment, or the database can't be reached",
            "send it again in a moment; /readyz of the nodes says which can't",
        ),
        Unserved::Busy => ("busy", "too many requests wait for partitions that are on the way", "send it again later"),
        Unserved::Unknown => (
            "outcome_unknown",
            "the node that worked on it is gone, and whether it was carried out is not known",
            "send it again with the same Idempotency-Key, or look whether it was carried out",
        ),
    };
    let kind = parts.headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        // UNAVAILABLE: SDKs connect and ask again.
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static(detail));
        return response;
    }
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail, action);
    Problem { retry_after_ms: Some(1_000), ..problem }.into_response()
}
