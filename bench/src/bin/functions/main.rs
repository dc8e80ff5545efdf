//! A service written with the Rust SDK: durable functions, and routes that call them, with the engine in the same process.
//!
//! That is how such functions are deployed in this release; rivals have a border between processes here, which has to be
//! said beside every figure. What is durable and when is the same as in the server: each answer is given after the log
//! says so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use mainspring_bench::{flows, tally};
use mainspring_client::{
    Client, ClientError, Commit, Context, DocumentKey, Failure, PutDocument, Received, SendOptions, SpawnOptions,
    TenantId, Worker, WorkflowDef,
};
use mainspring_core::Command;
use mainspring_core::limit::Limits;
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::window::WindowRules;
use mainspring_flows::{AgentAnswer, AgentRequest, MessageBody, turn};
use mainspring_postgres::{Postgres, PostgresOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANT: TenantId = TenantId(1);
/// Whom the sessions are with, and the function that answers.
const AGENT: &str = "clerk";
/// Functions at once.
const SLOTS: u32 = 100_000;
/// Messages a counter takes together.
const TOGETHER_MAX: u32 = 500;

#[derive(Debug, Parser)]
#[command(about = "A service written with the Rust SDK")]
struct Args {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// The engine's directory.
    #[arg(long)]
    dir: PathBuf,
    /// A PostgreSQL to keep everything in rather than the directory.
    #[arg(long)]
    postgres: Option<String>,
    /// A file in which is kept how many `noop` were done.
    #[arg(long)]
    tally: PathBuf,
}

/// Callers who wait for what their addition came to, by the number they sent along.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<u64>>>>;

#[derive(Clone)]
struct Service {
    client: Client,
    waiting: Waiting,
    asked: Arc<AtomicU64>,
}

/// What is sent to a counter.
#[derive(Debug, Serialize, Deserialize)]
struct Add {
    more: u64,
    /// Who waits for the answer.
    caller: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let limits = Limits { live_runs_max: 2_000_000, ..Limits::default() };
    let options = match &args.postgres {
        Some(url) => EngineOptions::on(Arc::new(Postgres::new(PostgresOptions::new(url))?)),
        None => EngineOptions::new(&args.dir),
    };
    let engine = Engine::open(&EngineOptions { limits, ..options })?;
    engine.submit(TENANT, Command::PutTenant { name: "bench".to_owned() }).await?;
    let client = Client::new(engine.clone(), TENANT);
    let (waiting, done) = (Waiting::default(), tally::counted_in(args.tally));
    let worker = Worker::new(client.clone(), "functions").slots(SLOTS);
    let worker = offer(turns(worker, &client)?, waiting.clone(), done).start().await?;
    let service = Service { client, waiting, asked: Arc::default() };
    let routes = Router::new()
        .route("/noop", post(|State(service): State<Service>| async move { service.call("noop", 0).await }))
        .route("/steps", post(|State(service): State<Service>| async move { service.call("steps", 0).await }))
        .route(
            "/fan-out/{children}",
            post(|State(s): State<Service>, Path(n)| async move { s.call("fan-out", n).await }),
        )
        .route(
            "/sleep/{ms}",
            post(|State(service): State<Service>, Path(ms)| async move { service.begin("sleep", ms).await }),
        )
        .route("/send/noop", post(|State(service): State<Service>| async move { service.begin("noop", 0).await }))
        .route("/counter/{key}/{more}", post(add))
        .route("/message/{session}/{text}", post(message))
        .with_state(service);
    let listener = tokio::net::TcpListener::bind(args.listen).await.context("the address can't be listened on")?;
    axum::serve(axum::serve::ListenerExt::tap_io(listener, |tcp| drop(tcp.set_nodelay(true))), routes).await?;
    worker.stop().await;
    Ok(())
}

/// The flows as they are, without a window, and an agent that answers at once and counts its session's turns.
fn turns(worker: Worker, client: &Client) -> anyhow::Result<Worker> {
    let worker = flows::offer(worker, client, TENANT, AGENT, WindowRules::off())?;
    Ok(worker.function(WorkflowDef::single(AGENT, true), |_: Context, request: AgentRequest| async move {
        let turns = request.state.data.as_u64().unwrap_or(0) + 1;
        Ok::<_, Failure>(AgentAnswer { state: Some(turns.into()), ..AgentAnswer::text("It is on its way.") })
    }))
}

/// The functions, the same as those rivals are given.
fn offer(worker: Worker, waiting: Waiting, done: Arc<AtomicU64>) -> Worker {
    let (slept, counter) = (done.clone(), WorkflowDef { inbox: true, ..WorkflowDef::single("counter", true) });
    worker
        .function(WorkflowDef::single("noop", true), move |_: Context, _: u64| {
            done.fetch_add(1, Ordering::Relaxed);
            async { Ok::<u64, Failure>(0) }
        })
        .function(WorkflowDef::single("steps", true), |ctx: Context, _: u64| async move {
            let mut sum = 0;
            for step in 1..=3_u64 {
                sum += ctx.run("step", || async move { Ok(step) }).await?;
            }
            Ok(sum)
        })
        .function(WorkflowDef::single("fan-out", true), |ctx: Context, children: u64| async move {
            // At once, so that many become durable together.
            let begin = (0..children).map(|_| ctx.spawn("noop", &0, SpawnOptions::default()));
            let calls = futures_util::future::try_join_all(begin).await?;
            for call in calls {
                call.result::<u64>().await?;
            }
            Ok(children)
        })
        .function(WorkflowDef::single("sleep", true), move |ctx: Context, ms: u64| {
            let slept = slept.clone();
            async move {
                ctx.sleep(Duration::from_millis(ms)).await?;
                slept.fetch_add(1, Ordering::Relaxed);
                Ok::<u64, Failure>(ms)
            }
        })
        .function(counter, move |ctx: Context, _: serde_json::Value| count(ctx, waiting.clone()))
}

/// The counter of one key: takes all messages that wait, and writes their sum and that they are done in one decision.
async fn count(ctx: Context, waiting: Waiting) -> Result<u64, Failure> {
    let key = DocumentKey::new("counter", ctx.key().unwrap_or_default());
    let found = ctx.client().document(key.clone()).await.map_err(Failure::retryable)?;
    let mut sum: u64 = match found {
        Some(row) => serde_json::from_slice(&row.body).map_err(Failure::permanent)?,
        None => 0,
    };
    // Begun by a message, so there is one. What comes while these are written is the next run's.
    let Received::Messages(messages) = ctx.receive_or_close(Some(Duration::ZERO), TOGETHER_MAX).await? else {
        return Ok(sum);
    };
    let mut answers = Vec::with_capacity(messages.len());
    for message in messages {
        let add: Add = serde_json::from_slice(&message.payload).map_err(Failure::permanent)?;
        sum += add.more;
        answers.push((add.caller, sum));
    }
    let document = PutDocument { key, expect: None, body: sum.to_string().into(), ttl_ms: None, history: 0 };
    ctx.commit(Commit { force: true, documents: vec![document], ..Commit::default() }).await?;
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    for (caller, sum) in answers {
        if let Some(caller) = waiting.remove(&caller) {
            let _ = caller.send(sum);
        }
    }
    Ok(sum)
}

async fn add(State(service): State<Service>, Path((key, more)): Path<(String, u64)>) -> Result<Json<u64>, Problem> {
    let caller = service.asked.fetch_add(1, Ordering::Relaxed);
    let (answer, answered) = oneshot::channel();
    service.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(caller, answer);
    service.client.send("counter", &key, &Add { more, caller }, SendOptions::default()).await?;
    answered.await.map(Json).map_err(|_| Problem("the counter did not answer".to_owned()))
}

/// A message to a session, answered once its turn has ended: state, reply and its delivery are durable.
async fn message(
    State(service): State<Service>,
    Path((session, text)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let key = format!("{TENANT}:{AGENT}:{session}:web");
    let body = MessageBody { text, ..MessageBody::default() };
    let sent = service.client.send(turn::WORKFLOW, &key, &body, SendOptions::default()).await?;
    service.client.wait::<serde_json::Value>(sent.run).await?;
    Ok(StatusCode::OK)
}

impl Service {
    async fn call(&self, function: &str, input: u64) -> Result<Json<u64>, Problem> {
        let run = self.client.start(function, &input).await?;
        Ok(Json(self.client.wait(run).await?))
    }

    async fn begin(&self, function: &str, input: u64) -> Result<StatusCode, Problem> {
        self.client.start(function, &input).await?;
        Ok(StatusCode::ACCEPTED)
    }
}

struct Problem(String);

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Problem {
        Problem(error.to_string())
    }
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        (StatusCode::SERVICE_UNAVAILABLE, self.0).into_response()
    }
}
