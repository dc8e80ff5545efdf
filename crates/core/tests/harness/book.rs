//! Books kept apart from the core: what was accepted, what was given out, what was received. They know commands,
//! answers and effects, and at the very end compare themselves with the rows.

use std::collections::{BTreeMap, BTreeSet};

use mainspring_core::command::Claim;
use mainspring_core::id::{MessageId, RunId, TaskId, TenantId, WorkerId};
use mainspring_core::journal::{Completion, Received};
use mainspring_core::row::{MessageRow, MessageState, RunRow, RunState};
use mainspring_core::write::Table;
use mainspring_core::{Command, Dispatch, Effect, Refusal, Reply};

use super::tables::{Tables, message_of, run_of, tenant_of};
use super::world::{Decision, World};

type Place = (TenantId, String, String);

/// The books.
#[derive(Debug, Default)]
pub struct Book {
    /// Messages of each inbox in the order they were accepted.
    accepted: BTreeMap<Place, Vec<MessageId>>,
    /// Messages each run received, in order, by the journal position that received them.
    received: BTreeMap<(TenantId, RunId), BTreeMap<u32, Vec<MessageId>>>,
    /// The hand-over of each task that counts, until it is known to count no more.
    open: BTreeMap<(TenantId, TaskId), Claim>,
    /// The highest hand-over of each task.
    latest: BTreeMap<(TenantId, TaskId), u32>,
    /// Claims that must never again be listened to.
    dead: BTreeSet<(TenantId, TaskId, u32)>,
    /// Tasks a completion of which was recorded.
    completed: BTreeSet<(TenantId, TaskId)>,
    /// Workers that were ever registered.
    seen: BTreeSet<(TenantId, WorkerId)>,
    /// Whose each run is.
    owner: BTreeMap<RunId, TenantId>,
    /// Ids promised to senders of messages, and the place they were promised for.
    promised: BTreeMap<RunId, Place>,
    /// Runs that were asked for and answered.
    pub started: BTreeSet<(TenantId, RunId)>,
}

/// The claim a command is made under.
fn claim_of(command: &Command) -> Option<Claim> {
    match command {
        Command::Journal { claim, .. }
        | Command::Suspend { claim, .. }
        | Command::Complete { claim, .. }
        | Command::Supersede { claim, .. }
        | Command::Fail { claim, .. }
        | Command::Park { claim, .. } => Some(*claim),
        _ => None,
    }
}

impl Book {
    /// Enters what a command led to. `world` is as it stands after it.
    pub fn enter(&mut self, world: &World, tenant: TenantId, command: &Command, decision: &Decision) {
        let changed = !decision.writes.is_empty();
        if let Some(claim) = claim_of(command) {
            self.enter_claim(world, tenant, claim, command, decision);
        }
        match (command, &decision.answer) {
            (Command::SendMessage { workflow, key, .. }, Ok(Reply::Accepted { message, run, duplicate })) => {
                let place = (tenant, workflow.clone(), key.clone());
                let accepted = self.accepted.entry(place.clone()).or_default();
                if *duplicate {
                    assert!(accepted.contains(message) && !changed, "a duplicate of a message never accepted");
                } else {
                    assert!(!accepted.contains(message), "one id for two messages");
                    accepted.push(*message);
                    self.own(tenant, *run);
                    self.promised.insert(*run, place);
                }
            }
            (Command::StartRun { .. }, Ok(Reply::Started { run, duplicate })) => {
                let new = self.started.insert((tenant, *run));
                assert!(new != *duplicate && changed != *duplicate, "a duplicate is what was there before");
                self.own(tenant, *run);
            }
            (Command::RegisterWorker { worker, holds, .. }, Ok(_)) => {
                self.seen.insert((tenant, *worker));
                let lost = |claim: &Claim| {
                    !holds.iter().any(|held| (held.task, Some(held.invocation)) == (claim.task, claim.invocation))
                };
                self.close(tenant, |claim| claim.worker == Some(*worker) && lost(claim));
            }
            (Command::RemoveWorker { worker }, Ok(_)) => self.close(tenant, |claim| claim.worker == Some(*worker)),
            _ => {}
        }
        self.enter_effects(world, decision);
    }

    /// Enters what happened without a command: timers, a restart.
    pub fn enter_effects(&mut self, world: &World, decision: &Decision) {
        for effect in &decision.effects {
            match effect {
                Effect::Dispatch(given) => {
                    let Dispatch { tenant, worker, task, attempt, invocation, .. } = &**given;
                    self.own(*tenant, task.run);
                    let (holder, nth) = (Some(*worker), Some(*invocation));
                    let claim = Claim { worker: holder, task: *task, attempt: *attempt, invocation: nth };
                    // It may have gone silent since, by a later timer of the same tick.
                    assert!(self.seen.contains(&(*tenant, *worker)), "given to a worker that was never there");
                    if let Some(open) = self.open.insert((*tenant, *task), claim) {
                        let gone = open.worker.is_some_and(|of| !world.workers.contains_key(&(*tenant, of)));
                        assert!(gone, "{task} is given out while {open:?} is working on it");
                        self.dead.insert((*tenant, *task, open.invocation.unwrap_or(0)));
                    }
                    let latest = self.latest.entry((*tenant, *task)).or_default();
                    assert!(*invocation > *latest, "{task} is given out twice as hand-over {invocation}");
                    *latest = *invocation;
                }
                Effect::CancelAttempt { tenant, worker, task, attempt } => {
                    self.close(*tenant, |claim| {
                        (claim.task, claim.attempt, claim.worker) == (*task, *attempt, Some(*worker))
                    });
                }
                Effect::EntryDone { tenant, task, .. }
                | Effect::MessageWaits { tenant, task, .. }
                | Effect::Judge { tenant, task }
                | Effect::TaskChanged { tenant, task, .. } => {
                    self.own(*tenant, task.run);
                }
                Effect::RunEnded { tenant, run, .. } => {
                    self.own(*tenant, *run);
                    self.close(*tenant, |claim| claim.task.run == *run);
                }
                Effect::Event { .. } | Effect::TokenRevoked { .. } => {}
            }
        }
    }

    /// These workers were given up, with all they had in hand.
    pub fn given_up(&mut self, workers: &BTreeSet<(TenantId, WorkerId)>) {
        let tenants: BTreeSet<TenantId> = workers.iter().map(|(tenant, _)| *tenant).collect();
        for tenant in tenants {
            self.close(tenant, |claim| claim.worker.is_some_and(|worker| workers.contains(&(tenant, worker))));
        }
    }

    /// The time in which a worker may come back after a restart is over, give or take a millisecond.
    pub fn grace_is_over(&mut self, world: &World) {
        let there = |tenant, claim: &Claim| claim.worker.is_some_and(|of| world.workers.contains_key(&(tenant, of)));
        self.open.retain(|(tenant, _), claim| there(*tenant, claim));
    }

    fn own(&mut self, tenant: TenantId, run: RunId) {
        let owner = *self.owner.entry(run).or_insert(tenant);
        assert_eq!(owner, tenant, "run {run} crosses tenants");
    }

    fn close(&mut self, tenant: TenantId, which: impl Fn(&Claim) -> bool) {
        let closed: Vec<_> =
            self.open.iter().filter(|((of, _), claim)| *of == tenant && which(claim)).map(|(key, _)| *key).collect();
        for key in closed {
            if let Some(claim) = self.open.remove(&key) {
                self.dead.insert((key.0, key.1, claim.invocation.unwrap_or(0)));
            }
        }
    }

    fn enter_claim(&mut self, world: &World, tenant: TenantId, claim: Claim, command: &Command, decision: &Decision) {
        let key = (tenant, claim.task);
        let Ok(reply) = &decision.answer else {
            assert!(
                matches!(decision.answer, Err(Refusal::StaleClaim { .. })),
                "{command:?} is refused: {:?}",
                decision.answer
            );
            return;
        };
        if let (Command::Journal { position, .. }, Reply::EntryDone(Completion::Messages(messages))) = (command, reply)
        {
            self.enter_received(world, tenant, claim.task.run, *position, messages);
        }
        if decision.writes.is_empty() {
            // Read back, or answered as the first time.
            return;
        }
        let invocation = claim.invocation.unwrap_or(0);
        let dead = self.dead.contains(&(tenant, claim.task, invocation));
        assert!(!dead, "{command:?} was listened to though it had been given up");
        assert_eq!(self.latest.get(&key), Some(&invocation), "{command:?} is not the latest hand-over");
        match command {
            Command::Complete { .. } | Command::Supersede { .. } => {
                assert!(self.completed.insert(key), "{} is completed twice", claim.task);
                self.close(tenant, |open| open.task == claim.task);
            }
            Command::Fail { .. } | Command::Park { .. } => self.close(tenant, |open| open.task == claim.task),
            Command::Suspend { .. } if *reply == Reply::Suspended => {
                self.close(tenant, |open| open.task == claim.task);
            }
            _ => {}
        }
    }

    fn enter_received(&mut self, world: &World, tenant: TenantId, run: RunId, position: u32, messages: &[Received]) {
        let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
        assert!(!ids.is_empty(), "an empty receive");
        for message in messages {
            let body = world.tables.payload(tenant, message.payload.id);
            let body = body.expect("what a message says is where the message is");
            assert!(body.starts_with(tenant.to_string().as_bytes()), "a message of another tenant");
        }
        let by_position = self.received.entry((tenant, run)).or_default();
        let known = by_position.entry(position).or_insert_with(|| ids.clone());
        assert_eq!(*known, ids, "a receive read back differs");
    }

    /// Everything has ended: each message is done with exactly one run, in order, and nothing was made up.
    pub fn settle(&self, tables: &Tables) {
        let runs: BTreeMap<(TenantId, RunId), RunRow> =
            tables.all::<RunRow>(Table::Run).map(|(key, row)| ((tenant_of(key), run_of(key)), row)).collect();
        for (tenant, run) in &self.started {
            assert!(runs[&(*tenant, *run)].state.ended(), "an answered run {run} has not ended");
        }
        for ((tenant, run), row) in &runs {
            assert!(row.state.ended(), "run {run} has not ended");
            assert_eq!(self.owner.get(run).copied().unwrap_or(*tenant), *tenant, "run {run} crosses tenants");
        }
        let mut done: BTreeMap<Place, BTreeMap<u64, (MessageId, RunId)>> = BTreeMap::new();
        let mut rows: BTreeMap<Place, BTreeMap<MessageId, RunId>> = BTreeMap::new();
        for (key, message) in tables.all::<MessageRow>(Table::Message) {
            let (tenant, id) = (tenant_of(key), message_of(key));
            let MessageState::Done { run } = message.state else { panic!("message {id} is left: {message:?}") };
            let of = &runs[&(tenant, run)];
            assert!(of.state != RunState::Superseded, "message {id} ended with a superseded run");
            assert_eq!((of.workflow.as_str(), of.key.as_deref()), (&*message.workflow, Some(&*message.key)));
            let place = (tenant, message.workflow, message.key);
            rows.entry(place.clone()).or_default().insert(id, run);
            // Numbers begin anew when an inbox was empty, so order is by the run and then by number.
            done.entry(place).or_default().insert(message.seq, (id, run));
        }
        assert_eq!(rows.keys().collect::<Vec<_>>(), self.accepted.keys().collect::<Vec<_>>(), "inboxes");
        for (place, accepted) in &self.accepted {
            let of: Vec<RunId> = accepted.iter().map(|id| rows[place][id]).collect();
            assert_eq!(rows[place].len(), accepted.len(), "messages of {place:?} made up or lost");
            // In order of acceptance the runs come one after the other: no run twice with another in between.
            let mut order = of.clone();
            order.dedup();
            let distinct: BTreeSet<RunId> = order.iter().copied().collect();
            assert_eq!(order.len(), distinct.len(), "messages of {place:?} are out of order: {of:?}");
            let began: Vec<_> = order.iter().map(|run| runs[&(place.0, *run)].created_at).collect();
            assert!(began.is_sorted(), "runs of {place:?} are out of order");
        }
        self.settle_received(&runs, &rows);
        for (run, place) in &self.promised {
            // A promised run exists, unless its inbox went another way before it could begin; it is never another's.
            if let Some(row) = runs.get(&(place.0, *run)) {
                assert_eq!((row.workflow.as_str(), row.key.as_deref()), (&*place.1, Some(&*place.2)));
            } else {
                panic!("run {run}, promised to a sender, never came to be");
            }
        }
    }

    /// What workers saw is what the rows say.
    fn settle_received(
        &self,
        runs: &BTreeMap<(TenantId, RunId), RunRow>,
        rows: &BTreeMap<Place, BTreeMap<MessageId, RunId>>,
    ) {
        for ((tenant, run), by_position) in &self.received {
            let row = &runs[&(*tenant, *run)];
            let place = (*tenant, row.workflow.clone(), row.key.clone().expect("an inbox run has a key"));
            let seen: Vec<MessageId> = by_position.values().flatten().copied().collect();
            let accepted = &self.accepted[&place];
            let order: Vec<usize> =
                seen.iter().map(|id| accepted.iter().position(|known| known == id).expect("accepted")).collect();
            assert!(order.windows(2).all(|pair| pair[0] + 1 == pair[1]), "run {run} received out of order: {order:?}");
            let mine: BTreeSet<MessageId> =
                rows[&place].iter().filter(|(_, of)| *of == run).map(|(id, _)| *id).collect();
            let seen: BTreeSet<MessageId> = seen.into_iter().collect();
            match row.state {
                RunState::Superseded => assert!(mine.is_empty()),
                RunState::Completed => assert_eq!(seen, mine, "completed run {run} answered for what it never saw"),
                RunState::Failed | RunState::Cancelled => {
                    assert!(seen.is_subset(&mine), "run {run} gave messages back")
                }
                RunState::Queued | RunState::Running | RunState::Parked => unreachable!("all runs have ended"),
            }
        }
    }
}
