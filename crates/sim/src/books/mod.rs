//! The books: what was asked, answered, recorded and done, kept by those who watch and not by those who decide.
//!
//! They are written without the types of the engine. Each file holds one part of the promises and is told what concerns
//! it; a broken promise is noted at once, so that the trace ends where it shows.

mod bookings;
mod documents;
pub mod facts;
mod keys;
pub mod marks;
mod messages;
mod rates;
mod requests;
mod tasks;
mod turns;

pub(crate) use rates::TAKEN;

use std::collections::{BTreeMap, BTreeSet};

use facts::Fact;

/// Everything that is held against the deployment.
#[derive(Debug, Default)]
pub struct Books {
    violations: Vec<String>,
    marks: BTreeSet<&'static str>,
    payloads: BTreeMap<u128, (u128, Vec<u8>)>,
    /// What functions were told of their journal entries.
    told: BTreeMap<(u128, u16, u32), u64>,
    keys: keys::Keys,
    messages: messages::Messages,
    documents: documents::Documents,
    turns: turns::Turns,
    counts: Counts,
    rates: rates::Rates,
    requests: requests::Requests,
    pub(crate) tasks: tasks::Tasks,
    pub(crate) bookings: bookings::Bookings,
    /// Of each partition: the latest time decided with, and the last event's number.
    latest: BTreeMap<usize, (u64, u64)>,
    tenants: Vec<u128>,
}

/// How much there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages.
    pub messages: u64,
    /// Runs of any kind.
    pub runs: u64,
    /// Turns.
    pub turns: u64,
    /// Turns that were superseded.
    pub superseded: u64,
    /// Turns that failed.
    pub failed: u64,
    /// Times a turn took messages in and began anew.
    pub absorbed: u64,
    /// Replies' segments that reached their channel.
    pub replies: u64,
    /// Ends of a process.
    pub crashes: u64,
}

impl Counts {
    /// Adds another deployment's.
    pub fn add(&mut self, more: Counts) {
        self.messages += more.messages;
        self.runs += more.runs;
        self.turns += more.turns;
        self.superseded += more.superseded;
        self.failed += more.failed;
        self.absorbed += more.absorbed;
        self.replies += more.replies;
        self.crashes += more.crashes;
    }
}

/// How everything a tenant says begins, so that it is recognised wherever it turns up.
pub fn marker(tenant: u128) -> String {
    format!("T{tenant}:")
}

impl Books {
    /// Books of a deployment with these tenants.
    pub fn new(tenants: &[u128]) -> Self {
        Books { tenants: tenants.to_vec(), ..Books::default() }
    }

    /// Notes a broken promise.
    pub fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// The first broken promise.
    pub fn first_violation(&self) -> Option<&str> {
        self.violations.first().map(String::as_str)
    }

    /// Notes that an interesting state was reached.
    pub fn sometimes(&mut self, what: &'static str) {
        debug_assert!(marks::ALL.contains(&what), "{what:?} is not in the list of marks");
        self.marks.insert(what);
    }

    /// The interesting states that were reached.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.marks.iter().copied()
    }

    /// Enters a durable fact of a partition.
    pub fn enter(&mut self, partition: usize, fact: Fact) {
        let (latest_now, latest_event) = self.latest.get(&partition).copied().unwrap_or_default();
        match fact {
            Fact::Now(now) => {
                if now < latest_now {
                    self.violated(format!("time went back from {latest_now} to {now}"));
                }
                self.latest.insert(partition, (now, latest_event));
            }
            Fact::Run(run) => {
                if run.state == "superseded" && self.messages.was_answered(run.id) {
                    self.sometimes("a turn was superseded after its agent had answered");
                }
                if run.workflow == "turn" {
                    let before = self.tasks.run(run.id).map(|before| before.state);
                    if before != Some(run.state) {
                        match run.state {
                            "superseded" => self.counts.superseded += 1,
                            "failed" => self.counts.failed += 1,
                            _ => {}
                        }
                    }
                    self.counts.turns += u64::from(before.is_none());
                }
                self.documents.enter_run(&run);
                self.bookings.enter_run(&run, &mut self.marks);
                self.turns.enter_run(&run, &mut self.violations, &mut self.marks);
                self.keys.enter(&run);
                self.tasks.enter_run(run, &mut self.violations, &mut self.marks);
            }
            Fact::Task(task) => {
                let before = self.tasks.task((task.run, task.index)).map_or(0, |before| before.invocation);
                if task.state == "running" && task.invocation > before {
                    self.rates.given_out((task.tenant, task.run, task.index));
                }
                self.turns.enter_task(&task, &mut self.violations);
                self.tasks.enter_task(task, &mut self.violations, &mut self.marks);
            }
            Fact::Rate(rate) => {
                // A window takes what the batch gave out before it only if that was given out in it.
                self.rates.settle(&self.tasks, &mut self.violations);
                self.rates.enter(rate, &mut self.violations, &mut self.marks);
            }
            Fact::Entry(entry) => {
                self.rates.enter_entry(&entry, self.tasks.done((entry.run, entry.index), entry.position));
                self.tasks.enter_entry(entry, &mut self.violations, &mut self.marks);
            }
            Fact::Message(message) => {
                let task = message.run.and_then(|run| self.tasks.task((run, 0)));
                if message.state == "received" && task.is_some_and(|task| task.state == "suspended") {
                    self.sometimes("a message woke a function that had left memory");
                }
                self.turns.enter_message(&message, &mut self.violations, &mut self.marks);
                self.messages.enter(message, &self.payloads, &mut self.violations, &mut self.marks);
            }
            Fact::Document(document) => {
                self.check_owner(document.tenant, &document.body, &document.kind);
                self.turns.enter_document(&document, &mut self.violations, &mut self.marks);
                self.documents.enter(document, &mut self.violations, &mut self.marks);
            }
            Fact::Event(event) => {
                if event.seq <= latest_event {
                    self.violated(format!("event {} was recorded after event {latest_event}", event.seq));
                }
                self.latest.insert(partition, (latest_now, event.seq));
                self.counts.absorbed += u64::from(event.name == "turn.message_absorbed");
                self.check_owner(event.tenant, &event.data, &event.name);
            }
            Fact::Request(request) => self.requests.enter(request, &mut self.violations),
            Fact::Payload { tenant, id, bytes } => {
                self.check_owner(tenant, &bytes, "a payload");
                let known = self.payloads.entry(id).or_insert_with(|| (tenant, bytes.clone()));
                if *known != (tenant, bytes) {
                    self.violated(format!("payload {id:x} was recorded twice, differently"));
                }
            }
            Fact::Other => {}
        }
    }

    /// A batch is complete: laws that hold between decisions are looked at.
    pub fn batch_ends(&mut self) {
        self.keys.batch_ends(&mut self.violations, &mut self.marks);
        self.tasks.batch_ends(&mut self.violations);
        self.rates.settle(&self.tasks, &mut self.violations);
    }

    /// Whether words of one tenant turned up with another.
    pub fn check_owner(&mut self, tenant: u128, bytes: &[u8], what: &str) {
        let others = self.tenants.iter().filter(|other| **other != tenant);
        let found = others.copied().find(|other| contains(bytes, marker(*other).as_bytes()));
        if let Some(other) = found {
            let text = String::from_utf8_lossy(bytes);
            self.violated(format!("{what} of tenant {tenant} has words of tenant {other}: {text}"));
        }
    }

    /// A sender was told that its message is accepted.
    pub fn message_accepted(&mut self, tenant: u128, session: &str, text: &str, told: (u128, u128)) {
        match self.messages.accepted(tenant, session, text, told, &self.payloads) {
            Ok(true) => self.sometimes("a message sent again was answered as the first time"),
            Ok(false) => {}
            Err(wrong) => self.violated(wrong),
        }
    }

    /// Somebody was told that its run is started.
    pub fn run_accepted(&mut self, tenant: u128, text: &str, run: u128) {
        if let Err(wrong) = self.tasks.run_accepted(tenant, text, run, &self.payloads) {
            self.violated(wrong);
        }
    }

    /// A worker was told that its completion is taken.
    pub fn completion_taken(&mut self, claim: (u128, u16, u32, u32), said: &[u8]) {
        if let Err(wrong) = self.tasks.completion_taken(claim, said, &self.payloads) {
            self.violated(wrong);
        }
    }

    /// A worker was told that its acknowledgement is taken.
    pub fn acknowledged(&mut self, task: (u128, u16), invocation: u32) {
        let Some(row) = self.tasks.task(task) else { return };
        if row.invocation == invocation && row.state == "running" && row.acknowledged != invocation {
            self.violated(format!("hand-over {invocation} of {:x}.{} was acknowledged in vain", task.0, task.1));
        }
    }

    /// A task was told which run is its child of that name.
    pub fn child_told(&mut self, task: (u128, u16), name: &str, run: u128) {
        if let Err(wrong) = self.tasks.child_told(task, name, run) {
            self.violated(wrong);
        }
    }

    /// Somebody is about to let a run run again.
    pub fn replay_asked(&mut self, run: u128) {
        self.tasks.replay_asked(run);
    }

    /// Somebody is about to give a verdict on a task: whether it runs.
    pub fn verdict_given(&mut self, task: (u128, u16), runs: bool) {
        self.tasks.verdict_given(task, runs);
    }

    /// A function was told what came of a journal entry.
    pub fn entry_told(&mut self, entry: (u128, u16, u32), digest: u64) {
        if *self.told.entry(entry).or_insert(digest) != digest {
            self.violated(format!("entry {:x}.{}.{} was told in two ways", entry.0, entry.1, entry.2));
        }
    }

    /// A step of a durable function is being carried out, after another that was noted.
    pub fn step_begins(&mut self, run: u128, label: &str, noted: Option<&str>) {
        if let Some(noted) = noted {
            if !self.tasks.is_recorded(run, noted) {
                self.violated(format!("step {label:?} of run {run:x} begins before {noted:?} is on record"));
            }
            self.sometimes("a step began after something that was noted");
        }
        if self.tasks.is_recorded(run, label) {
            self.violated(format!("step {label:?} of run {run:x} is carried out again after its result was recorded"));
        }
        self.sometimes("a step was carried out");
    }

    /// How often a chain of turns with an agent may be begun anew.
    pub fn set_restarts_max(&mut self, agent: &str, max: u32) {
        self.turns.set_restarts_max(agent, max);
    }

    /// An agent is asked to answer messages in a turn.
    pub fn agent_asked(&mut self, asked: Asked) {
        let Asked { tenant, session, turn, group, texts, version, state } = asked;
        self.turns.asked(turn, (&group, texts.len()), &mut self.violations, &mut self.marks);
        if let Err(wrong) = self.documents.given(turn, &(tenant, session), version, &state) {
            self.violated(wrong);
        }
        self.messages.asked(turn, texts);
    }

    /// An agent answers in a turn.
    pub fn agent_answers(&mut self, turn: u128, text: &str, state: Option<serde_json::Value>) {
        self.documents.answers(turn, state);
        self.messages.answered(turn, text);
    }

    /// Whether an attempt is over, so that nothing more may be done on its behalf.
    pub fn fence_fell(&self, turn: u128, position: u32) -> bool {
        self.turns.fence_fell(turn, position)
    }

    /// A turn was brought past its commit point.
    pub fn turn_commits(&mut self, turn: u128, how: &'static str) {
        self.turns.commits(turn, how, &mut self.violations);
    }

    /// An agent was told to carry an effect out.
    pub fn effect_go(&mut self, turn: u128, effect: (&str, &str), policy: &str, key: &str) {
        if let Err(wrong) = self.turns.effect_go(turn, effect, policy, key) {
            self.violated(wrong);
        }
    }

    /// An agent is about to report what came of an effect; nothing if it certainly did not happen.
    pub fn effect_ends(&mut self, turn: u128, effect: (&str, &str), result: Option<&str>) {
        self.turns.effect_ends(turn, effect, result);
    }

    /// An agent was told what had come of an effect.
    pub fn effect_done(&mut self, turn: u128, effect: (&str, &str), result: &str) {
        if let Err(wrong) = self.turns.effect_done(turn, effect, result) {
            self.violated(wrong);
        }
    }

    /// An agent is about to keep a phase's result.
    pub fn artifact_kept(&mut self, turn: u128, phase: &str, says: &str) {
        self.turns.artifact_kept(turn, phase, says);
    }

    /// An agent was given a phase's result.
    pub fn artifact_given(&mut self, turn: u128, phase: &str, says: &str) {
        if let Err(wrong) = self.turns.artifact_given(turn, phase, says) {
            self.violated(wrong);
        }
    }

    /// An operator is about to write a session's state.
    pub fn operator_writes(&mut self, tenant: u128, session: &str, state: serde_json::Value) {
        self.documents.operator_writes((tenant, session.to_owned()), state);
    }

    /// A process ended.
    pub fn crashed(&mut self) {
        self.counts.crashes += 1;
    }

    /// A segment of a reply reached its channel.
    pub fn delivered(&mut self, segment: Segment<'_>) {
        self.counts.replies += 1;
        if let Err(wrong) = self.messages.delivered(segment, &mut self.marks) {
            self.violated(wrong);
        }
    }

    /// Everything is at rest: what was accepted is done, once, in order.
    pub fn settle(&mut self) {
        self.bookings.check(&mut self.violations);
        let mut violations = Vec::new();
        self.tasks.settle(&mut violations);
        self.documents.settle(&self.tasks, &mut violations);
        self.messages.settle(&self.tasks, &mut violations);
        self.violations.extend(violations);
    }

    /// Numbers for the summary.
    pub fn counts(&self) -> Counts {
        let (messages, runs) = (self.messages.count() as u64, self.tasks.runs() as u64);
        Counts { messages, runs, ..self.counts }
    }
}

/// What an agent is asked.
#[derive(Debug)]
pub struct Asked {
    /// Whose.
    pub tenant: u128,
    /// The session.
    pub session: String,
    /// The turn.
    pub turn: u128,
    /// The turn with which its chain began, as it was told.
    pub group: String,
    /// The messages.
    pub texts: Vec<String>,
    /// The version of the session's state it is given.
    pub version: u64,
    /// What that says.
    pub state: serde_json::Value,
}

/// A segment of a reply that reaches its channel.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The turn.
    pub turn: u128,
    /// Its own id.
    pub id: &'a str,
    /// The session.
    pub session: &'a str,
    /// Its place, and how many the reply has.
    pub place: (u32, u32),
    /// What it says.
    pub text: &'a str,
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
