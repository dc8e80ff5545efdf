//! Workers outside the process, of which one for each tenant is enrolled and keeps its id, which carry out tasks and, by `scripts`, durable functions: quick and slow, dying with work in hand, reporting long after they were given up,
//! reporting under claims that are not theirs, losing their connection and coming back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{TaskId, TenantId, WorkerId};
use mainspring_core::command::{Claim, Held};
use mainspring_core::journal::Completion;
use mainspring_core::place::{LabelValue, SLOT};
use mainspring_core::row::ChildOf;
use mainspring_core::{Command, Dispatch, Effect, NewWorker, Refusal, Reply, Start};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::books::marker;
use crate::chance::Chance;
use crate::clients::{ACTIONS, PLACED};
use crate::host::Host;
use crate::link::{Answered, call};
use crate::run::WORKERS;
use crate::scripts;

/// A worker's process.
#[derive(Clone)]
pub struct Worker {
    pub(crate) host: Host,
    pub(crate) tenant: TenantId,
    id: WorkerId,
    new: NewWorker,
    lease_ms: Option<u64>,
    /// Whether it is enrolled: it connects under its id, and acknowledges what it gets.
    enrolled: bool,
    /// What it works at, as it knows itself: the hand-over, and where completions of journal entries go.
    hands: Arc<Mutex<Hands>>,
}

/// By task: the hand-over, where completions go, and the attempt.
type Hands = BTreeMap<TaskId, (u32, Option<Heard>, u32)>;

/// Where a function hears that one of its entries is complete: position, and what came of it.
pub type Heard = mpsc::UnboundedSender<(u32, Completion)>;

/// Runs a worker for as long as the simulation lasts.
pub async fn run(host: Host, tenant: TenantId, nth: u64) {
    let mut chance = host.sim().fork();
    let lease_ms = if nth == 0 { None } else { Some(chance.between(300, 1_500)) };
    let enrolled = nth + 1 == WORKERS;
    let mut new = NewWorker {
        name: "outside".to_owned(),
        actions: ACTIONS.map(str::to_owned).into(),
        slots: [(SLOT.to_owned(), chance.between(1, 3) as u32)].into(),
        ..NewWorker::default()
    };
    if enrolled {
        // Some tasks find no other than this one.
        new.actions.extend(PLACED.map(str::to_owned));
        new.slots.insert("gpu".to_owned(), chance.between(2, 5) as u32);
        new.labels.insert("zone".to_owned(), LabelValue::Text("eu".to_owned()));
    }
    let worker = Worker {
        tenant,
        // The same ids for every tenant: an id alone must open no door.
        id: WorkerId(0xf00d + u128::from(nth)),
        new,
        enrolled,
        lease_ms,
        hands: Arc::default(),
        host,
    };
    worker.host.sim().lock().books.tasks.announced(tenant.0, worker.id.0, worker.new.slots.clone());
    loop {
        worker.connect(&mut chance).await;
        let plan = worker.host.sim().plan();
        worker.host.sim().pause(&mut chance, plan.net_ms + 50).await;
    }
}

impl Worker {
    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection, from its beginning to its end.
    async fn connect(&self, chance: &mut Chance) {
        let sim = self.host.sim();
        let process = self.host.up().await;
        let mut inbox = process.engine.hub().connect_worker(self.tenant, self.id);
        // A worker that lost its memory with its connection holds nothing; another one says what it has.
        if chance.permille(200) {
            self.hands().clear();
        }
        let hands = self.hands().clone();
        let holds = hands.iter().map(|(task, (invocation, ..))| Held { task: *task, invocation: *invocation });
        let register = Command::RegisterWorker {
            worker: self.id,
            new: self.new.clone(),
            local: false,
            lease_ms: self.lease_ms,
            holds: holds.collect(),
        };
        if !hands.is_empty() {
            sim.sometimes("a worker came back with work in hand");
        }
        let worker = self.id;
        let announce = if self.enrolled {
            let lease_ms = self.lease_ms.unwrap_or(1_000);
            vec![Command::EnrolWorker { worker, new: self.new.clone(), lease_ms }, Command::ConnectWorker { worker }]
        } else {
            vec![register]
        };
        for command in announce {
            if process.engine.submit(self.tenant, command).await.is_err() {
                return;
            }
        }
        if self.enrolled {
            // It says what it has in hand, or is asked for it.
            for (task, (invocation, _, attempt)) in hands {
                if chance.permille(300) {
                    continue;
                }
                sim.sometimes("an enrolled worker came back with work in hand");
                let claim = Claim { worker: Some(worker), task, attempt, invocation: Some(invocation) };
                let (worker, mut chance) = (self.clone(), chance.fork());
                tokio::spawn(async move { worker.acknowledge(claim, &mut chance).await });
            }
        }
        let every = Duration::from_millis(self.lease_ms.unwrap_or(2_000) / 3);
        let mut beat_at = Instant::now() + every;
        let mut lost_at = self.lost_at(chance);
        loop {
            let calm = sim.is_calm();
            tokio::select! {
                biased;
                effect = inbox.recv() => match effect {
                    Some(effect) => self.handle(effect, chance),
                    // The process is gone.
                    None => return,
                },
                () = tokio::time::sleep_until(beat_at) => {
                    beat_at = Instant::now() + every;
                    let beat = Command::HeartbeatWorker { worker: self.id };
                    // Beats that come late or not at all are how a lease runs out.
                    if chance.permille(sim.plan().request_lost) {
                        continue;
                    }
                    match process.engine.submit(self.tenant, beat).await {
                        Ok(_) => {}
                        Err(_) => {
                            sim.sometimes("a worker learnt that it was given up");
                            process.engine.hub().disconnect_worker(self.tenant, self.id);
                            return;
                        }
                    }
                }
                () = tokio::time::sleep_until(lost_at) => {
                    if calm {
                        lost_at = Instant::now() + Duration::from_secs(3_600);
                        continue;
                    }
                    sim.trace(format_args!("worker {} of tenant {} is cut off", self.id, self.tenant));
                    process.engine.hub().disconnect_worker(self.tenant, self.id);
                    if self.enrolled {
                        if chance.permille(500) {
                            let gone = Command::DisconnectWorker { worker: self.id, undelivered: Vec::new() };
                            let _ = process.engine.submit(self.tenant, gone).await;
                        }
                        sim.pause(chance, 2_000).await;
                        return;
                    }
                    // Without a lease, its end is noticed with its connection.
                    if self.lease_ms.is_none() || chance.permille(500) {
                        let _ = process.engine.submit(self.tenant, Command::RemoveWorker { worker: self.id }).await;
                    } else {
                        sim.pause(chance, 2_000).await;
                    }
                    return;
                }
            }
        }
    }

    fn lost_at(&self, chance: &mut Chance) -> Instant {
        let every = self.host.sim().plan().disconnect_every_ms;
        let ms = if every == 0 { 3_600_000 } else { chance.between(1, 2 * every) };
        Instant::now() + Duration::from_millis(ms)
    }

    fn handle(&self, effect: Effect, chance: &mut Chance) {
        match effect {
            Effect::Dispatch(given) => {
                let Dispatch { task, action, attempt, invocation, tenant, .. } = *given;
                if tenant != self.tenant {
                    self.host.sim().violated(format!("task {task} of tenant {tenant} was given to {}", self.tenant));
                }
                let claim = Claim { worker: Some(self.id), task, attempt, invocation: Some(invocation) };
                self.host.sim().trace(format_args!("worker {} gets {task} attempt {attempt}.{invocation}", self.id));
                let durable = action == scripts::ACTION;
                let (heard, hears) = mpsc::unbounded_channel();
                let before = self.hands().insert(task, (invocation, durable.then_some(heard), attempt));
                if let Some((before, ..)) = before
                    && before >= invocation
                {
                    self.host.sim().violated(format!("task {task} was given out as {invocation} after {before}"));
                }
                let parent = action == "parent";
                if durable {
                    tokio::spawn(scripts::perform(self.clone(), claim, hears, chance.fork()));
                } else {
                    tokio::spawn(self.clone().carry_out(claim, parent, chance.fork()));
                }
            }
            Effect::EntryDone { task, invocation, position, completion, .. } => {
                if let Some((of, Some(heard), _)) = self.hands().get(&task)
                    && *of == invocation
                {
                    let _ = heard.send((position, completion));
                }
            }
            Effect::CancelAttempt { task, .. } => {
                self.host.sim().sometimes("a worker was told to stop");
                self.hands().remove(&task);
            }
            Effect::MessageWaits { .. }
            | Effect::Event { .. }
            | Effect::Judge { .. }
            | Effect::TaskChanged { .. }
            | Effect::RunEnded { .. }
            | Effect::StreamStirred { .. }
            | Effect::TokenRevoked { .. } => {}
        }
    }

    async fn carry_out(self, claim: Claim, parent: bool, mut chance: Chance) {
        let sim = self.host.sim();
        let plan = sim.plan();
        if self.enrolled && chance.permille(900) {
            self.acknowledge(claim, &mut chance).await;
        }
        if parent {
            self.ask_for_children(claim, &mut chance).await;
        }
        let work = if chance.permille(200) { 600 } else { 40 };
        sim.pause(&mut chance, work).await;
        if chance.permille(plan.attempt_dies) {
            // The work is lost, and nobody says so but the timeout, or the worker that comes back without it.
            self.hands().remove(&claim.task);
            return;
        }
        if chance.permille(plan.attempt_late) {
            sim.pause(&mut chance, 5_000).await;
        }
        if chance.permille(plan.attempt_fails) {
            self.report_failure(claim, &mut chance).await;
        } else {
            self.report_output(claim, &mut chance).await;
        }
    }

    /// Says that it has a task in hand.
    async fn acknowledge(&self, claim: Claim, chance: &mut Chance) {
        if let Answered::Yes(_) = call(&self.host, chance, self.tenant, Command::Acknowledge { claim }).await {
            let place = (claim.task.run.0, claim.task.index);
            self.host.sim().lock().books.acknowledged(place, claim.invocation.unwrap_or(0));
        }
    }

    /// Starts runs under the names it gives them, some of them again.
    async fn ask_for_children(&self, claim: Claim, chance: &mut Chance) {
        let sim = self.host.sim();
        for name in ["one", "two", "one", "three", "two"] {
            sim.pause(chance, 300).await;
            let input = Bytes::from(json!({ "text": format!("{}child {name}.", marker(self.tenant.0)) }).to_string());
            let start = Start {
                workflow: if name == "two" { "heavy" } else { "limited" }.to_owned(),
                input,
                child_of: Some(ChildOf { task: claim.task, name: name.to_owned(), nth: None }),
                ..Start::default()
            };
            let one = chance.permille(500);
            let command = if one {
                Command::StartRun { start }
            } else {
                Command::StartRuns { starts: vec![start.clone(), start] }
            };
            let runs = match call(&self.host, chance, self.tenant, command).await {
                Answered::Yes(Reply::Started { run, duplicate }) => {
                    if duplicate {
                        sim.sometimes("a child was found again");
                    }
                    vec![run]
                }
                Answered::Yes(Reply::StartedAll { runs }) => runs,
                Answered::Yes(other) => return sim.violated(format!("a start was answered with {other:?}")),
                // Its run was cancelled meanwhile.
                Answered::No(Refusal::RunEnded { .. }) => return,
                Answered::No(refusal) => return sim.violated(format!("a child was refused: {}", refusal.code())),
                Answered::Unknown => continue,
            };
            for run in runs {
                sim.lock().books.child_told((claim.task.run.0, claim.task.index), name, run.0);
            }
        }
    }

    /// Reports that an attempt failed.
    pub(crate) async fn report_failure(&self, claim: Claim, chance: &mut Chance) {
        let retry = chance.permille(800);
        let failed = Command::Fail { claim, error: "simulated: it failed".to_owned(), retry, after_ms: None };
        self.insist(claim, chance, failed).await;
        self.let_go(claim);
    }

    /// Reports that an attempt is complete, after a lie or two.
    pub(crate) async fn report_output(&self, claim: Claim, chance: &mut Chance) {
        let sim = self.host.sim();
        let token = chance.word();
        let output = Bytes::from(json!({ "text": format!("{}output {token:x}.", marker(self.tenant.0)) }).to_string());
        if chance.permille(sim.plan().lies) {
            self.lie(claim, &output, chance).await;
        }
        let complete = Command::Complete { claim, output: output.clone() };
        if self.insist(claim, chance, complete).await.is_some() {
            let invocation = claim.invocation.unwrap_or(0);
            sim.trace(format_args!("the completion of {} {}.{invocation} is taken", claim.task, claim.attempt));
            let claim = (claim.task.run.0, claim.task.index, claim.attempt, invocation);
            sim.lock().books.completion_taken(claim, &output);
        }
        self.let_go(claim);
    }

    /// Says something under a claim until it is answered. `None` if the claim does not count any more.
    pub(crate) async fn insist(&self, claim: Claim, chance: &mut Chance, command: Command) -> Option<Reply> {
        let sim = self.host.sim();
        loop {
            match call(&self.host, chance, self.tenant, command.clone()).await {
                Answered::Yes(reply) => return Some(reply),
                Answered::No(refusal) => {
                    if !matches!(refusal, Refusal::StaleClaim { .. }) {
                        sim.violated(format!("a report on {} was refused with {}", claim.task, refusal.code()));
                    }
                    sim.sometimes("a late report was refused");
                    return None;
                }
                Answered::Unknown if sim.has_failed() => return None,
                Answered::Unknown => sim.pause(chance, 200).await,
            }
        }
    }

    /// It has nothing more to do with an attempt.
    pub(crate) fn let_go(&self, claim: Claim) {
        let mut hands = self.hands();
        if hands.get(&claim.task).is_some_and(|(invocation, ..)| Some(*invocation) == claim.invocation) {
            hands.remove(&claim.task);
        }
    }

    /// Reports under a claim that is nobody's, or was somebody's once.
    async fn lie(&self, claim: Claim, output: &Bytes, chance: &mut Chance) {
        let lie = match chance.below(4) {
            0 => Claim { attempt: claim.attempt + 1, ..claim },
            1 => Claim { attempt: claim.attempt.saturating_sub(1), ..claim },
            2 => Claim { invocation: claim.invocation.map(|invocation| invocation.saturating_sub(1)), ..claim },
            _ => Claim { worker: Some(WorkerId(self.id.0 + 1)), ..claim },
        };
        let command = Command::Complete { claim: lie, output: output.clone() };
        match call(&self.host, chance, self.tenant, command).await {
            Answered::Yes(_) => self.host.sim().violated(format!("{lie:?} was listened to, {claim:?} was true")),
            Answered::No(_) => self.host.sim().sometimes("a lie was refused"),
            Answered::Unknown => {}
        }
    }
}
