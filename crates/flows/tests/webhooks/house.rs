//! A tenant with webhooks, on an engine in a directory that can be closed, killed and opened again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{Client, RunningWorker, TenantId, Worker};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::Secret;
use mainspring_flows::egress::{EgressOptions, HttpEgress, Policy};
use mainspring_flows::seal::Sealer;
use mainspring_flows::webhooks::delivery::{Attempt, Outcome};
use mainspring_flows::webhooks::{Choices, Filters, Seen, Shared, Subscription, Webhooks};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::endpoint::Endpoint;

pub(crate) const TENANT: TenantId = TenantId(0xa);
pub(crate) const SESSION: &str = "0000000000000000000000000000000a:orders:anna:web";

/// A process: what it does ends when this is dropped, without any order, as with `kill -9`.
pub(crate) struct House {
    pub(crate) webhooks: Webhooks,
    /// Dropped first: everything that was going on ends where it is.
    runtime: Option<Runtime>,
    engine: Engine,
    _worker: RunningWorker,
}

/// What a process is opened with.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    pub(crate) policy: Option<Policy>,
    pub(crate) name_servers: Vec<SocketAddr>,
    /// Nothing is matched.
    pub(crate) blind: bool,
}

/// Filters of the tests: `name=X`, or `n>X` over the event's data.
pub(crate) fn filters() -> Filters {
    Arc::new(|text: &str| {
        let text = text.to_owned();
        if let Some(name) = text.strip_prefix("name=") {
            let name = name.to_owned();
            return Ok(Arc::new(move |seen: Seen<'_>| Ok(seen.name == name)));
        }
        let more: i64 = text.strip_prefix("n>").and_then(|n| n.parse().ok()).ok_or("it is no filter of these tests")?;
        Ok(Arc::new(move |seen: Seen<'_>| {
            seen.data["n"].as_i64().map(|n| n > more).ok_or_else(|| "the event has no n".to_owned())
        }))
    })
}

impl House {
    pub(crate) fn open(dir: &Path) -> House {
        House::open_with(dir, Setup::default())
    }

    pub(crate) fn open_with(dir: &Path, setup: Setup) -> House {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let engine = Engine::open(&EngineOptions::new(dir)).unwrap();
        let policy = setup.policy.unwrap_or_else(|| Policy::default().with_loopback());
        let (webhooks, worker) = runtime.block_on(async {
            engine.submit(TENANT, Command::PutTenant { name: "acme".to_owned() }).await.unwrap();
            let options = EgressOptions { policy, name_servers: setup.name_servers, extra_roots: Vec::new() };
            let egress = Arc::new(HttpEgress::new(options).unwrap());
            let shared = Shared::new(egress, Sealer::new([7; 32]), filters());
            let webhooks = Webhooks::new(Client::new(engine.clone(), TENANT), shared);
            let worker = webhooks.offer(Worker::new(webhooks.client().clone(), "webhooks")).start().await.unwrap();
            if !setup.blind {
                tokio::spawn(webhooks.clone().match_events());
            }
            (webhooks, worker)
        });
        House { webhooks, runtime: Some(runtime), engine, _worker: worker }
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// A subscription whose endpoint was verified.
    pub(crate) fn subscribe(&self, endpoint: &Endpoint, choices: Choices) -> (Subscription, Secret) {
        self.run(async {
            let choices = Choices { url: endpoint.url(), ..choices };
            let (made, secret) = self.webhooks.create(choices).await.unwrap();
            let verified = self.webhooks.verify(&made.id).await.unwrap();
            (verified, secret)
        })
    }

    pub(crate) fn emit(&self, name: &str, n: u64) -> u64 {
        self.emit_in(name, Some(SESSION), n)
    }

    pub(crate) fn emit_in(&self, name: &str, scope: Option<&str>, n: u64) -> u64 {
        self.run(async { self.webhooks.client().emit(name, scope, &json!({ "n": n })).await.unwrap() })
    }

    /// The tries on record, oldest first, once there are so many.
    pub(crate) fn attempts(&self, id: &str, count: usize) -> Vec<Attempt> {
        self.run(async {
            loop {
                let (mut found, _) = self.webhooks.attempts(id, None, 200).await.unwrap();
                if found.len() >= count {
                    found.reverse();
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    /// Waits until something holds.
    pub(crate) fn until<F: Future<Output = bool>>(&self, mut holds: impl FnMut() -> F) {
        self.run(async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// Ends everything in the middle of whatever it does.
    pub(crate) fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        self.engine.shut_down();
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            self.engine.shut_down();
        }
    }
}

pub(crate) fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Quick retries, so many.
pub(crate) fn quick(tries_more: usize) -> Vec<u64> {
    vec![20; tries_more]
}

pub(crate) fn outcomes(attempts: &[Attempt]) -> Vec<Outcome> {
    attempts.iter().map(|attempt| attempt.outcome).collect()
}
