//! A router in front of an engine in a directory of its own, and how to ask it.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use mainspring_core::{Command, TenantId};
use mainspring_engine::{Engine, EngineOptions};
use mainspring_hatchet::wire::v1::admin_service_server::AdminService;
use mainspring_hatchet::wire::v1::{CreateTaskOpts, CreateWorkflowVersionRequest};
use mainspring_hatchet::{Caller, Hatchet};
use serde_json::Value;
use tempfile::TempDir;
use tonic::Request as Call;
use tonic::codegen::Service;

/// The tenant of the tokens `write` and `read`.
pub(crate) const TENANT: TenantId = TenantId(0x0191_e0c5_7a2b_7c3d_8e4f_a1b2_c3d4_0000);

pub(crate) struct Served {
    pub(crate) hatchet: Hatchet,
    router: Router,
    pub(crate) engine: Engine,
    _dir: TempDir,
}

impl Served {
    pub(crate) async fn start() -> Served {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::open(&EngineOptions::new(dir.path())).expect("an engine");
        engine.submit(TENANT, Command::PutTenant { name: "Test Tenant".to_owned() }).await.expect("a tenant");
        let gate = |token: &str| match token {
            "write" => Some(Caller { tenant: TENANT, writes: true }),
            "read" => Some(Caller { tenant: TENANT, writes: false }),
            _ => None,
        };
        let hatchet = Hatchet::start(engine.clone(), Arc::new(gate));
        Served { router: hatchet.routes(), hatchet, engine, _dir: dir }
    }

    /// Status and body of a REST call.
    pub(crate) async fn rest(&self, token: &str, verb: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(verb).uri(path).header("authorization", format!("Bearer {token}"));
        let request = request.header("content-type", "application/json").body(Body::from(body.to_owned()));
        let response = self.router.clone().call(request.expect("a request")).await.expect("the router never fails");
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let body = to_bytes(response.into_body(), 16 << 20).await.expect("a body");
        if !body.is_empty() {
            assert_eq!(kind.as_deref(), Some("application/json"), "{verb} {path}: SDKs read nothing else");
        }
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// What a call that must work answers.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.rest("read", "GET", path, "").await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// The status of a gRPC call with an empty message, where it is told before anything else.
    pub(crate) async fn grpc(&self, path: &str) -> Option<i32> {
        let request = Request::builder().method("POST").uri(path).header("authorization", "Bearer write");
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let request = request.body(Body::from(vec![0_u8; 5])).expect("a request");
        let response = self.router.clone().call(request).await.expect("the router never fails");
        let status = response.headers().get("grpc-status")?;
        status.to_str().ok()?.parse().ok()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.engine.shut_down();
    }
}

/// A call with a token that may write.
pub(crate) fn call<T>(message: T) -> Call<T> {
    let mut request = Call::new(message);
    request.metadata_mut().insert("authorization", "Bearer write".parse().expect("a header"));
    request
}

/// Registers a workflow of tasks, each with its parents.
pub(crate) async fn register(served: &Served, name: &str, tasks: &[(&str, &[&str])]) {
    let tasks = tasks.iter().map(|(task, parents)| CreateTaskOpts {
        readable_id: (*task).to_owned(),
        action: format!("{}:{task}", name.to_lowercase()),
        timeout: "60s".to_owned(),
        inputs: "{}".to_owned(),
        parents: parents.iter().map(|parent| (*parent).to_owned()).collect(),
        ..CreateTaskOpts::default()
    });
    let request = CreateWorkflowVersionRequest {
        name: name.to_owned(),
        tasks: tasks.collect(),
        event_triggers: vec![format!("{}:happened", name.to_lowercase())],
        ..CreateWorkflowVersionRequest::default()
    };
    AdminService::put_workflow(&served.hatchet, call(request)).await.expect("a workflow");
}
