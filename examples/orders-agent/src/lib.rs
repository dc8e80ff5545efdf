//! An example agent, written as a durable function.
//!
//! It answers questions about orders: finds order numbers in the messages, looks them up in a small data file, asks the
//! carrier where the parcels are (a slow tool with an outside effect: it books a line in a file), and streams its answer.
//! Kill the process at any point and start it again: it goes on behind the last step it recorded.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainspring_client::{Context, Failure, Worker, WorkflowDef};
use mainspring_flows::calls::{Artifact, Calls, Reuse};
use mainspring_flows::{AgentAnswer, AgentRequest};
use serde::{Deserialize, Serialize};

/// The workflow's name.
pub const WORKFLOW: &str = "orders-agent";
/// The step with an outside effect.
pub const CARRIER_STEP: &str = "ask the carrier";
/// What it found out, for later attempts.
const CARRIER_PHASE: &str = "carrier";

/// How the example behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file in which the carrier tool books each call, one JSON line each.
    pub side_effects: PathBuf,
    /// How slow the carrier is.
    pub carrier: Duration,
    /// How long it thinks before the first word of the answer. Until then a message may still interrupt it.
    pub thinking: Duration,
    /// The pause between two words of the answer.
    pub word: Duration,
}

/// An order of the data file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    number: String,
    item: String,
    status: String,
    parcel: Option<String>,
}

/// What the carrier said, and the mark its booking left.
#[derive(Debug, Serialize, Deserialize)]
struct Carrier {
    nonce: String,
    whereabouts: Vec<String>,
}

/// Offers the agent through a worker.
#[must_use]
pub fn offer(worker: Worker, settings: Settings) -> Worker {
    worker.function(WorkflowDef::single(WORKFLOW, true), move |ctx: Context, request: AgentRequest| {
        let settings = settings.clone();
        async move { answer(ctx, request, settings).await }
    })
}

async fn answer(ctx: Context, request: AgentRequest, settings: Settings) -> Result<AgentAnswer, Failure> {
    let calls = Calls::of_request(ctx.client(), &request)
        .ok_or_else(|| Failure::permanent("the request has no turn token: is this server older than the agent?"))?;
    // Whoever has begun to read an answer is not given another: the first word passes the commit point.
    let voice = calls.voice();

    voice.status("looking up orders");
    let orders: Vec<Order> = ctx.run("look up orders", || async { look_up(&request) }).await?;

    let parcels: Vec<String> = orders.iter().filter_map(|order| order.parcel.clone()).collect();
    voice.status("asking the carrier");
    let run = ctx.run_id().to_string();
    let carrier: Carrier =
        ctx.run(CARRIER_STEP, || ask_carrier_once(&settings, &calls, &run, &request.turn_id, &parcels)).await?;

    voice.status("writing the answer");
    let text = compose(&request, &orders, &carrier);
    let text: String = ctx
        .run("write the answer", || async {
            tokio::time::sleep(settings.thinking).await;
            for word in text.split_inclusive(' ') {
                voice.delta(word).await.map_err(Failure::permanent)?;
                tokio::time::sleep(settings.word).await;
            }
            Ok(text.clone())
        })
        .await?;
    Ok(AgentAnswer::text(text))
}

/// The orders named in the messages.
fn look_up(request: &AgentRequest) -> Result<Vec<Order>, Failure> {
    let all: Vec<Order> = serde_json::from_str(include_str!("../orders.json")).map_err(Failure::permanent)?;
    let named = |order: &Order| {
        request
            .messages
            .iter()
            .any(|message| message.text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits == order.number))
    };
    Ok(all.into_iter().filter(named).collect())
}

/// Asks the carrier, unless an earlier attempt at this turn, or one it took over, asked about the same parcels.
async fn ask_carrier_once(
    settings: &Settings,
    calls: &Calls,
    run: &str,
    turn: &str,
    parcels: &[String],
) -> Result<Carrier, Failure> {
    let fingerprint = format!("parcels {}", parcels.join(","));
    if let Ok(Ok(known)) = calls.artifact(CARRIER_PHASE, &fingerprint, "").await {
        return serde_json::from_value(known.data).map_err(Failure::permanent);
    }
    let carrier = ask_carrier(settings, run, turn, parcels).await?;
    let artifact = Artifact {
        phase: CARRIER_PHASE.to_owned(),
        data: serde_json::to_value(&carrier).map_err(Failure::permanent)?,
        input_fingerprint: fingerprint,
        dependency_fingerprint: String::new(),
        reuse: Reuse::Always,
        turn_id: String::new(),
        reuse_count: 0,
    };
    // Only to spare a later attempt the wait.
    let _ = calls.put_artifact(artifact).await;
    Ok(carrier)
}

/// A slow tool with an outside effect. The line it books tells how often it was really called.
async fn ask_carrier(settings: &Settings, run: &str, turn: &str, parcels: &[String]) -> Result<Carrier, Failure> {
    tokio::time::sleep(settings.carrier).await;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(Failure::retryable)?;
    let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    book(&settings.side_effects, run, turn, &nonce).map_err(Failure::retryable)?;
    let whereabouts = parcels.iter().map(|parcel| format!("parcel {parcel} is at the sorting centre")).collect();
    Ok(Carrier { nonce, whereabouts })
}

fn book(path: &Path, run: &str, turn: &str, nonce: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let line = serde_json::json!({ "run": run, "turn": turn, "step": CARRIER_STEP, "nonce": nonce });
    // One write of a whole line: a kill leaves it whole or leaves it out.
    OpenOptions::new().create(true).append(true).open(path)?.write_all(format!("{line}\n").as_bytes())
}

fn compose(request: &AgentRequest, orders: &[Order], carrier: &Carrier) -> String {
    let mut lines: Vec<String> = request.messages.iter().map(|message| format!("> {}", message.text)).collect();
    lines.push(String::new());
    if orders.is_empty() {
        lines.push("I know orders 1042, 1043, 1044 and 1051. Which one is it about?".to_owned());
    }
    for order in orders {
        lines.push(format!("Order {}, {}, is {}.", order.number, order.item, order.status));
    }
    lines.extend(carrier.whereabouts.iter().map(|place| format!("The carrier says: {place}.")));
    lines.push(format!("({} messages)", request.messages.len()));
    lines.join("\n")
}
