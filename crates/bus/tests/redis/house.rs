//! A process with a tenant, an agent that says back what it was told, a gateway and a relay, on a Redis. It can be killed
//! and opened again on the same directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainspring_bus::conformance::Patience;
use mainspring_bus::{Bus, Gateway, Hints, Intake, Names, Pattern, Redis, RedisBus, RedisBusOptions, Relay, Source};
use mainspring_client::{Client, Context, Failure, RunningWorker, TenantId, Worker, WorkflowDef};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};
use mainspring_flows::token::TurnTokens;
use mainspring_flows::window::WindowMode;
use mainspring_flows::{
    AgentAnswer, AgentKind, AgentRequest, AgentSettings, Agents, Outside, SessionKey, TurnDoor, Web,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

pub(crate) const TENANT: TenantId = TenantId(0xa);
pub(crate) const INBOUND: &str = "channel:inbound:acme";
pub(crate) const OUTBOUND: &str = "events.outbound.acme.web";
const AGENT: &str = "echo";

pub(crate) struct House {
    pub(crate) client: Client,
    pub(crate) bus: Arc<RedisBus>,
    runtime: Option<Runtime>,
    engine: Engine,
    stop: watch::Sender<bool>,
    _worker: RunningWorker,
}

/// The bus of these tests: inbound as older programs have it, outbound with one group that is always expected.
pub(crate) fn options() -> RedisBusOptions {
    RedisBusOptions {
        partitions: 0,
        groups_of: [(OUTBOUND.to_owned(), vec!["senders".to_owned()])].into(),
        // What a killed process had in hand was handed out once more, and these tests kill often.
        deliveries_max: 20,
        ..crate::server::quick()
    }
}

impl House {
    pub(crate) fn open(dir: &Path, redis: Redis) -> House {
        House::open_with(dir, redis, |_| {})
    }

    pub(crate) fn open_with(dir: &Path, redis: Redis, change: impl FnOnce(&mut AgentSettings)) -> House {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let engine = Engine::open(&EngineOptions::new(dir)).unwrap();
        let mut settings = AgentSettings::new(AgentKind::Workflow { name: AGENT.to_owned() });
        settings.window.mode = WindowMode::Off;
        settings.protection.session_messages_per_minute = 0;
        change(&mut settings);
        let agents = Agents::new([(TENANT, AGENT.to_owned(), settings)]);
        let bus = Arc::new(RedisBus::new(redis.clone(), options()));
        let (stop, stopping) = watch::channel(false);
        let client = Client::new(engine.clone(), TENANT);
        let worker = runtime.block_on(async {
            engine.submit(TENANT, Command::PutTenant { name: "acme".to_owned() }).await.unwrap();
            let http: Arc<dyn Outside> = Arc::new(Web::new(Vec::new()).unwrap());
            let door = TurnDoor { tokens: TurnTokens::new([7; 32]), calls_url: String::new(), tools: None };
            let worker = Worker::new(client.clone(), "flows");
            let worker = mainspring_flows::offer(worker, &client, &agents, http, door);
            let worker = worker.function(WorkflowDef::single(AGENT, true), echo).start().await.unwrap();
            let hints = Hints::over(redis);
            let gateway = Gateway::new(bus.clone(), "runtime", "node-1", hints.clone());
            let intake = Intake::new(client.clone(), agents.clone(), Some(AGENT.to_owned()));
            let source = Source { stream: INBOUND.to_owned(), tenant: "acme".to_owned(), channel: None, intake };
            let stopped = stopping.clone();
            tokio::spawn(async move { gateway.read(source, stopped).await });
            let names = Names { inbound: Pattern::new("channel:inbound:{tenant}").unwrap(), ..Names::default() };
            let relay = Relay::new(bus.clone(), client.clone(), agents, "acme", names, hints);
            tokio::spawn(async move { relay.run(stopping).await });
            worker
        });
        House { client, bus, runtime: Some(runtime), engine, stop, _worker: worker }
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// Waits until something holds.
    #[track_caller]
    pub(crate) fn until<F: Future<Output = bool>>(&self, mut holds: impl FnMut() -> F) {
        let patience = Patience::with(format!("what is said at {}", std::panic::Location::caller()));
        self.run(async {
            while !holds().await {
                patience.or_give_up("it does not hold");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// The texts a session's turns were told, in the order of the turns, once there are so many.
    pub(crate) fn said(&self, who: &str, count: usize) -> Vec<String> {
        let scope = session(who);
        let patience = Patience::with(format!("{count} texts said to {who}"));
        self.run(async {
            loop {
                let events = self.client.events_before(Some(&scope), u64::MAX, 10_000).await.unwrap();
                let mut texts = Vec::new();
                for (_, event) in events.iter().rev().filter(|(_, event)| event.name == "reply.sent") {
                    let data: Value = serde_json::from_slice(&event.data).unwrap();
                    texts.extend(data["text"].as_str().unwrap_or_default().split('\n').map(str::to_owned));
                }
                if texts.len() >= count {
                    return texts;
                }
                patience.or_give_up(&texts);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    /// Ends in order: the group is left.
    pub(crate) fn stop(self) {
        let _ = self.stop.send(true);
        self.run(async { tokio::time::sleep(Duration::from_millis(300)).await });
        self.kill();
    }

    /// Ends everything in the middle of whatever it does.
    pub(crate) fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        self.engine.shut_down();
    }

    pub(crate) async fn lag(&self, stream: &str, group: &str) -> (u64, u64) {
        let lag = self.bus.lag(stream).await.unwrap_or_default();
        let of_group = lag.iter().filter(|one| one.group == group);
        of_group.fold((0, 0), |(backlog, pending), one| (backlog + one.backlog, pending + one.pending))
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

async fn echo(_: Context, request: AgentRequest) -> Result<AgentAnswer, Failure> {
    let texts: Vec<&str> = request.messages.iter().map(|message| message.text.as_str()).collect();
    Ok(AgentAnswer::text(texts.join("\n")))
}

pub(crate) fn session(who: &str) -> String {
    SessionKey::new(TENANT, AGENT, who, "web").unwrap().to_string()
}

/// An envelope as a channel gateway writes it.
pub(crate) fn message(id: &str, who: &str, text: &str) -> String {
    json!({
        "v": 1, "id": id, "type": "message", "tenant": "acme", "channel": "web", "interlocutor": who, "time": 1,
        "payload": { "text": text },
    })
    .to_string()
}
