//! What a process runs itself: the flows with agents of each kind, and durable functions that use everything there is.

use std::sync::Arc;
use std::time::Duration;

use mainspring_client::{
    Client, ClientError, Context, Failure, OnParentEnd, RetryPolicy, RetryRule, RunningWorker, SpawnOptions, TenantId,
    Worker, WorkflowDef,
};
use mainspring_core::Command;
use mainspring_flows::{AgentCall, Agents, Decision, TurnDoor, TurnTokens};
use serde_json::{Value, json};

use crate::agents::{self, AGENTS, settings};
use crate::chance::Chance;
use crate::host::Host;
use crate::outside::SimOutside;
use crate::pump::Process;

/// Registers and offers everything for every tenant, until the process ends.
pub async fn offer(host: Host, process: Arc<Process>) {
    let outside = Arc::new(SimOutside::new(host.clone(), process.clone()));
    let mut workers = Vec::new();
    for tenant in host.tenants() {
        tokio::spawn(listen(host.clone(), process.clone(), tenant));
        match offer_one(&host, &process, tenant, outside.clone()).await {
            Ok(worker) => workers.push(worker),
            // The process is ending, or its partition has stopped: whoever supervises it sees that.
            Err(error) => host.sim().trace(format_args!("process {} offers nothing: {error}", process.number)),
        }
    }
    // A worker works for as long as it is held.
    process.ended.wait().await;
}

async fn offer_one(
    host: &Host,
    process: &Arc<Process>,
    tenant: TenantId,
    outside: Arc<SimOutside>,
) -> Result<RunningWorker, ClientError> {
    let client = Client::new(process.engine.clone(), tenant);
    client.submit_patiently(Command::PutTenant { name: format!("tenant {}", tenant.0) }).await?;
    let agents =
        Agents::new(AGENTS.iter().enumerate().map(|(nth, (name, ..))| (tenant, (*name).to_owned(), settings(nth))));
    let idle = Duration::from_millis(host.sim().plan().idle_ms);
    let worker = Worker::new(client.clone(), "built-in flows").idle_after(idle);
    let door =
        TurnDoor { tokens: TurnTokens::new([7; 32]), calls_url: "http://server/v1/turn".to_owned(), tools: None };
    let worker = mainspring_flows::offer(worker, &client, &agents, outside, door);
    let def = |name: &str| {
        let mut def = WorkflowDef::single(name, true);
        def.tasks[0].retry = RetryRule { attempts_max: 4, backoff_ms: 50, backoff_percent: 200, backoff_max_ms: 500 };
        def
    };
    let own = || Own::of(host, process);
    let (a, b, c, d) = (own(), own(), own(), own());
    worker
        .function(def("agent-function"), move |ctx, call: AgentCall| agent_function(a.clone(), ctx, call))
        .function(def("saga"), move |ctx, input: Value| saga(b.clone(), ctx, input))
        .function(def("drift"), move |ctx, input: Value| drift(c.clone(), ctx, input))
        .function(def("trip"), move |ctx, input: Value| trip(d.clone(), ctx, input))
        .start()
        .await
}

/// What a function has of its own: the process it is part of, and chance.
#[derive(Clone)]
struct Own {
    host: Host,
    process: Arc<Process>,
}

impl Own {
    fn of(host: &Host, process: &Arc<Process>) -> Own {
        Own { host: host.clone(), process: process.clone() }
    }

    /// A step that must not be carried out again once its result is recorded.
    async fn once(&self, ctx: &Context, name: &str, ms_max: u64) -> Result<String, Failure> {
        self.once_after(ctx, name, ms_max, None).await
    }

    /// The same, where the step `noted` was noted right before: that must be on record by the time this one begins.
    async fn once_after(&self, ctx: &Context, name: &str, ms_max: u64, noted: Option<&str>) -> Result<String, Failure> {
        let label = format!("once {name}");
        let run = ctx.run_id().0;
        ctx.run(&label, || async {
            let mut chance: Chance = self.host.sim().fork();
            // A process that was put aside may repeat a step until it finds out; whoever took over must not.
            if !self.process.has_ended() && self.host.current().is_some_and(|up| up.number == self.process.number) {
                self.host.sim().trace(format_args!("step {label:?} of {run:x} in process {}", self.process.number));
                self.host.sim().lock().books.step_begins(run, &label, noted);
            }
            self.host.sim().pause(&mut chance, ms_max).await;
            if self.process.has_ended() {
                std::future::pending::<()>().await;
            }
            Ok(format!("{label} of {run:x}"))
        })
        .await
    }
}

/// Something that is only read, and recorded with what comes next.
async fn noted(ctx: &Context, name: &str, text: &str) -> Result<(), Failure> {
    let read: String = ctx.note(name, || async { Ok(format!("{text}:{name}")) }).await?;
    ctx.emit_with_next("saga.noted", &json!({ "text": read })).await
}

/// An agent that is a function: between its own steps it does what agents do.
async fn agent_function(own: Own, ctx: Context, call: AgentCall) -> Result<Value, Failure> {
    let request = match call {
        AgentCall::Turn(request) => *request,
        AgentCall::Decide(asked) => {
            let mut chance = own.host.sim().fork();
            own.host.sim().pause(&mut chance, 60).await;
            return Ok(json!(Decision::new(*chance.pick(&asked.allowed), "simulated")));
        }
        AgentCall::Stop(_) => return Ok(Value::Null),
    };
    own.once(&ctx, "look up", 60).await?;
    ctx.sleep(Duration::from_millis(100)).await?;
    ctx.run("work", || async {
        if own.process.has_ended() {
            std::future::pending::<()>().await;
        }
        let chance = own.host.sim().fork();
        let answer = agents::work(own.host.clone(), request.clone(), chance).await;
        if own.process.has_ended() {
            std::future::pending::<()>().await;
        }
        answer.map(|answer| json!(answer)).map_err(|error| Failure::retryable(error.to_string()))
    })
    .await
}

/// Steps, a sleep, a child, an event, a signal, a step that fails now and then: which of them, its input says.
async fn saga(own: Own, ctx: Context, input: Value) -> Result<Value, Failure> {
    let (text, variant) = (input["text"].as_str().unwrap_or_default(), input["variant"].as_u64().unwrap_or(0));
    own.once(&ctx, "first", 30).await?;
    let child = if variant & 1 != 0 {
        let options = SpawnOptions {
            key: Some(format!("key-{}", variant % 3)),
            on_parent_end: if variant & 2 != 0 { OnParentEnd::Cancel } else { OnParentEnd::Abandon },
            priority: None,
        };
        let workflow = if variant & 4 != 0 { "job" } else { "single" };
        Some(ctx.spawn(workflow, &json!({ "text": format!("{text}:child") }), options).await?)
    } else {
        None
    };
    noted(&ctx, "once noted first", text).await?;
    if variant & 8 != 0 {
        ctx.sleep(Duration::from_millis(50 * (variant % 7))).await?;
    }
    if variant & 16 != 0 {
        let scope = format!("order-{}", variant % 2);
        let paid = ctx.wait_for::<Value>("paid", Some(&scope), Some(Duration::from_millis(1_500))).await?;
        if let Some(paid) = paid {
            own.host.sim().sometimes("an event woke a wait");
            own.host.sim().lock().books.check_owner(ctx.client().tenant().0, paid.to_string().as_bytes(), "an event");
        }
    }
    if variant & 32 != 0 && ctx.wait_signal::<Value>("go", Some(Duration::from_millis(1_500))).await?.is_some() {
        own.host.sim().sometimes("a signal was taken");
    }
    if let Some(child) = child {
        match child.result::<Value>().await {
            Ok(_) => {}
            Err(Failure::Child { .. }) => own.host.sim().sometimes("a child did not complete"),
            Err(other) => return Err(other),
        }
    }
    if variant & 64 != 0 {
        many_children(&own, &ctx, text).await?;
    }
    let policy =
        RetryPolicy { attempts_max: 3, backoff: Duration::from_millis(20), backoff_max: Duration::from_millis(100) };
    let flaky = ctx.run_retrying("flaky", policy, |_| async {
        let mut chance = own.host.sim().fork();
        let fails = own.host.sim().plan().attempt_fails;
        if chance.permille(fails) { Err(Failure::retryable("simulated: this time not")) } else { Ok(()) }
    });
    flaky.await?;
    ctx.emit("saga.over", &json!({ "text": text })).await?;
    noted(&ctx, "once noted last", text).await?;
    own.once_after(&ctx, "last", 30, Some("once noted last")).await?;
    noted(&ctx, "once noted behind", text).await?;
    Ok(json!({ "text": text }))
}

/// More children at once than are recorded with the task that waits for them.
async fn many_children(own: &Own, ctx: &Context, text: &str) -> Result<(), Failure> {
    let mut calls = Vec::new();
    for nth in 0..7 {
        let options = SpawnOptions { key: Some(format!("key-{}", nth % 2)), ..SpawnOptions::default() };
        calls.push(ctx.spawn("job", &json!({ "text": format!("{text}:{nth}") }), options).await?);
    }
    for call in calls {
        match call.result::<Value>().await {
            Ok(_) => own.host.sim().sometimes("one of many children was waited for"),
            Err(Failure::Child { .. }) => own.host.sim().sometimes("a child did not complete"),
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Bookings, each of which can be undone: if the trip fails, or somebody changes their mind, none may stand.
async fn trip(own: Own, ctx: Context, input: Value) -> Result<Value, Failure> {
    let variant = input["variant"].as_u64().unwrap_or(0);
    let run = ctx.run_id().0;
    let policy =
        RetryPolicy { attempts_max: 3, backoff: Duration::from_millis(20), backoff_max: Duration::from_millis(100) };
    for (nth, name) in ["flight", "hotel", "car"].into_iter().enumerate() {
        let (booking, undoing) = (own.clone(), own.clone());
        let step = ctx.step(name, move |_| booking.clone().agency(run, name, true)).retry(policy);
        step.compensate_with(move |_| undoing.clone().agency(run, name, false)).run().await?;
        if variant & (1 << nth) != 0 {
            ctx.sleep(Duration::from_millis(300)).await?;
        }
    }
    if variant & 8 != 0 {
        own.host.sim().sometimes("a trip failed after its bookings");
        return Err(Failure::permanent("simulated: nobody wants to go any more"));
    }
    Ok(input)
}

impl Own {
    /// Books or unbooks at an agency outside, which may fail before it did so, or after.
    async fn agency(self, run: u128, name: &'static str, books: bool) -> Result<(), Failure> {
        let sim = self.host.sim();
        let mut chance = sim.fork();
        sim.pause(&mut chance, 40).await;
        let fails = sim.plan().attempt_fails;
        // An agency that is asked by a process which was put aside can't know; here it never hears of it.
        let current = self.host.current().is_some_and(|up| up.number == self.process.number);
        if self.process.has_ended() || !current {
            std::future::pending::<()>().await;
        }
        if chance.permille(fails) {
            return Err(Failure::retryable("simulated: the agency did not answer, and did nothing"));
        }
        sim.lock().books.bookings.at_the_agency(run, name, books);
        sim.pause(&mut chance, 40).await;
        if self.process.has_ended() {
            std::future::pending::<()>().await;
        }
        if chance.permille(fails) {
            return Err(Failure::retryable("simulated: the agency did it, and did not say so"));
        }
        Ok(())
    }
}

/// A function whose code is changed while runs of it wait.
async fn drift(own: Own, ctx: Context, input: Value) -> Result<Value, Failure> {
    let name = format!("version {}", own.process.code);
    own.once(&ctx, &name, 20).await?;
    ctx.sleep(Duration::from_millis(400)).await?;
    own.once(&ctx, "after the sleep", 20).await?;
    Ok(input)
}

/// Follows what a tenant is told of one scope, which every tenant has one of.
async fn listen(host: Host, process: Arc<Process>, tenant: TenantId) {
    let mut heard = process.engine.hub().listen(tenant, Some("order-1"));
    while let Ok(notice) = heard.recv().await {
        host.sim().lock().books.check_owner(tenant.0, &notice.event.data, "an event that was listened to");
    }
}
