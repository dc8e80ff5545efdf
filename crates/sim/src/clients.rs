//! Clients: they write messages, start runs, tell of events, cancel, ask again when they heard nothing, and look whether
//! what they were told is there.

use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{KeyRule, KeyStrategy, RetryRule, RunId, TaskDef, TenantId, WorkflowDef};
use mainspring_core::command::Idempotency;
use mainspring_core::id::fingerprint;
use mainspring_core::place::{Comparator, LabelValue, LabelWish, SLOT};
use mainspring_core::rate::RateUse;
use mainspring_core::workflow::When;
use mainspring_core::{Command, Reply, Start};
use mainspring_flows::SessionKey;
use serde_json::json;

use crate::books::marker;
use crate::chance::Chance;
use crate::functions::AGENTS;
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

/// One person writing in one session, who waits for each message to be accepted before the next.
pub async fn write(host: Host, tenant: TenantId, session: u64) {
    let mut chance = host.sim().fork();
    let (agent, ..) = AGENTS[((tenant.0 as u64 + session) % AGENTS.len() as u64) as usize];
    let key = SessionKey {
        tenant,
        agent: agent.to_owned(),
        interlocutor: format!("person-{session}"),
        channel: "web".to_owned(),
    };
    let key = key.to_string();
    for nth in 0..host.sim().plan().messages {
        // Some messages come in quick succession, so that a turn has several.
        let pause = if chance.permille(500) { 5 } else { host.sim().plan().pause_ms };
        host.sim().pause(&mut chance, pause).await;
        let text = format!("{}message {session}.{nth}.", marker(tenant.0));
        let payload = Bytes::from(json!({ "text": text }).to_string());
        let command = Command::SendMessage {
            workflow: "turn".to_owned(),
            key: key.clone(),
            idempotency: Some(Idempotency {
                key: format!("message {session}.{nth}"),
                body: fingerprint([&payload[..]]),
            }),
            payload,
        };
        let times = if chance.permille(100) { 2 } else { 1 };
        for _ in 0..times {
            if let Some(Reply::Accepted { message, run, .. }) = insist(&host, &mut chance, tenant, &command).await {
                host.sim().trace(format_args!("message {text:?} is accepted as {message} for {run}"));
                host.sim().lock().books.message_accepted(tenant.0, &key, &text, (message.0, run.0));
                let row = |process: &crate::pump::Process| process.engine.reader(tenant).message(tenant, message);
                look(&host, row, || format!("message {message}"));
            }
        }
    }
}

/// Starts runs, each once however often it is asked.
pub async fn start(host: Host, tenant: TenantId) {
    let mut chance = host.sim().fork();
    for nth in 0..host.sim().plan().starts {
        host.sim().pause(&mut chance, host.sim().plan().pause_ms).await;
        let workflow = *chance.pick(&[
            "job", "job", "single", "newest", "dag", "saga", "saga", "drift", "scripted", "scripted", "limited",
            "limited", "heavy", "checked", "checked", "parent",
        ]);
        let text = format!("{}run {nth}.", marker(tenant.0));
        let input = Bytes::from(json!({ "text": text, "variant": chance.below(64) }).to_string());
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
        let event = Command::EmitEvent { name: "paid".to_owned(), scope, data, metadata: None, priority: None };
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
