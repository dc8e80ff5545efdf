//! A random load: clients, workers of every character, a network that loses and repeats, restarts, a clock that jumps.
//!
//! All chance comes from one seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainspring_core::command::{Claim, Facts, Held, Idempotency};
use mainspring_core::id::{Ms, RunId, TaskId, TenantId, WorkerId, mix};
use mainspring_core::journal::{Commit, Completion, Request, Wait, last_place};
use mainspring_core::limit::Limits;
use mainspring_core::place::SLOT;
use mainspring_core::rate::RateUse;
use mainspring_core::row::{DocumentRow, OnParentEnd, RunRow, RunState};
use mainspring_core::write::Table;
use mainspring_core::{
    Admission, Command, Dispatch, DocumentKey, Effect, Fence, Guard, NewWorker, PutDocument, Refusal, Reply, Start,
};

use super::book::Book;
use super::parse::Line;
use super::tables::{run_of, tenant_of};
use super::world::{Decision, World};

/// What every tenant has; the names are the same for all.
const WORKFLOWS: [&str; 7] = [
    "workflow turn inbox retry=2/20/100/20",
    "workflow job key=2:queue retry=3/10/200/50 exec=200",
    "workflow single key=1:progress schedule=400",
    "workflow newest key=1:newest",
    "workflow dag tasks=a,b(a),c(a),d(b+c) retry=2",
    "workflow fn durable retry=2/10 exec=500",
    "workflow heard key=1:queue trigger=e",
];
const ACTIONS: [&str; 10] = ["turn", "job", "single", "newest", "a", "b", "c", "d", "fn", "heard"];

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// All chance from one seed.
    pub fn new(seed: u64) -> Self {
        Chance(mix(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

/// An attempt a worker has in hand.
#[derive(Debug, Clone)]
struct Job {
    claim: Claim,
    action: String,
    /// The next journal position.
    position: u32,
    /// Whether the entry at that position was asked for and is pending.
    waiting: bool,
    last: Option<Completion>,
}

/// A worker's process. It may believe it is connected and not be.
#[derive(Debug)]
struct Process {
    tenant: TenantId,
    id: WorkerId,
    local: bool,
    lease_ms: Option<u64>,
    jobs: Vec<Job>,
}

/// The load and everything it acts on.
pub struct Load {
    chance: Chance,
    world: World,
    book: Book,
    tenants: Vec<TenantId>,
    processes: Vec<Process>,
    /// Effects released and not arrived.
    on_the_way: Vec<Effect>,
    /// Requests that may come again, with their first answer.
    keyed: Vec<(TenantId, Command, Reply)>,
    runs: Vec<(TenantId, RunId)>,
    /// Fences handed to somebody outside, who may believe in them for ever.
    fences: Vec<(TenantId, Fence)>,
    /// Commands that wait to be decided, with facts loaded for them and when.
    late: Vec<(Ms, TenantId, Command, Facts)>,
    sent: u64,
    latest_now: Ms,
    grace_until: Ms,
    calm: bool,
}

impl Load {
    /// A world with tenants and workflows, and nobody working yet.
    pub fn new(seed: u64) -> Self {
        let limits = Limits {
            worker_grace_ms: 100,
            idempotency_ttl_ms: 5_000,
            document_mark_ms: 200,
            fact_age_ms_max: 100,
            runs_awake_max: 3,
            ..Limits::default()
        };
        let mut load = Load {
            chance: Chance::new(seed),
            world: World::new(limits, seed),
            book: Book::default(),
            tenants: vec![TenantId(1), TenantId(2), TenantId(3)],
            processes: Vec::new(),
            on_the_way: Vec::new(),
            keyed: Vec::new(),
            runs: Vec::new(),
            fences: Vec::new(),
            late: Vec::new(),
            sent: 0,
            latest_now: 0,
            grace_until: 0,
            calm: false,
        };
        load.world.now = 1_000;
        for tenant in load.tenants.clone() {
            load.submit(tenant, Command::PutTenant { name: "t".into() });
            for workflow in WORKFLOWS {
                load.submit(tenant, Command::PutWorkflow { def: Line::parse(workflow).workflow() });
            }
            // The same worker ids in every tenant: an id alone must open no door.
            for nth in 0..4_u64 {
                let (id, local) = (WorkerId(u128::from(nth) + 1), nth == 0);
                let lease_ms = (nth == 1).then_some(300);
                load.processes.push(Process { tenant, id, local, lease_ms, jobs: Vec::new() });
            }
        }
        load
    }

    /// Some steps of anything at all.
    pub fn disturb(&mut self, steps: usize) {
        for step in 0..steps {
            match self.chance.below(100) {
                0..17 => self.client(),
                17..20 => self.decide_late(),
                20..60 => self.work(),
                60..66 => self.outside(),
                66..82 => self.arrive(),
                82..90 => self.pass_time(),
                90..94 => self.connect(),
                94..96 => self.disconnect(),
                96..98 => self.heartbeat(),
                98 => self.operator(),
                _ => self.crash(),
            }
            if step % 200 == 0 {
                self.world.check();
            }
        }
        self.world.check();
    }

    /// No more faults: everything must end within a bounded number of steps.
    pub fn come_to_rest(&mut self) {
        self.calm = true;
        while !self.late.is_empty() {
            self.decide_late();
        }
        self.world.now += 1_000;
        for nth in 0..self.processes.len() {
            self.processes[nth].jobs.clear();
            self.register(nth, false);
        }
        for tenant in self.tenants.clone() {
            let parked: Vec<RunId> = self
                .world
                .tables
                .all::<RunRow>(Table::Run)
                .filter(|(key, row)| tenant_of(key) == tenant && row.state == RunState::Parked)
                .map(|(key, _)| run_of(key))
                .collect();
            for run in parked {
                self.submit(tenant, Command::ResumeRun { run });
            }
        }
        let live = self.world.core.counts().runs_live as usize;
        let bound = 200 + live * 60;
        for _ in 0..bound {
            if self.world.core.counts().runs_live == 0 {
                self.world.check();
                self.book.settle(&self.world.tables);
                return;
            }
            while !self.on_the_way.is_empty() {
                self.arrive();
            }
            let before = self.sent;
            for nth in 0..self.processes.len() {
                for job in (0..self.processes[nth].jobs.len()).rev() {
                    self.advance(nth, job);
                }
            }
            if before == self.sent || self.chance.percent(20) {
                let due = self.world.core.next_due().unwrap_or(0);
                self.world.now = self.world.now.max(due) + 1;
                self.tick();
            }
        }
        let counts = self.world.core.counts();
        panic!("not at rest after {bound} rounds for {live} runs: {counts:?}");
    }

    fn submit(&mut self, tenant: TenantId, command: Command) -> Decision {
        self.submit_with(tenant, command, Facts::new())
    }

    fn submit_with(&mut self, tenant: TenantId, command: Command, facts: Facts) -> Decision {
        self.sent += 1;
        let decision = self.world.submit_with(tenant, command.clone(), facts);
        self.book.enter(&self.world, tenant, &command, &decision);
        self.on_the_way.extend(decision.effects.iter().cloned());
        decision
    }

    fn tick(&mut self) {
        let there: BTreeSet<(TenantId, WorkerId)> = self.world.workers.keys().copied().collect();
        self.latest_now = self.latest_now.max(self.world.now);
        let decision = self.world.tick();
        self.book.enter_effects(&self.world, &decision);
        let silent = there.into_iter().filter(|worker| !self.world.workers.contains_key(worker)).collect();
        self.book.given_up(&silent);
        if self.latest_now >= self.grace_until {
            self.book.grace_is_over(&self.world);
        }
        self.on_the_way.extend(decision.effects);
    }

    fn tenant(&mut self) -> TenantId {
        let nth = self.chance.below(self.tenants.len() as u64) as usize;
        self.tenants[nth]
    }

    fn client(&mut self) {
        let tenant = self.tenant();
        let key = format!("k{}", self.chance.below(3));
        let body = Bytes::from(format!("{tenant} {}", self.sent));
        let idempotency =
            self.chance.percent(30).then(|| Idempotency { key: format!("i{}", self.sent), body: self.sent });
        let priority = self.chance.percent(20).then(|| self.chance.below(4) as u8);
        let start = |workflow: &str, key: Option<String>| {
            let (workflow, input, idempotency) = (workflow.into(), body.clone(), idempotency.clone());
            Command::StartRun { start: Start { workflow, key, input, priority, idempotency, ..Start::default() } }
        };
        let command = match self.chance.below(18) {
            0..7 => {
                let (idempotency, admission) = (idempotency.clone(), Box::new(self.admission(&key)));
                Command::SendMessage { workflow: "turn".into(), key, payload: body, idempotency, admission }
            }
            7 => start("job", Some(key)),
            8 => start("single", Some(key)),
            9 => start("newest", Some(key)),
            10 => start("dag", None),
            11 | 12 => start("fn", Some(key)),
            13 => Command::EmitEvent {
                name: "e".into(),
                scope: Some(key),
                data: body,
                metadata: None,
                priority: None,
                fence: None,
            },
            14 => {
                // Also runs of other tenants, which must be nobody's.
                let Some(run) = self.some_run() else { return };
                Command::SignalRun { run: run.1, name: "s".into(), payload: body }
            }
            15 | 16 => {
                Command::PutDocument { put: self.put(tenant), fence: None, guard: Guard::default(), event: None }
            }
            _ => return self.again(),
        };
        if idempotency.is_none() && self.chance.percent(30) {
            let facts = self.world.tables.facts(&self.world.core, tenant, &command);
            self.late.push((self.world.core.now(), tenant, command, facts));
            return;
        }
        self.ask(tenant, command, Facts::new());
    }

    /// A command is decided whose facts were loaded some time ago.
    fn decide_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let nth = self.chance.below(self.late.len() as u64) as usize;
        let (loaded_at, tenant, command, facts) = self.late.swap_remove(nth);
        let old = self.world.core.now() - loaded_at > self.world.limits.fact_age_ms_max;
        self.ask(tenant, command, if old { Facts::new() } else { facts });
    }

    fn ask(&mut self, tenant: TenantId, command: Command, facts: Facts) {
        let decision = self.submit_with(tenant, command.clone(), facts);
        match &decision.answer {
            Ok(Reply::Started { run, .. } | Reply::Accepted { run, .. }) => self.runs.push((tenant, *run)),
            Ok(_)
            | Err(
                Refusal::NoRun { .. }
                | Refusal::RunEnded { .. }
                | Refusal::NotDurable { .. }
                | Refusal::VersionConflict { .. }
                | Refusal::TooFast { .. }
                | Refusal::Crowded { .. },
            ) => {}
            Err(refusal) => panic!("{command:?} is refused: {refusal}"),
        }
        let keyed = match &command {
            Command::StartRun { start } => start.idempotency.is_some(),
            Command::SendMessage { idempotency, .. } => idempotency.is_some(),
            _ => false,
        };
        if keyed && let Ok(reply) = decision.answer {
            self.keyed.push((tenant, command, reply));
        }
    }

    fn admission(&mut self, key: &str) -> Admission {
        let chance = &mut self.chance;
        let once = chance.percent(30).then(|| (format!("o{}", chance.below(3)), 20 + chance.below(1_000)));
        let rate = RateUse { name: format!("r-{key}"), units: 1, sets: Some((2, 150)) };
        Admission {
            once,
            rates: if chance.percent(50) { vec![rate] } else { Vec::new() },
            groups: if chance.percent(50) { vec![("g".to_owned(), 1)] } else { Vec::new() },
            messages_max: None,
        }
    }

    /// A document to be written, as it is, as it was, or whatever it is.
    fn put(&mut self, tenant: TenantId) -> PutDocument {
        let key = DocumentKey::new("d", format!("n{}", self.chance.below(3)));
        let row = mainspring_core::row::key::document(tenant, &key);
        let found = self.world.tables.get::<DocumentRow>(Table::Document, &row).map_or(0, |row| row.version);
        let expect = match self.chance.below(10) {
            0..3 => None,
            3 => Some(0),
            4 => Some(found.saturating_sub(1)),
            _ => Some(found),
        };
        let ttl_ms = self.chance.percent(30).then(|| self.chance.below(400));
        let body = Bytes::from(format!("{tenant} {}", self.sent));
        PutDocument { key, expect, body, ttl_ms, history: 2 }
    }

    /// Somebody outside acts for a step, whether or not it still may.
    fn outside(&mut self) {
        if self.fences.is_empty() || self.chance.percent(20) {
            return self.interrupt();
        }
        let back = self.chance.below(self.fences.len().min(12) as u64) as usize;
        let (tenant, fence) = self.fences[self.fences.len() - 1 - back];
        let command = match self.chance.below(10) {
            0..7 => {
                let guard =
                    Guard { no_message_waits: self.chance.percent(50), passes_commit_point: self.chance.percent(20) };
                let event = self.chance.percent(20).then(|| ("e".to_owned(), None, Bytes::from_static(b"{}")));
                Command::PutDocument { put: self.put(tenant), fence: Some(fence), guard, event }
            }
            7 | 8 => Command::LookAtFence { fence },
            _ => Command::PassCommitPoint { fence },
        };
        self.submit(tenant, command);
    }

    fn interrupt(&mut self) {
        // A function without an inbox is not interrupted.
        let jobs = self.processes.iter().flat_map(|process| {
            let turns = process.jobs.iter().filter(|job| job.action == "turn");
            turns.map(|job| (process.tenant, job.claim))
        });
        let begun = jobs.filter(|(tenant, claim)| {
            let stands = |fence: &Fence| fence.task == claim.task && self.book.holds(*tenant, *fence);
            self.fences.iter().any(|(of, fence)| of == tenant && stands(fence))
        });
        let begun: Vec<(TenantId, Claim)> = begun.collect();
        if !begun.is_empty() {
            let (tenant, claim) = begun[self.chance.below(begun.len() as u64) as usize];
            self.submit(tenant, Command::Interrupt { claim });
        }
    }

    /// A request under a key comes again, soon or late.
    fn again(&mut self) {
        if self.keyed.is_empty() {
            return;
        }
        let nth = self.chance.below(self.keyed.len() as u64) as usize;
        let (tenant, command, first) = self.keyed[nth].clone();
        let forgotten = {
            let (Command::StartRun { start: Start { idempotency: Some(key), .. } }
            | Command::SendMessage { idempotency: Some(key), .. }) = &command
            else {
                return;
            };
            let row = mainspring_core::row::key::idempotency(tenant, &key.key);
            self.world.tables.get::<mainspring_core::row::IdempotencyRow>(Table::Idempotency, &row).is_none()
        };
        if forgotten {
            self.keyed.swap_remove(nth);
            return;
        }
        let second = self.submit(tenant, command).answer.expect("a repeat is answered");
        let alike = match (&first, &second) {
            (Reply::Started { run, .. }, Reply::Started { run: again, duplicate: true }) => run == again,
            (Reply::Accepted { message, run, .. }, Reply::Accepted { message: m, run: r, duplicate: true }) => {
                (message, run) == (m, r)
            }
            _ => false,
        };
        assert!(alike, "first {first:?}, then {second:?}");
    }

    fn some_run(&mut self) -> Option<(TenantId, RunId)> {
        if self.runs.is_empty() {
            return None;
        }
        let recent = self.runs.len().min(40) as u64;
        let back = self.chance.below(recent) as usize;
        Some(self.runs[self.runs.len() - 1 - back])
    }

    fn operator(&mut self) {
        let Some((tenant, run)) = self.some_run() else { return };
        let command = match self.chance.below(3) {
            0 => Command::ResumeRun { run },
            1 => Command::CancelRun { run, reason: "an operator".into() },
            _ => {
                // Whoever asks for another's run is told that there is none.
                let other = self.tenant();
                let reply = self.submit(other, Command::CancelRun { run, reason: "not mine".into() }).answer;
                assert!(other == tenant || reply == Err(Refusal::NoRun { run }), "a run crosses tenants");
                return;
            }
        };
        self.submit(tenant, command);
    }

    fn pass_time(&mut self) {
        match self.chance.below(20) {
            // A clock that jumps back, or far ahead.
            0 => self.world.now = self.world.now.saturating_sub(500),
            1 => self.world.now += 2_000,
            _ => self.world.now += self.chance.below(30),
        }
        self.tick();
    }

    /// An effect arrives: late, twice or never.
    fn arrive(&mut self) {
        if self.on_the_way.is_empty() {
            return;
        }
        let nth = if self.calm { 0 } else { self.chance.below(self.on_the_way.len() as u64) as usize };
        let effect = self.on_the_way.remove(nth);
        if !self.calm && self.chance.percent(10) {
            self.on_the_way.push(effect.clone());
        }
        let Effect::Dispatch(given) = effect else { return };
        let Dispatch { tenant, worker, task, action, attempt, invocation, .. } = *given;
        if !self.world.workers.contains_key(&(tenant, worker)) {
            return;
        }
        let claim = Claim { worker: Some(worker), task, attempt, invocation: Some(invocation) };
        let process = self.processes.iter_mut().find(|process| (process.tenant, process.id) == (tenant, worker));
        let process = process.expect("a task is given to a worker of the tenant");
        assert!(ACTIONS.contains(&action.as_str()));
        // A repeated dispatch is recognised by its ids.
        if process.jobs.iter().all(|job| job.claim != claim) {
            process.jobs.push(Job { claim, action, position: 0, waiting: false, last: None });
        }
    }

    fn work(&mut self) {
        let busy: Vec<usize> = (0..self.processes.len()).filter(|nth| !self.processes[*nth].jobs.is_empty()).collect();
        if busy.is_empty() {
            return;
        }
        let nth = busy[self.chance.below(busy.len() as u64) as usize];
        let job = self.chance.below(self.processes[nth].jobs.len() as u64) as usize;
        self.advance(nth, job);
    }

    /// Takes one attempt a step further, also if its worker was given up long ago.
    fn advance(&mut self, process: usize, nth: usize) {
        let (tenant, job) = (self.processes[process].tenant, self.processes[process].jobs[nth].clone());
        let claim = job.claim;
        if !self.calm && self.chance.percent(4) {
            let command =
                Command::Fail { claim, error: "by chance".into(), retry: self.chance.percent(70), after_ms: None };
            self.finish(process, nth, tenant, command);
            return;
        }
        let Some(request) = next_request(tenant, &job) else {
            let command = self.last_word(&job);
            self.finish(process, nth, tenant, command);
            return;
        };
        let (before, request) = self.together(tenant, &job, request);
        let last = last_place(job.position, &before);
        let begins = (job.position..).zip(before.iter().chain([&request]));
        let begins =
            begins.filter(|(_, request)| matches!(request, Request::Begin { .. })).map(|(place, _)| place).last();
        let ask = Command::Journal { claim, position: job.position, before, request };
        let answer = self.submit(tenant, ask.clone()).answer;
        self.maybe_twice(tenant, &ask);
        let jobs = &mut self.processes[process].jobs;
        match answer {
            Ok(Reply::EntryDone(done)) => {
                if let Some(position) = begins {
                    self.fences.push((tenant, Fence { task: claim.task, position }));
                }
                jobs[nth].last = Some(done);
                jobs[nth].position = last + 1;
                jobs[nth].waiting = false;
            }
            Ok(Reply::EntryPending { .. }) => {
                jobs[nth].waiting = true;
                if self.chance.percent(40) {
                    let suspend = Command::Suspend { claim, waiting: vec![last] };
                    let answer = self.submit(tenant, suspend).answer;
                    if answer != Ok(Reply::StayAwake) {
                        self.processes[process].jobs.remove(nth);
                    }
                }
            }
            Ok(other) => panic!("a journal entry is answered {other:?}"),
            Err(Refusal::StaleClaim { .. }) => {
                jobs.remove(nth);
            }
            Err(refusal) => panic!("a journal entry is refused: {refusal}"),
        }
    }

    /// What is asked together with what comes after it, by chance: some of a function's entries need no answer.
    fn together(&mut self, tenant: TenantId, job: &Job, first: Request) -> (Vec<Request>, Request) {
        let (mut job, mut before, mut request) = (job.clone(), Vec::new(), first);
        while request.may_go_before() && before.len() < self.world.limits.entries_before_max && self.chance.percent(40)
        {
            job.position += 1;
            job.last = Some(Completion::Unit);
            let Some(next) = next_request(tenant, &job) else { break };
            before.push(std::mem::replace(&mut request, next));
        }
        (before, request)
    }

    fn last_word(&mut self, job: &Job) -> Command {
        let claim = job.claim;
        let durable = job.action == "fn" || job.action == "turn";
        match self.chance.below(100) {
            0..60 if !self.calm && job.action == "turn" => Command::Supersede { claim, reason: "more was said".into() },
            60..63 if !self.calm && durable => Command::Park { claim, error: "other code".into() },
            63..68 if !self.calm => Command::Fail { claim, error: "by chance".into(), retry: true, after_ms: None },
            _ => Command::Complete { claim, output: Bytes::from_static(b"done") },
        }
    }

    fn finish(&mut self, process: usize, nth: usize, tenant: TenantId, command: Command) {
        let answer = self.submit(tenant, command.clone()).answer;
        self.maybe_twice(tenant, &command);
        if matches!(answer, Err(Refusal::Committed { .. })) {
            // It has closed its inbox, so it goes on to its end.
            return;
        }
        // A worker that does not hear the answer says it again later.
        if self.calm || self.chance.percent(80) {
            self.processes[process].jobs.remove(nth);
        }
    }

    /// A second delivery changes nothing.
    fn maybe_twice(&mut self, tenant: TenantId, command: &Command) {
        if self.chance.percent(20) {
            let second = self.submit(tenant, command.clone());
            assert!(second.writes.is_empty(), "a second {command:?} changes rows: {:?}", second.answer);
        }
    }

    fn register(&mut self, nth: usize, keeps: bool) {
        let process = &self.processes[nth];
        let holds =
            process.jobs.iter().map(|job| Held { task: job.claim.task, invocation: job.claim.invocation.unwrap_or(0) });
        let command = Command::RegisterWorker {
            worker: process.id,
            new: NewWorker {
                name: "w".into(),
                actions: ACTIONS.iter().map(|action| (*action).to_owned()).collect(),
                slots: [(SLOT.to_owned(), 3)].into(),
                ..NewWorker::default()
            },
            local: process.local,
            lease_ms: process.lease_ms.filter(|_| !self.calm),
            holds: if keeps { holds.collect() } else { Vec::new() },
        };
        let tenant = process.tenant;
        let answer = self.submit(tenant, command).answer;
        assert_eq!(answer, Ok(Reply::Done), "a worker may always come");
    }

    fn connect(&mut self) {
        let nth = self.chance.below(self.processes.len() as u64) as usize;
        // One in three died and lost what it had; the others come back with it.
        let keeps = self.chance.percent(66);
        if !keeps && self.chance.percent(50) {
            self.processes[nth].jobs.clear();
        }
        self.register(nth, keeps);
    }

    fn disconnect(&mut self) {
        let nth = self.chance.below(self.processes.len() as u64) as usize;
        let (tenant, worker) = (self.processes[nth].tenant, self.processes[nth].id);
        // Its process may go on working all the same.
        self.submit(tenant, Command::RemoveWorker { worker });
    }

    fn heartbeat(&mut self) {
        for nth in 0..self.processes.len() {
            let (tenant, worker) = (self.processes[nth].tenant, self.processes[nth].id);
            let known = self.world.workers.contains_key(&(tenant, worker));
            let answer = self.submit(tenant, Command::HeartbeatWorker { worker }).answer;
            assert_eq!(answer.is_ok(), known, "a worker is known while its lease lasts, and not longer");
        }
    }

    /// The process ends: what was on the way is lost, workers inside are gone, the others may not notice.
    fn crash(&mut self) {
        self.world.check();
        self.on_the_way.clear();
        self.late.clear();
        let local: BTreeSet<(TenantId, WorkerId)> =
            self.world.workers.iter().filter(|(_, worker)| worker.local).map(|(key, _)| *key).collect();
        self.world.workers.clear();
        self.book.given_up(&local);
        // The next process asks a clock that is right.
        self.world.now = self.world.now.max(self.latest_now);
        self.grace_until = self.world.now + self.world.limits.worker_grace_ms;
        for process in &mut self.processes {
            if process.local {
                process.jobs.clear();
            }
        }
        let decision = self.world.crash();
        assert!(decision.effects.iter().all(|effect| !matches!(effect, Effect::Dispatch(_))), "nobody is there yet");
        self.book.enter_effects(&self.world, &decision);
        self.on_the_way.extend(decision.effects);
        for nth in 0..self.processes.len() {
            if self.chance.percent(60) {
                self.register(nth, true);
            }
        }
    }
}

/// What a function asks next. It depends on nothing but the run, the position and the answers so far, as the code of
/// a durable function must; `None` is its end.
fn next_request(tenant: TenantId, job: &Job) -> Option<Request> {
    let TaskId { run, index } = job.claim.task;
    let dice = mix(run.0 as u64 ^ mix(u64::from(job.position) << 16 | u64::from(index)));
    let (kind, size) = (dice % 100, dice >> 32);
    match job.action.as_str() {
        "turn" if job.position == 0 => {
            Some(Request::Receive { wait: Wait::Forever, messages_max: 1 + (size % 3) as u32, close_on_timeout: false })
        }
        "turn" if matches!(job.last, Some(Completion::Closed | Completion::TimedOut)) => None,
        "turn" => match kind {
            0..30 => Some(Request::Receive {
                wait: Wait::For(size % 60),
                messages_max: 1 + (size % 2) as u32,
                close_on_timeout: size % 8 < 4,
            }),
            30..40 => Some(Request::Sleep { duration_ms: size % 40 }),
            40..44 => Some(Request::Peek),
            44..50 => Some(Request::Close { force: size % 2 == 0 }),
            50..68 => Some(Request::Begin { name: "agent".into(), guarded: size % 8 == 0 }),
            68..76 => Some(Request::Run {
                name: "agent".into(),
                result: Ok(Bytes::from(size.to_string())),
                took_ms: size % 40,
            }),
            76..88 => Some(Request::Commit { commit: Box::new(commit(tenant, size)) }),
            _ => None,
        },
        "fn" => match kind {
            0..20 => Some(Request::Run {
                name: "step".into(),
                result: Ok(Bytes::from(size.to_string())),
                took_ms: size % 40,
            }),
            20..30 => Some(Request::Sleep { duration_ms: size % 50 }),
            30..35 => {
                let from = RateUse { name: format!("r-{}", size % 3), units: 1, sets: Some((2, 150)) };
                Some(Request::Take { from, until: (size % 2 == 0).then_some(size * 10) })
            }
            35..45 => Some(Request::WaitSignal { name: "s".into(), timeout_ms: Some(1 + size % 80) }),
            45..55 => {
                let scope = (size % 2 == 0).then(|| format!("k{}", size % 3));
                Some(Request::WaitEvent { name: "e".into(), scope, timeout_ms: Some(1 + size % 80) })
            }
            55..75 => Some(Request::Spawn {
                workflow: ["job", "newest", "dag", "fn"][(size % 4) as usize].into(),
                key: Some(format!("k{}", size % 3)),
                input: Bytes::from_static(b"child"),
                priority: None,
                detached: size % 5 == 0,
                on_parent_end: if size % 3 == 0 { OnParentEnd::Abandon } else { OnParentEnd::Cancel },
            }),
            75..78 => Some(Request::Emit { name: "e".into(), scope: None, data: Bytes::from_static(b"{}") }),
            80..86 => Some(Request::Begin { name: "agent".into(), guarded: size % 2 == 0 }),
            78..80 => Some(Request::Signal { run, name: "s".into(), payload: Bytes::from_static(b"self") }),
            _ => None,
        },
        _ => None,
    }
}

fn commit(tenant: TenantId, size: u64) -> Commit {
    let part = |shift: u32, share: u64| (size >> shift) % 8 < share;
    let document = |name: u64, expect: Option<u64>| PutDocument {
        key: DocumentKey::new("d", format!("n{}", name % 3)),
        expect,
        body: Bytes::from(size.to_string()),
        ttl_ms: None,
        history: 2,
    };
    let mut documents = vec![document(size, part(3, 2).then_some(size % 5))];
    if part(6, 4) {
        documents.push(document(size + 1, None));
    }
    let key = format!("k{}", size % 3);
    Commit {
        force: part(9, 2),
        guarded: part(21, 1),
        scope: part(24, 1).then(|| "elsewhere".to_owned()),
        documents,
        runs: if part(12, 2) { vec![("job".into(), Some(key.clone()), Bytes::new())] } else { Vec::new() },
        messages: if part(15, 2) {
            vec![("turn".into(), key, Bytes::from(format!("{tenant} from a turn")))]
        } else {
            Vec::new()
        },
        events: if part(18, 2) { vec![("e".into(), Bytes::from_static(b"{}"))] } else { Vec::new() },
    }
}

/// How much happened, over all tenants, for whoever wants to see that the load is not idle.
pub fn tally(load: &Load) -> BTreeMap<&'static str, usize> {
    let mut tally = BTreeMap::new();
    for (_, row) in load.world.tables.all::<RunRow>(Table::Run) {
        *tally.entry(row.state.word()).or_default() += 1;
    }
    tally.extend(&load.book.seen_of);
    tally
}
