//! Books kept apart from the core: what was accepted, what was given out, what was received. They know commands,
//! answers and effects, and at the very end compare themselves with the rows.

use std::collections::{BTreeMap, BTreeSet};

use mainspring_core::command::Claim;
use mainspring_core::id::{MessageId, Ms, RunId, TaskId, TenantId, WorkerId};
use mainspring_core::journal::{Commit, Completion, Received, Request, last_place};
use mainspring_core::row::{InboxRow, MessageRow, MessageState, RunRow, RunState, decode, key};
use mainspring_core::write::{Table, ops};
use mainspring_core::{Admission, Command, Dispatch, DocumentKey, Effect, Fence, Guard, PutDocument, Refusal, Reply};

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
    workers: BTreeSet<(TenantId, WorkerId)>,
    /// Whose each run is.
    owner: BTreeMap<RunId, TenantId>,
    /// Ids promised to senders of messages, and the place they were promised for.
    promised: BTreeMap<RunId, Place>,
    /// Version and end of each document.
    documents: BTreeMap<(TenantId, DocumentKey), (u64, Option<Ms>)>,
    /// Messages by their senders' own ids, and until when they are known by them.
    once: BTreeMap<(Place, String), (MessageId, Ms)>,
    /// What was taken of each limit since when.
    taken: BTreeMap<(TenantId, String), (Ms, u32)>,
    /// Who may act for each task's step.
    fences: BTreeMap<(TenantId, TaskId), u32>,
    /// How much of what came to pass, for whoever wants to see that all of it does.
    pub seen_of: BTreeMap<&'static str, usize>,
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
        | Command::Park { claim, .. }
        | Command::Interrupt { claim } => Some(*claim),
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
            (
                Command::SendMessage { workflow, key, idempotency, admission, .. },
                Ok(Reply::Accepted { message, run, duplicate }),
            ) => {
                let place = (tenant, workflow.clone(), key.clone());
                // What is known by its request is not asked for its own id.
                if idempotency.is_none() || !duplicate {
                    self.enter_admission(world, &place, admission, *message, *duplicate);
                }
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
                self.workers.insert((tenant, *worker));
                let lost = |claim: &Claim| {
                    !holds.iter().any(|held| (held.task, Some(held.invocation)) == (claim.task, claim.invocation))
                };
                self.close(tenant, |claim| claim.worker == Some(*worker) && lost(claim));
            }
            (Command::RemoveWorker { worker }, Ok(_)) => self.close(tenant, |claim| claim.worker == Some(*worker)),
            (Command::SendMessage { workflow, key, admission, .. }, Err(refusal)) => {
                self.enter_not_admitted(world, &(tenant, workflow.clone(), key.clone()), admission, refusal);
            }
            (Command::PutDocument { put, fence, guard, .. }, answer) => {
                self.enter_document(world, tenant, put, *fence, *guard, answer);
            }
            (Command::LookAtFence { fence } | Command::PassCommitPoint { fence }, answer) => match answer {
                Ok(Reply::Standing { unread, committed }) => {
                    assert!(self.holds(tenant, *fence), "{fence:?} has fallen and is listened to");
                    let stands = inbox_of(world, tenant, fence.task.run).unwrap_or((0, true));
                    assert_eq!((*unread, *committed), stands, "how things stand for {fence:?}");
                    self.count("looks at a fence");
                }
                Err(Refusal::StaleFence { .. }) => assert!(!self.holds(tenant, *fence), "{fence:?} stands"),
                other => panic!("a fence is answered {other:?}"),
            },
            _ => {}
        }
        self.enter_effects(world, decision);
    }

    fn count(&mut self, what: &'static str) {
        *self.seen_of.entry(what).or_default() += 1;
    }

    /// Whether a fence stands.
    pub fn holds(&self, tenant: TenantId, fence: Fence) -> bool {
        self.fences.get(&(tenant, fence.task)) == Some(&fence.position)
    }

    /// A message came in: not one that was known by its id, and not more than its limits allow.
    fn enter_admission(&mut self, world: &World, place: &Place, admission: &Admission, id: MessageId, again: bool) {
        let now = world.core.now();
        if let Some((once, ttl_ms)) = &admission.once {
            let name = (place.clone(), once.clone());
            let known = self.once.get(&name).filter(|(_, until)| *until > now);
            match known {
                Some((known, _)) => assert!(again && *known == id, "{once} is known, and another message now"),
                None if !again => {
                    self.once.insert(name, (id, now + ttl_ms));
                }
                None => panic!("{once} is not known, and a duplicate"),
            }
            self.count(if again { "known by their own ids" } else { "remembered by their own ids" });
        }
        if again {
            return;
        }
        for rate in &admission.rates {
            let (limit, window_ms) = rate.sets.expect("each says what its limit is");
            let taken = self.taken.entry((place.0, rate.name.clone())).or_insert((now, 0));
            if now >= taken.0 + window_ms {
                *taken = (now, 0);
            }
            taken.1 += rate.units;
            assert!(taken.1 <= limit, "{} of {limit} were taken of {:?}", taken.1, rate.name);
        }
        for (group, max) in &admission.groups {
            let live = live_of(world, place.0, group);
            assert!(live <= *max, "{live} inboxes of {group:?}, of which there may be {max}");
            self.count("of a group");
        }
    }

    fn enter_not_admitted(&mut self, world: &World, place: &Place, admission: &Admission, refusal: &Refusal) {
        match refusal {
            Refusal::TooFast { name, limit, window_ms, retry_after_ms } => {
                let (since, taken) = self.taken[&(place.0, name.clone())];
                assert_eq!(taken, *limit, "{name:?} was refused before it was used up");
                assert_eq!(since + window_ms, world.core.now() + retry_after_ms, "when there is more of {name:?}");
                self.count("refused by a rate limit");
            }
            Refusal::Crowded { group, max } => {
                assert!(live_of(world, place.0, group) >= *max, "{group:?} was refused though there was room");
                assert!(admission.groups.contains(&(group.clone(), *max)));
                self.count("refused by a group");
            }
            _ => {}
        }
    }

    /// The version a document has: 0 if it is none, or gone.
    fn version_of(&self, world: &World, tenant: TenantId, key: &DocumentKey) -> u64 {
        let (version, until) = self.documents.get(&(tenant, key.clone())).copied().unwrap_or_default();
        if until.is_some_and(|until| until <= world.core.now()) { 0 } else { version }
    }

    fn as_expected(&self, world: &World, tenant: TenantId, put: &PutDocument) -> bool {
        put.expect.is_none_or(|expected| expected == self.version_of(world, tenant, &put.key))
    }

    fn write(&mut self, world: &World, tenant: TenantId, put: &PutDocument) -> u64 {
        let document = self.documents.entry((tenant, put.key.clone())).or_default();
        document.0 += 1;
        document.1 = put.ttl_ms.map(|ttl_ms| world.core.now() + ttl_ms);
        document.0
    }

    fn enter_document(
        &mut self,
        world: &World,
        tenant: TenantId,
        put: &PutDocument,
        fence: Option<Fence>,
        guard: Guard,
        answer: &Result<Reply, Refusal>,
    ) {
        let holds = fence.is_none_or(|fence| self.holds(tenant, fence));
        let stands = fence.and_then(|fence| inbox_of(world, tenant, fence.task.run)).unwrap_or((0, true));
        match answer {
            Ok(Reply::Written { version }) => {
                assert!(holds, "{fence:?} has fallen, and {put:?} was written");
                assert!(self.as_expected(world, tenant, put), "{put:?} was written over another version");
                assert_eq!(self.write(world, tenant, put), *version, "{put:?}");
                assert!(!guard.passes_commit_point || fence.is_none() || stands.1, "the inbox of {fence:?} is open");
                let waits = guard.no_message_waits && !guard.passes_commit_point && !stands.1 && stands.0 > 0;
                assert!(!waits, "a message waits, and {put:?} was written");
                self.count(if fence.is_some() { "written under a fence" } else { "written" });
            }
            Err(Refusal::StaleFence { .. }) => {
                assert!(!holds, "{fence:?} stands");
                self.count("fences that had fallen");
            }
            Err(Refusal::MessageWaits { .. }) => {
                assert!(holds && guard.no_message_waits && !stands.1 && stands.0 > 0, "no message waits");
                self.count("held up by a message");
            }
            Err(Refusal::VersionConflict { found, .. }) => {
                assert!(holds && !self.as_expected(world, tenant, put), "{put:?} is as expected");
                assert_eq!(*found, self.version_of(world, tenant, &put.key), "{put:?}");
                self.count("conflicts");
            }
            other => panic!("{put:?} is answered {other:?}"),
        }
    }

    /// A commit is done whole, or not at all.
    fn enter_commit(
        &mut self,
        world: &World,
        tenant: TenantId,
        before: &[Request],
        commit: &Commit,
        done: &Completion,
        writes: &[u8],
    ) {
        let fit = commit.documents.iter().all(|put| self.as_expected(world, tenant, put));
        let ops: Vec<_> = ops(writes).map(|op| op.expect("a batch just written decodes")).collect();
        let of = |table: Table| ops.iter().filter(|op| op.table == table).count();
        if *done != Completion::Bool(true) {
            let asked = commit.guarded && matches!(done, Completion::Cancelled(_));
            assert!(asked || *done == Completion::Bool(false) || !fit, "{commit:?} is not done: {done:?}");
            // A step's result that goes before it is recorded all the same, unless it was there already.
            assert!(of(Table::Payload) <= before.iter().filter(|entry| matches!(entry, Request::Run { .. })).count());
            let own = |table| matches!(table, Table::Meta | Table::Journal | Table::Task | Table::Payload);
            let other = ops.iter().find(|op| !own(op.table));
            assert!(other.is_none(), "{commit:?} is not done and changes {:?}", other.map(|op| op.table));
            self.count("commits not done");
            return;
        }
        assert!(fit, "{commit:?} was done over other versions");
        assert_eq!(of(Table::Document), commit.documents.len());
        assert!(of(Table::Event) >= commit.events.len());
        for put in &commit.documents {
            self.write(world, tenant, put);
        }
        let mut messages = 0;
        for (id, row) in ops.iter().filter(|op| op.table == Table::Message).filter_map(|op| Some((op.key, op.body?))) {
            let message: MessageRow = decode(row).expect("a row just written decodes");
            let accepted = self.accepted.entry((tenant, message.workflow, message.key)).or_default();
            if !accepted.contains(&message_of(id)) {
                accepted.push(message_of(id));
                messages += 1;
            }
        }
        assert_eq!(messages, commit.messages.len(), "messages of {commit:?}");
        self.count("commits done");
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
                    assert!(self.workers.contains(&(*tenant, *worker)), "given to a worker that was never there");
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
                    self.fences.retain(|(of, task), _| (*of, task.run) != (*tenant, *run));
                    self.close(*tenant, |claim| claim.task.run == *run);
                }
                Effect::Event { .. } | Effect::StreamStirred { .. } | Effect::TokenRevoked { .. } => {}
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
            let past_commit = matches!(command, Command::Supersede { .. })
                && matches!(decision.answer, Err(Refusal::Committed { .. }))
                && world.tables.all::<InboxRow>(Table::Inbox).any(|(_, row)| row.live == claim.task.run && row.closed);
            assert!(
                past_commit || matches!(decision.answer, Err(Refusal::StaleClaim { .. })),
                "{command:?} is refused: {:?}",
                decision.answer
            );
            return;
        };
        if let (Command::Journal { position, before, .. }, Reply::EntryDone(Completion::Messages(messages))) =
            (command, reply)
        {
            self.enter_received(world, tenant, claim.task.run, last_place(*position, before), messages);
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
            Command::Journal { position, before, request, .. } => {
                let journal = |place| key::journal(tenant, claim.task, place);
                let puts = ops(&decision.writes).map(|op| op.expect("a batch just written decodes"));
                let puts: BTreeSet<_> = puts.filter(|op| op.table == Table::Journal).map(|op| op.key).collect();
                for (place, entry) in (*position..).zip(before.iter().chain([request])) {
                    // Some may have been there before.
                    if !puts.contains(&*journal(place)) {
                        continue;
                    }
                    match entry {
                        Request::Begin { .. } => {
                            self.fences.insert(key, place);
                            self.count("steps begun");
                        }
                        Request::Run { .. } => {
                            self.fences.remove(&key);
                        }
                        _ => {}
                    }
                }
                if !before.is_empty() {
                    self.count("entries together");
                }
                if let Request::Commit { commit } = request {
                    let Reply::EntryDone(done) = reply else { panic!("a commit waits for nothing: {reply:?}") };
                    self.enter_commit(world, tenant, before, commit, done, &decision.writes);
                }
            }
            Command::Interrupt { .. } => {
                assert_eq!(*reply, Reply::Interrupted(true), "an interruption that is none changes nothing");
                assert!(self.fences.remove(&key).is_some(), "nobody was interrupted");
                self.count("interrupted");
            }
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

/// Inboxes of a group that have a live run.
fn live_of(world: &World, tenant: TenantId, group: &String) -> u32 {
    let inboxes = world.tables.all::<InboxRow>(Table::Inbox);
    inboxes.filter(|(key, inbox)| tenant_of(key) == tenant && inbox.groups.contains(group)).count() as u32
}

/// How many messages wait for a live run, and whether its inbox is closed.
fn inbox_of(world: &World, tenant: TenantId, run: RunId) -> Option<(u64, bool)> {
    let row: RunRow = world.tables.get(Table::Run, &key::run(tenant, run))?;
    let name = row.key?;
    let inbox: InboxRow = world.tables.get(Table::Inbox, &key::inbox(tenant, &row.workflow, &name))?;
    let unread = world.tables.all::<MessageRow>(Table::Message).filter(|(id, message)| {
        let place = (tenant_of(id), message.workflow.as_str(), message.key.as_str());
        message.state == MessageState::Unread && place == (tenant, &*row.workflow, &*name)
    });
    (inbox.live == run).then(|| (unread.count() as u64, inbox.closed))
}
