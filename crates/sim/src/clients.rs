//! Clients: they write messages, start runs, tell of events, cancel, ask again when they heard nothing, and look whether
//! what they were told is there.

use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{
    Admission, Client, Guard, KeyRule, KeyStrategy, PutDocument, RetryRule, RunId, TaskDef, TenantId, WorkflowDef,
};
use mainspring_core::command::Idempotency;
use mainspring_core::id::fingerprint;
use mainspring_core::place::{Comparator, LabelValue, LabelWish, SLOT};
use mainspring_core::rate::RateUse;
use mainspring_core::workflow::When;
use mainspring_core::{Command, Refusal, Reply, Start};
use mainspring_flows::follow_up::{Due, OnMessage, Payload};
use mainspring_flows::{FollowUp, SessionKey, records};
use serde_json::json;

use crate::agents::{AGENTS, channel_of, settings};
use crate::books::marker;
use crate::chance::Chance;
use crate::host::Host;
use crate::link::{Answered, call};
use crate::scripts;

/// Longest wait before something is asked again that was not answered.
const ASK_AGAIN_MS: u64 = 400;

/// Actions that workers outside the process offer.
pub const ACTIONS: [&str; 9] = ["job", "single", "newest", "heard", "a", "b", "c", "d", scripts::ACTION];

/// Actions that only the enrolled worker offers.
pub const PLACED: [&str; 6] = ["limited", "heavy", "checked", "after", "clean", "parent"];
/// What all of a tenant's runs of `limited` may take in a window: units and milliseconds.
pub const CALLS: (u32, u64) = (3, 700);

/// The workflows whose tasks workers outside the process carry out. A later `version` differs in what does not matter.
pub fn definitions(version: u64) -> Vec<WorkflowDef> {
    let retry = RetryRule { attempts_max: 4, backoff_ms: 30 + version, backoff_percent: 200, backoff_max_ms: 400 };
    let keyed = |name: &str, runs_max, strategy| {
        let mut def = WorkflowDef::single(name, false);
        def.key = Some(KeyRule { runs_max, strategy });
        def.tasks[0].retry = retry;
        def.tasks[0].execution_timeout_ms = Some(3_000);
        def
    };
    let mut single = keyed("single", 1, KeyStrategy::CancelInProgress);
    single.tasks[0].schedule_timeout_ms = Some(5_000);
    let heard = WorkflowDef { event_triggers: vec!["paid".to_owned()], ..keyed("heard", 1, KeyStrategy::Queue) };
    let task = |name: &str, parents: &[u16]| TaskDef {
        parents: parents.to_vec(),
        retry,
        execution_timeout_ms: Some(3_000),
        ..TaskDef::named(name)
    };
    let tasks = vec![task("a", &[]), task("b", &[0]), task("c", &[0]), task("d", &[1, 2])];
    let dag = WorkflowDef { tasks, ..WorkflowDef::single("dag", false) };
    let mut scripted = WorkflowDef::single(scripts::ACTION, true);
    scripted.tasks[0].retry = retry;
    scripted.tasks[0].execution_timeout_ms = Some(6_000);
    let job = keyed("job", 2, KeyStrategy::Queue);
    let one = |task: TaskDef| WorkflowDef { tasks: vec![task.clone()], ..WorkflowDef::single(&task.name, false) };
    let calls = RateUse { name: "calls".to_owned(), units: 1, sets: None };
    let limited = one(TaskDef { rates: vec![calls], ..task("limited", &[]) });
    let zone = LabelWish {
        value: LabelValue::Text("eu".to_owned()),
        comparator: Comparator::Equal,
        required: true,
        weight: 0,
    };
    let heavy = one(TaskDef {
        slots: [("gpu".to_owned(), 2), (SLOT.to_owned(), 1)].into(),
        labels: [("zone".to_owned(), zone)].into(),
        ..task("heavy", &[])
    });
    let checked = vec![
        TaskDef { judged: true, ..task("checked", &[]) },
        task("after", &[0]),
        TaskDef { when: When::AnotherFailed, ..task("clean", &[]) },
    ];
    let checked = WorkflowDef { tasks: checked, ..WorkflowDef::single("checked", false) };
    let parent = one(task("parent", &[]));
    let newest = keyed("newest", 1, KeyStrategy::CancelNewest);
    vec![job, single, newest, heard, dag, scripted, limited, heavy, checked, parent]
}

/// Asks until it is answered. `None` if it was refused.
async fn insist(host: &Host, chance: &mut Chance, tenant: TenantId, command: &Command) -> Option<Reply> {
    loop {
        match call(host, chance, tenant, command.clone()).await {
            Answered::Yes(reply) => return Some(reply),
            Answered::No(refusal) => {
                // Before the first process has registered everything, a workflow or tenant may be missing.
                if !matches!(refusal.code(), "workflow_unknown" | "tenant_unknown") {
                    host.sim().trace(format_args!("refused: {}", refusal.code()));
                    return None;
                }
            }
            Answered::Unknown => {}
        }
        if host.sim().has_failed() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(1 + chance.below(ASK_AGAIN_MS))).await;
    }
}

/// Makes the tenant and its workflows.
pub async fn set_up(host: Host, tenant: TenantId, version: u64) {
    let mut chance = host.sim().fork();
    let name = format!("tenant {}", tenant.0);
    insist(&host, &mut chance, tenant, &Command::PutTenant { name }).await;
    let (limit, window_ms) = CALLS;
    insist(&host, &mut chance, tenant, &Command::PutRate { name: "calls".to_owned(), limit, window_ms }).await;
    for def in definitions(version) {
        insist(&host, &mut chance, tenant, &Command::PutWorkflow { def }).await;
    }
}

/// The session of a person, and which agent it is with.
fn session_of(host: &Host, tenant: TenantId, session: u64) -> (SessionKey, usize) {
    let nth = ((host.sim().plan().agent + tenant.0 as u64 + session / 2) % AGENTS.len() as u64) as usize;
    let key = SessionKey {
        tenant,
        agent: AGENTS[nth].0.to_owned(),
        interlocutor: format!("person-{session}"),
        channel: channel_of(nth).to_owned(),
    };
    (key, nth)
}

/// A message of a person, under its provider's id.
#[derive(Clone)]
struct Letter {
    tenant: TenantId,
    session: SessionKey,
    agent: usize,
    name: String,
    text: String,
    /// Whether its agent's limits hold for it.
    limited: bool,
}

impl Letter {
    /// As it is sent; again under the same name only if `named`.
    fn command(&self, text: &str, named: bool) -> Command {
        let payload = Bytes::from(json!({ "text": text }).to_string());
        let settings = settings(self.agent);
        let mut admission =
            if self.limited { settings.protection.admission(&self.session) } else { Admission::default() };
        admission.once = Some((format!("provider {}", self.name), settings.message_id_ttl.as_millis() as u64));
        let idempotency =
            named.then(|| Idempotency { key: format!("message {}", self.name), body: fingerprint([&payload[..]]) });
        let key = self.session.to_string();
        Command::SendMessage { admission: Box::new(admission), workflow: "turn".to_owned(), key, idempotency, payload }
    }

    /// Sends it until it is taken, or there is too much of it. Answers whether it was taken.
    async fn send(&self, host: &Host, chance: &mut Chance, command: &Command) -> bool {
        loop {
            match call(host, chance, self.tenant, command.clone()).await {
                Answered::Yes(Reply::Accepted { message, run, .. }) => {
                    let (text, key) = (&self.text, self.session.to_string());
                    host.sim().trace(format_args!("message {text:?} is accepted as {message} for {run}"));
                    host.sim().lock().books.message_accepted(self.tenant.0, &key, text, (message.0, run.0));
                    let tenant = self.tenant;
                    let row = |process: &crate::pump::Process| process.engine.reader(tenant).message(tenant, message);
                    look(host, row, || format!("message {message}"));
                    return true;
                }
                Answered::Yes(other) => {
                    host.sim().violated(format!("a message was answered with {other:?}"));
                    return false;
                }
                Answered::No(Refusal::TooFast { .. }) => {
                    host.sim().sometimes("a message was refused: too many in a minute");
                    return false;
                }
                Answered::No(Refusal::Full { .. }) => host.sim().sometimes("a message was refused: too many wait"),
                Answered::No(Refusal::Crowded { .. }) => {
                    host.sim().sometimes("a message was refused: too many turns");
                }
                Answered::No(refusal) => {
                    if !matches!(refusal.code(), "workflow_unknown" | "tenant_unknown") {
                        host.sim().violated(format!("a message was refused: {refusal}"));
                        return false;
                    }
                }
                Answered::Unknown => {}
            }
            if host.sim().has_failed() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1 + chance.below(ASK_AGAIN_MS))).await;
        }
    }
}

/// One person writing in one session, who waits for each message to be accepted before the next.
pub async fn write(host: Host, tenant: TenantId, session: u64) {
    let mut chance = host.sim().fork();
    let (key, agent) = session_of(&host, tenant, session);
    let mut taken = Vec::new();
    for nth in 0..host.sim().plan().messages {
        // Some messages come in quick succession, so that a turn has several.
        let pause = if chance.permille(500) { 5 } else { host.sim().plan().pause_ms };
        host.sim().pause(&mut chance, pause).await;
        let (name, text) = (format!("{session}.{nth}"), format!("{}message {session}.{nth}.", marker(tenant.0)));
        let letter = Letter { tenant, session: key.clone(), agent, name, text, limited: true };
        let command = letter.command(&letter.text, true);
        if letter.send(&host, &mut chance, &command).await {
            if chance.permille(100) {
                letter.send(&host, &mut chance, &command).await;
            }
            if chance.permille(100) {
                letter.come_again(&host, &mut chance).await;
            }
            taken.push(letter);
        }
    }
    if host.sim().plan().late_ms > 0 {
        tokio::time::sleep(Duration::from_millis(host.sim().plan().late_ms)).await;
        for letter in taken {
            host.sim().sometimes("a provider sent a message again minutes later");
            letter.come_again(&host, &mut chance).await;
        }
    }
}

impl Letter {
    /// The provider sends it once more, and nothing but its id is the same.
    async fn come_again(&self, host: &Host, chance: &mut Chance) {
        let again = self.command(&format!("{} (again)", self.text), false);
        self.send(host, chance, &again).await;
    }
}

/// Bursts of messages by somebody who types fast, over an hour.
pub async fn type_fast(host: Host, tenant: TenantId, session: u64) {
    let mut chance = host.sim().fork();
    let (key, agent) = session_of(&host, tenant, session);
    let (bursts, hour_ms) = (host.sim().plan().messages, host.sim().plan().chaos_ms);
    let mut nth = 0;
    for burst in 0..bursts {
        let at = hour_ms / bursts * burst + chance.below(hour_ms / bursts * 9 / 10);
        tokio::time::sleep(Duration::from_millis(at.saturating_sub(host.sim().now()))).await;
        for _ in 0..chance.between(1, 6) {
            tokio::time::sleep(Duration::from_millis(chance.between(150, 2_500))).await;
            let (name, text) = (format!("{session}.{nth}"), format!("{}message {session}.{nth}.", marker(tenant.0)));
            let letter = Letter { tenant, session: key.clone(), agent, name, text, limited: false };
            let command = letter.command(&letter.text, true);
            if letter.send(&host, &mut chance, &command).await && chance.permille(20) {
                letter.come_again(&host, &mut chance).await;
            }
            nth += 1;
        }
    }
}

/// An operator who changes a session's state now and then, and looks at it before.
pub async fn operate(host: Host, tenant: TenantId, session: u64) {
    let mut chance = host.sim().fork();
    let key = session_of(&host, tenant, session).0.to_string();
    for nth in 0..host.sim().plan().operators {
        host.sim().pause(&mut chance, 2_000).await;
        let Some(process) = host.current() else { continue };
        let client = Client::new(process.engine.clone(), tenant);
        let state = tokio::select! {
            biased;
            () = process.ended.wait() => continue,
            state = records::state(&client, &key) => state,
        };
        let Ok(state) = state else { continue };
        let says = json!({ "who": marker(tenant.0), "over": state.version, "operator": nth });
        host.sim().lock().books.operator_writes(tenant.0, &key, says.clone());
        let put = PutDocument {
            key: records::of_session(records::STATE, &key),
            expect: Some(state.version),
            body: Bytes::from(says.to_string()),
            ttl_ms: None,
            history: records::STATES_KEPT,
        };
        let command = Command::PutDocument { put, fence: None, guard: Guard::default(), event: None };
        let _ = call(&host, &mut chance, tenant, command).await;
    }
}

/// Schedules follow-ups of a session.
pub async fn follow_up(host: Host, tenant: TenantId, session: u64) {
    let mut chance = host.sim().fork();
    let key = session_of(&host, tenant, session).0.to_string();
    for nth in 0..host.sim().plan().follow_ups {
        host.sim().pause(&mut chance, 2_000).await;
        let follow_up = FollowUp {
            session: key.clone(),
            due: Due::AfterSilence { ms: chance.between(100, 3_000) },
            payload: Payload { text: format!("{}follow-up {session}.{nth}.", marker(tenant.0)), data: None },
            on_message: *chance.pick(&[OnMessage::Cancel, OnMessage::Reschedule, OnMessage::Keep]),
            expires_at_ms: None,
            quiet_hours: None,
            time_zone: None,
            name: None,
        };
        let input = Bytes::from(json!(follow_up).to_string());
        let start = Start {
            workflow: "follow-up".to_owned(),
            key: Some(key.clone()),
            idempotency: Some(Idempotency {
                key: format!("follow-up {session}.{nth}"),
                body: fingerprint([&input[..]]),
            }),
            input,
            ..Start::default()
        };
        insist(&host, &mut chance, tenant, &Command::StartRun { start }).await;
    }
}

/// Starts runs, each once however often it is asked.
pub async fn start(host: Host, tenant: TenantId) {
    let mut chance = host.sim().fork();
    for nth in 0..host.sim().plan().starts {
        host.sim().pause(&mut chance, host.sim().plan().pause_ms).await;
        let workflow = *chance.pick(&[
            "job", "job", "single", "newest", "dag", "saga", "saga", "drift", "scripted", "scripted", "limited",
            "limited", "heavy", "checked", "checked", "parent", "trip", "trip",
        ]);
        let text = format!("{}run {nth}.", marker(tenant.0));
        let input = Bytes::from(json!({ "text": text, "variant": chance.below(128) }).to_string());
        let keyed = matches!(workflow, "job" | "single" | "newest");
        let start = Start {
            workflow: workflow.to_owned(),
            key: keyed.then(|| format!("key-{}", chance.below(2))),
            idempotency: Some(Idempotency { key: format!("run {nth}"), body: fingerprint([&input[..]]) }),
            input,
            priority: chance.permille(300).then(|| chance.below(4) as u8),
            ..Start::default()
        };
        let command = Command::StartRun { start };
        let Some(Reply::Started { run, .. }) = insist(&host, &mut chance, tenant, &command).await else { continue };
        host.sim().trace(format_args!("{text:?} is started as {run}"));
        host.sim().lock().books.run_accepted(tenant.0, &text, run.0);
        look(&host, |process| process.engine.reader(tenant).run(tenant, run), || format!("run {run}"));
        let (host, mut chance) = (host.clone(), chance.fork());
        tokio::spawn(async move { disturb(&host, &mut chance, tenant, run, workflow).await });
    }
}

/// Signals a run, cancels it, or asks for it again, some time later.
async fn disturb(host: &Host, chance: &mut Chance, tenant: TenantId, run: RunId, workflow: &str) {
    host.sim().pause(chance, 1_000).await;
    if workflow == "saga" && chance.permille(500) {
        let payload = Bytes::from(json!({ "text": marker(tenant.0) }).to_string());
        insist(host, chance, tenant, &Command::SignalRun { run, name: "go".to_owned(), payload }).await;
    }
    if chance.permille(150) {
        host.sim().pause(chance, 1_000).await;
        let reason = "simulated: somebody changed their mind".to_owned();
        insist(host, chance, tenant, &Command::CancelRun { run, reason }).await;
    }
    insist(host, chance, tenant, &Command::Explain { run }).await;
    if REPLAYED.contains(&workflow) && chance.permille(400) {
        host.sim().pause(chance, 2_000).await;
        let tasks = chance.permille(300).then(|| vec![0]);
        host.sim().lock().books.replay_asked(run.0);
        if insist(host, chance, tenant, &Command::ReplayRun { run, tasks }).await.is_some() {
            host.sim().sometimes("a run was replayed");
        }
    }
}

/// Workflows whose runs somebody lets run again.
const REPLAYED: [&str; 5] = ["dag", "limited", "heavy", "checked", "parent"];

/// Tells of events, and registers the workflows anew.
pub async fn tell(host: Host, tenant: TenantId) {
    let mut chance = host.sim().fork();
    for nth in 0..host.sim().plan().others {
        host.sim().pause(&mut chance, 2 * host.sim().plan().pause_ms).await;
        let data = Bytes::from(json!({ "text": format!("{}event {nth}.", marker(tenant.0)) }).to_string());
        let scope = Some(format!("order-{}", chance.below(2)));
        let event =
            Command::EmitEvent { name: "paid".to_owned(), scope, data, metadata: None, priority: None, fence: None };
        let _ = call(&host, &mut chance, tenant, event).await;
        if chance.permille(100) {
            set_up(host.clone(), tenant, 1 + nth).await;
        }
    }
}

/// What was answered must be found by its id at once, as long as the process that is asked can read.
fn look<T>(
    host: &Host,
    read: impl Fn(&crate::pump::Process) -> Result<Option<T>, mainspring_store::TablesError>,
    what: impl Fn() -> String,
) {
    let Some(process) = host.current() else { return };
    if let Ok(None) = read(&process) {
        host.sim().violated(format!("{} was accepted and is not found", what()));
    }
}
