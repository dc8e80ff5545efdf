//! Runs a script in one of three ways and shows what was decided.

use bytes::Bytes;
use mainspring_core::command::{Claim, Held, Idempotency, Record};
use mainspring_core::id::{RunId, TaskId, TenantId, TokenId, WorkerId};
use mainspring_core::journal::{Request, Wait};
use mainspring_core::judge::Verdict;
use mainspring_core::limit::Limits;
use mainspring_core::row::{ChildOf, JournalRow, LogRow, OnParentEnd, TaskRow, decode};
use mainspring_core::stream::{StreamAsk, StreamReply};
use mainspring_core::write::{Op, Table, ops};
use mainspring_core::{Command, DocumentKey, Effect, Fence, Guard, PutDocument, Refusal, Reply, Start};

use super::parse::{Line, id_of, rates};
use super::show::{self, Names};
use super::streams;
use super::world::{Decision, World};

/// An event that is told with something else: name, scope, data.
type Told = (String, Option<String>, Bytes);

/// How a script is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each command once.
    Plain,
    /// Each command twice in a row. The second must change no row.
    Twice,
    /// With a restart after every command, until something comes that a restart by itself changes. Workers come back
    /// with what they have in hand.
    Crash,
}

/// A script being run.
pub struct Scenario {
    mode: Mode,
    world: World,
    names: Names,
    tenant: TenantId,
    dispatches: Vec<(TenantId, Claim)>,
    /// How far time goes on after each command: not at all after `hold`.
    step_ms: u64,
}

impl Scenario {
    /// A script about to be run.
    pub fn new(mode: Mode) -> Self {
        Scenario {
            mode,
            world: World::new(Limits { runs_awake_max: 0, ..Limits::default() }, 7),
            names: Names::default(),
            tenant: TenantId(0),
            dispatches: Vec::new(),
            step_ms: 1,
        }
    }

    /// Runs a line and gives back what was decided, one thing a line.
    pub fn run(&mut self, text: &str) -> Vec<String> {
        let line = Line::parse(text);
        let mut shown = Vec::new();
        match line.verb.as_str() {
            "limits" => {
                self.world = World::new(line.limits(), 7);
                return shown;
            }
            "at" => {
                self.world.now = line.nth_number(0);
                return shown;
            }
            "hold" => {
                // A restart ends a millisecond, so here there are none.
                if self.mode == Mode::Crash {
                    self.mode = Mode::Plain;
                }
                self.step_ms = 0;
                return shown;
            }
            "use" => {
                self.tenant = TenantId(self.named(line.word(0)));
                return shown;
            }
            "tenant" => self.tenant = TenantId(self.named(line.word(0))),
            _ => {}
        }
        let decision = match line.verb.as_str() {
            "tick" => {
                let decision = self.world.tick();
                if self.mode == Mode::Twice {
                    let again = self.world.tick();
                    assert!(again.writes.is_empty(), "{text}: a second tick at the same time changes rows");
                }
                decision
            }
            "restart" => {
                // A grace time begins with each restart, so from here on there are no further ones.
                if self.mode == Mode::Crash {
                    self.mode = Mode::Plain;
                }
                self.world.workers.clear();
                self.world.crash()
            }
            _ => {
                let command = self.command(&line);
                self.submit(text, command)
            }
        };
        self.world.check();
        self.show(&decision, &mut shown);
        if self.mode == Mode::Crash {
            self.crash();
        }
        self.world.now += self.step_ms;
        shown
    }

    fn submit(&mut self, text: &str, command: Command) -> Decision {
        // A worker inside the process ends with it, so from here on there are no further restarts.
        if self.mode == Mode::Crash && matches!(command, Command::RegisterWorker { local: true, .. }) {
            self.mode = Mode::Plain;
        }
        let decision = self.world.submit(self.tenant, command.clone());
        if self.mode == Mode::Twice
            && let Some(again) = self.second_delivery(command)
        {
            let before = self.world.tables.without_meta();
            let second = self.world.submit(self.tenant, again.clone());
            assert!(
                before == self.world.tables.without_meta(),
                "{text}: a second delivery changes rows: {:?}",
                second.answer
            );
            let alike = same_answer(&decision.answer, &second.answer);
            assert!(alike, "{text}: first {:?}, second {:?}", decision.answer, second.answer);
        }
        decision
    }

    /// The command as it would come a second time; `None` for those that by nature do more when repeated.
    fn second_delivery(&self, command: Command) -> Option<Command> {
        match command {
            Command::StartRun { start: Start { idempotency: None, child_of: None, .. } }
            | Command::Advance { .. }
            | Command::ExtendTimeout { .. }
            | Command::PutLog { .. }
            | Command::PutDocument { put: PutDocument { expect: None, .. }, .. }
            | Command::EmitEvent { .. }
            | Command::SignalRun { .. } => None,
            // What is handed out is not recorded, and the next time it is the turn of others.
            Command::Stream { ask: StreamAsk::Take { .. }, .. } => None,
            Command::Stream { ask: StreamAsk::Publish(entries), .. }
                if entries.iter().any(|entry| entry.id.is_none()) =>
            {
                None
            }
            Command::SendMessage { idempotency: None, admission, .. } if admission.once.is_none() => None,
            // A worker that announces itself again says what it has in hand by then.
            Command::RegisterWorker { worker, new, local, lease_ms, .. } => {
                let holds = self.world.held_by(self.tenant, worker);
                Some(Command::RegisterWorker { worker, new, local, lease_ms, holds })
            }
            Command::StartRuns { starts }
                if starts.iter().any(|start| start.idempotency.is_none() && start.child_of.is_none()) =>
            {
                None
            }
            command => Some(command),
        }
    }

    fn crash(&mut self) {
        let before = self.world.tables.without_meta();
        let connected = self.world.connected();
        let owed = self.world.crash();
        assert!(owed.writes.is_empty(), "a restart without local workers changes no row");
        for (tenant, worker) in connected {
            let back = self.world.submit(tenant, Command::ConnectWorker { worker });
            assert_eq!(back.answer, Ok(Reply::Done), "an enrolled worker may always connect again");
            assert!(back.effects.is_empty(), "what it has in hand is not given to it again");
        }
        for (tenant, worker) in self.world.workers.keys().copied().collect::<Vec<_>>() {
            let back = self.world.announce_again(tenant, worker);
            assert_eq!(back.answer, Ok(Reply::Done), "a worker may always come back");
            assert!(back.effects.is_empty(), "a worker that comes back with all it has gets nothing more");
        }
        assert!(before == self.world.tables.without_meta(), "workers coming back change no row");
        self.world.check();
    }

    fn show(&mut self, decision: &Decision, shown: &mut Vec<String>) {
        self.names.learn(&decision.writes);
        shown.push(show::answer(&decision.answer));
        for op in ops(&decision.writes) {
            shown.extend(show::change(op.expect("a batch just written decodes")));
        }
        for effect in &decision.effects {
            if let Effect::Dispatch(given) = effect {
                let (worker, invocation) = (Some(given.worker), Some(given.invocation));
                let claim = Claim { worker, task: given.task, attempt: given.attempt, invocation };
                self.dispatches.push((given.tenant, claim));
            }
            shown.extend(show::effect(effect, self.dispatches.len()));
        }
        for line in shown {
            *line = self.names.put_in(line);
        }
    }

    /// All rows, with names for ids and without what depends on them or on how the script was run.
    pub fn dump(&mut self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for ((table, key), body) in self.world.tables.raw() {
            match table {
                Table::Meta | Table::Payload => continue,
                // What the short form leaves out, times above all, is in the long one.
                Table::Task => lines.push(format!("{:?}", decode::<TaskRow>(body).expect("decodes"))),
                Table::Run => {
                    let row = decode::<mainspring_core::row::RunRow>(body).expect("decodes");
                    lines.push(format!("{row:?}"));
                }
                Table::Journal => lines.push(format!("{:?}", decode::<JournalRow>(body).expect("decodes"))),
                _ => {}
            }
            lines.extend(show::change(Op { table: *table, key, body: Some(body) }));
        }
        let plain = |line: &String| without(&without(line, "fingerprint: "), "local: ");
        let mut named: Vec<String> = lines.iter().map(|line| self.names.put_in(&plain(line))).collect();
        named.sort();
        named
    }

    /// A stable id for a name; with the tenant in it where names of two tenants must differ.
    fn named(&mut self, name: &str) -> u128 {
        let id = id_of(name);
        self.names.name(id, name);
        id
    }

    /// `r1`, or any word, which then is a run nobody knows.
    fn run_id(&mut self, name: &str) -> RunId {
        RunId(self.names.id(name).unwrap_or_else(|| self.named(name)))
    }

    /// `d3` is the third dispatch; `r1` and `r1.2` are the latest dispatch of that task.
    fn claim(&mut self, name: &str) -> Claim {
        if let Some(nth) = name.strip_prefix('d').and_then(|nth| nth.parse::<usize>().ok()) {
            return self.dispatches[nth - 1].1;
        }
        let (run, index) = name.split_once('.').unwrap_or((name, "0"));
        let task = TaskId { run: self.run_id(run), index: index.parse().expect("a task's index is a number") };
        let latest = self.dispatches.iter().rev().find(|(_, claim)| claim.task == task);
        let nobodys = Claim { worker: Some(WorkerId(0)), task, attempt: 1, invocation: Some(1) };
        latest.map_or(nobodys, |(_, claim)| *claim)
    }

    /// `r1.2`, or `r1` for its first.
    fn task(&mut self, name: &str) -> TaskId {
        let (run, index) = name.split_once('.').unwrap_or((name, "0"));
        TaskId { run: self.run_id(run), index: index.parse().expect("a task's index is a number") }
    }

    /// `r1@3`: the step of `r1`'s first task that began at the third position.
    fn fence(&mut self, text: &str) -> Fence {
        let (task, position) = text.split_once('@').expect("a fence is TASK@POSITION");
        Fence { task: self.task(task), position: position.parse().expect("a position is a number") }
    }

    /// `put KIND/NAME BODY ... [fence=FENCE] [no_message_waits] [passes_commit_point] [event=NAME:DATA] [scope=S]`.
    fn put_document(&mut self, line: &Line) -> Command {
        let (fence, guard, event) = self.told_with(line);
        Command::PutDocument { put: line.document(), fence, guard, event }
    }

    fn told_with(&mut self, line: &Line) -> (Option<Fence>, Guard, Option<Told>) {
        let guard = Guard {
            no_message_waits: line.has("no_message_waits"),
            passes_commit_point: line.has("passes_commit_point"),
        };
        let event = line.text("event").map(|text| {
            let (name, data) = text.split_once(':').expect("an event is NAME:DATA");
            (name.to_owned(), line.text("scope"), Bytes::from(data.to_owned()))
        });
        let fence = line.text("fence").map(|text| self.fence(&text));
        (fence, guard, event)
    }

    /// `start_recorded WORKFLOW INPUT record=KIND/NAME:BODY [rates=USES]`, and what [`Scenario::put_document`] takes. The
    /// document must not exist.
    fn start_recorded(&mut self, line: &Line) -> Command {
        let (fence, guard, event) = self.told_with(line);
        let text = line.text("record").expect("record=KIND/NAME:BODY");
        let (key, body) = text.split_once(':').expect("record=KIND/NAME:BODY");
        let (kind, name) = key.split_once('/').expect("record=KIND/NAME:BODY");
        let body = Bytes::from(body.to_owned());
        let put = PutDocument { key: DocumentKey::new(kind, name), expect: Some(0), body, ttl_ms: None, history: 0 };
        let rates = line.text("rates").map(|text| rates(&text)).unwrap_or_default();
        let record = Box::new(Record { put, fence, guard, event, rates });
        Command::StartRecorded { start: Box::new(line.start()), record }
    }

    /// `child=r1.0:NAME`.
    fn child_of(&mut self, text: &str) -> ChildOf {
        let (task, name) = text.split_once(':').expect("child is TASK:NAME");
        ChildOf { task: self.task(task), name: name.to_owned(), nth: None }
    }

    /// `bulk WORKFLOW/INPUT[/BODY] ... [child=TASK] [id=PREFIX]`: children are named, and keys made, like inputs.
    fn bulk(&mut self, line: &Line) -> Vec<Start> {
        let (parent, id) = (line.text("child"), line.text("id"));
        let mut starts = Vec::new();
        for word in &line.words {
            let (workflow, input) = word.split_once('/').expect("WORKFLOW/INPUT");
            let (input, body) = input.split_once('/').unwrap_or((input, "1"));
            let body = body.parse().expect("an idempotency body is a number");
            let child_of = parent.as_ref().map(|task| self.child_of(&format!("{task}:{input}")));
            let idempotency = id.as_ref().map(|id| Idempotency { key: format!("{id}{input}"), body });
            let input = Bytes::from(input.to_owned());
            starts.push(Start { workflow: workflow.to_owned(), input, child_of, idempotency, ..Start::default() });
        }
        starts
    }

    /// `advance [documents=KIND/NAME/EXPECT/BODY+...] WORKFLOW/KEY/INPUT ...`; a `KEY` of `-` is none.
    fn bulk_without_ids(&mut self, line: &Line) -> Vec<Start> {
        let start = |word: &String| {
            let parts: Vec<&str> = word.split('/').collect();
            let [workflow, key, input] = parts[..] else { panic!("WORKFLOW/KEY/INPUT, not {word:?}") };
            let key = (key != "-").then(|| key.to_owned());
            Start { workflow: workflow.to_owned(), key, input: Bytes::from(input.to_owned()), ..Start::default() }
        };
        line.words.iter().map(start).collect()
    }

    /// `judge TASK run|skip|cancel|fail [WHY] [rates=USES] [grounds=JSON]`.
    fn verdict(line: &Line) -> Verdict {
        let why = line.word(2).to_owned();
        match line.word(1) {
            "run" => Verdict::Run {
                rates: line.text("rates").map(|text| rates(&text)).unwrap_or_default(),
                grounds: line.text("grounds").map(Bytes::from),
            },
            "skip" => Verdict::Skip,
            "cancel" => Verdict::Cancel { reason: why },
            "fail" => Verdict::Fail { error: why },
            other => panic!("no verdict {other:?}"),
        }
    }

    fn command(&mut self, line: &Line) -> Command {
        let text = |nth: usize| line.word(nth).to_owned();
        match line.verb.as_str() {
            "tenant" => Command::PutTenant { name: text(0) },
            "workflow" => Command::PutWorkflow { def: line.workflow() },
            "start" => {
                let child_of = line.text("child").map(|text| self.child_of(&text));
                Command::StartRun { start: Start { child_of, ..line.start() } }
            }
            "start_recorded" => self.start_recorded(line),
            "advance" => Command::Advance { puts: line.puts(), starts: self.bulk_without_ids(line) },
            "bulk" => Command::StartRuns { starts: self.bulk(line) },
            "cancel_task" => Command::CancelTask { task: self.task(line.word(0)), reason: text(1) },
            "replay" => {
                let index = |text: &str| text.parse().expect("a task's index is a number");
                let tasks = line.text("tasks").map(|tasks| tasks.split('+').map(index).collect());
                Command::ReplayRun { run: self.run_id(line.word(0)), tasks }
            }
            "judge" => Command::Judge { task: self.task(line.word(0)), verdict: Self::verdict(line) },
            "extend" => Command::ExtendTimeout { task: self.task(line.word(0)), by_ms: line.nth_number(1) },
            "release" => Command::ReleaseSlots { task: self.task(line.word(0)) },
            "rate" => {
                let (limit, window_ms) = (line.nth_number(1) as u32, line.nth_number(2));
                Command::PutRate { name: text(0), limit, window_ms }
            }
            "log" => {
                let (attempt, at) = (line.number("attempt").unwrap_or(1), self.world.now);
                let row = LogRow { attempt, at, level: "info".into(), message: text(1), metadata: Bytes::new() };
                Command::PutLog { task: self.task(line.word(0)), line: row }
            }
            "enrol" => {
                let worker = WorkerId(self.named(line.word(0)));
                let lease_ms = line.number("lease").unwrap_or(1_000);
                Command::EnrolWorker { worker, new: line.new_worker(), lease_ms }
            }
            "connect" => Command::ConnectWorker { worker: WorkerId(self.named(line.word(0))) },
            "disconnect" => {
                let worker = WorkerId(self.named(line.word(0)));
                Command::DisconnectWorker { worker, undelivered: self.held(line, "undelivered") }
            }
            "update" => {
                let (worker, paused) = (WorkerId(self.named(line.word(0))), line.text("paused"));
                Command::UpdateWorker { worker, labels: line.labels(), paused: paused.map(|text| text == "yes") }
            }
            "acknowledge" => Command::Acknowledge { claim: self.claim(line.word(0)) },
            "cancel" => Command::CancelRun { run: self.run_id(line.word(0)), reason: text(1) },
            "resume" => Command::ResumeRun { run: self.run_id(line.word(0)) },
            "send" => Command::SendMessage {
                workflow: text(0),
                key: text(1),
                payload: line.bytes(2),
                idempotency: line.idempotency(),
                admission: Box::new(line.admission()),
            },
            "put" => self.put_document(line),
            "look_at_fence" => Command::LookAtFence { fence: self.fence(line.word(0)) },
            "pass_commit_point" => Command::PassCommitPoint { fence: self.fence(line.word(0)) },
            "interrupt" => Command::Interrupt { claim: self.claim(line.word(0)) },
            "event" => Command::EmitEvent {
                name: text(0),
                scope: line.text("scope"),
                data: line.bytes(1),
                metadata: line.text("meta").map(Bytes::from),
                priority: line.number("priority"),
                fence: None,
            },
            "signal" => Command::SignalRun { run: self.run_id(line.word(0)), name: text(1), payload: line.bytes(2) },
            "worker" => {
                let worker = WorkerId(self.named(line.word(0)));
                Command::RegisterWorker {
                    worker,
                    new: line.new_worker(),
                    local: line.has("local"),
                    lease_ms: line.number("lease"),
                    holds: self.held(line, "holds"),
                }
            }
            "heartbeat" => Command::HeartbeatWorker { worker: WorkerId(self.named(line.word(0))) },
            "remove" => Command::RemoveWorker { worker: WorkerId(self.named(line.word(0))) },
            "journal" => {
                let mut before: Vec<_> = each_entry(line).iter().map(|line| self.request(line)).collect();
                let request = before.pop().expect("there is a last entry");
                let position = line.nth_number(1) as u32;
                Command::Journal { claim: self.claim(line.word(0)), position, before, request }
            }
            "suspend" => Command::Suspend {
                claim: self.claim(line.word(0)),
                waiting: (1..line.words.len()).map(|nth| line.nth_number(nth) as u32).collect(),
            },
            "complete" => Command::Complete { claim: self.claim(line.word(0)), output: line.bytes(1) },
            "supersede" => Command::Supersede { claim: self.claim(line.word(0)), reason: text(1) },
            "fail" => Command::Fail {
                claim: self.claim(line.word(0)),
                error: text(1),
                retry: !line.has("final"),
                after_ms: line.number("after"),
            },
            "park" => Command::Park { claim: self.claim(line.word(0)), error: text(1) },
            "token" => Command::PutToken {
                token: TokenId(self.named(line.word(0))),
                name: text(0),
                scopes: vec![text(1)],
                expires_at: line.number("until").unwrap_or(1_000_000),
            },
            "revoke" => Command::RevokeToken { token: TokenId(self.named(line.word(0))) },
            "explain" => Command::Explain { run: self.run_id(line.word(0)) },
            "look" => Command::LookAtInbox { workflow: text(0), key: text(1) },
            "look-key" => Command::LookAtKey { workflow: text(0), key: text(1) },
            "count" => Command::Count,
            verb if streams::VERBS.contains(&verb) => streams::command(line),
            verb => panic!("no verb {verb:?}"),
        }
    }

    /// `holds=d1,d2`: what the worker says it has in hand; `holds=all` is what the rows say.
    fn held(&mut self, line: &Line, option: &str) -> Vec<Held> {
        let Some(text) = line.text(option) else { return Vec::new() };
        if text == "all" {
            let worker = WorkerId(self.named(line.word(0)));
            return self.world.held_by(self.tenant, worker);
        }
        let claims = text.split(',').map(|name| self.claim(name)).collect::<Vec<_>>();
        let held = |claim: Claim| Held { task: claim.task, invocation: claim.invocation.unwrap_or(0) };
        claims.into_iter().map(held).collect()
    }

    fn request(&mut self, line: &Line) -> Request {
        let timeout_ms = line.number("timeout");
        let text = |nth: usize| line.word(nth).to_owned();
        match line.word(2) {
            "run" => {
                let result = line.text("error").map_or_else(|| Ok(line.bytes(4)), Err);
                Request::Run { name: text(3), result, took_ms: line.number("took").unwrap_or(0) }
            }
            "sleep" => Request::Sleep { duration_ms: line.nth_number(3) },
            "receive" => Request::Receive {
                wait: match (line.number("until"), timeout_ms) {
                    (Some(at), _) => Wait::Until(at),
                    (None, Some(timeout_ms)) => Wait::For(timeout_ms),
                    (None, None) => Wait::Forever,
                },
                messages_max: line.number("max").unwrap_or(10),
                close_on_timeout: line.has("close"),
            },
            "take" => Request::Take { from: rates(line.word(3)).swap_remove(0), until: line.number("until") },
            "peek" => Request::Peek,
            "close" => Request::Close { force: line.has("force") },
            "wait_event" => Request::WaitEvent { name: text(3), scope: line.text("scope"), timeout_ms },
            "wait_signal" => Request::WaitSignal { name: text(3), timeout_ms },
            "spawn" => Request::Spawn {
                workflow: text(3),
                key: line.text("key"),
                input: line.bytes(4),
                priority: line.number("priority"),
                detached: line.has("detached"),
                on_parent_end: if line.has("abandon") { OnParentEnd::Abandon } else { OnParentEnd::Cancel },
            },
            "signal" => Request::Signal { run: self.run_id(line.word(3)), name: text(4), payload: line.bytes(5) },
            "emit" => Request::Emit { name: text(3), scope: line.text("scope"), data: line.bytes(4) },
            "begin" => Request::Begin { name: text(3), guarded: line.has("guarded") },
            "commit" => Request::Commit { commit: Box::new(line.commit()) },
            "cancel" => Request::Cancel { run: self.run_id(line.word(3)), reason: text(4) },
            other => panic!("no request {other:?}"),
        }
    }
}

/// `journal RUN POSITION ENTRY then ENTRY ...`: a line for each entry. Options are those of all of them.
fn each_entry(line: &Line) -> Vec<Line> {
    let (place, entries) = line.words.split_at(line.words.len().min(2));
    let entries = entries.split(|word| word == "then");
    entries.map(|entry| Line { words: [place, entry].concat(), ..line.clone() }).collect()
}

/// Whether a second delivery was answered as it should be.
fn same_answer(first: &Result<Reply, Refusal>, second: &Result<Reply, Refusal>) -> bool {
    match (first, second) {
        (first, second) if first == second => true,
        (Ok(Reply::Registered { version, .. }), Ok(Reply::Registered { version: again, created: false })) => {
            version == again
        }
        (Ok(Reply::Started { run, .. }), Ok(Reply::Started { run: again, duplicate: true })) => run == again,
        (Ok(Reply::Accepted { message, run, .. }), Ok(Reply::Accepted { message: m, run: r, duplicate: true })) => {
            (message, run) == (m, r)
        }
        (Ok(Reply::Stream(StreamReply::Published(first))), Ok(Reply::Stream(StreamReply::Published(second)))) => {
            first.len() == second.len() && first.iter().zip(second).all(|(one, again)| one.0 == again.0 && again.1)
        }
        // The version is the one the first delivery made, unless it expired at once.
        (Ok(Reply::Written { version }), Err(Refusal::VersionConflict { found, .. })) => [0, *version].contains(found),
        // The document says that the run was started, and by its version that it is this one.
        (Ok(Reply::Started { .. }), Err(Refusal::VersionConflict { found: 1, .. })) => true,
        // The entry was completed by what it asked for.
        (Ok(Reply::EntryPending { .. }), Ok(Reply::EntryDone(_))) => true,
        // The claim was current and by its own word is no more: stop working on it.
        (Ok(Reply::Done | Reply::EntryDone(_)), Err(Refusal::StaleClaim { .. })) => true,
        (Ok(Reply::Done), Err(Refusal::NotParked { .. } | Refusal::NotEnded { .. })) => true,
        _ => false,
    }
}

/// A text without a field of plain value.
fn without(text: &str, field: &str) -> String {
    let mut parts = text.split(field);
    let mut kept = parts.next().unwrap_or("").to_owned();
    for part in parts {
        kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
    }
    kept
}
