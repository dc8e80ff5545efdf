//! The books: what was asked, answered, recorded and done, kept by those who watch and not by those who decide.
//!
//! They are written without the types of the engine. Each file holds one part of the promises and is told what concerns
//! it; a broken promise is noted at once, so that the trace ends where it shows.

pub mod facts;
mod keys;
pub mod marks;
mod messages;
mod rates;
mod requests;
mod tasks;

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
    rates: rates::Rates,
    requests: requests::Requests,
    pub(crate) tasks: tasks::Tasks,
    /// Of each partition: the latest time decided with, and the last event's number.
    latest: BTreeMap<usize, (u64, u64)>,
    tenants: Vec<u128>,
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
                self.keys.enter(&run);
                self.tasks.enter_run(run, &mut self.violations, &mut self.marks);
            }
            Fact::Task(task) => {
                let before = self.tasks.task((task.run, task.index)).map_or(0, |before| before.invocation);
                if task.state == "running" && task.invocation > before {
                    self.rates.given_out((task.tenant, task.run, task.index));
                }
                self.tasks.enter_task(task, &mut self.violations, &mut self.marks);
            }
            Fact::Rate(rate) => {
                // A window takes what the batch gave out before it only if that was given out in it.
                self.rates.settle(&self.tasks, &mut self.violations);
                self.rates.enter(rate, &mut self.violations, &mut self.marks);
            }
            Fact::Entry(entry) => self.tasks.enter_entry(entry, &mut self.violations, &mut self.marks),
            Fact::Message(message) => {
                let task = message.run.and_then(|run| self.tasks.task((run, 0)));
                if message.state == "received" && task.is_some_and(|task| task.state == "suspended") {
                    self.sometimes("a message woke a function that had left memory");
                }
                self.messages.enter(message, &mut self.violations, &mut self.marks);
            }
            Fact::Event(event) => {
                if event.seq <= latest_event {
                    self.violated(format!("event {} was recorded after event {latest_event}", event.seq));
                }
                self.latest.insert(partition, (latest_now, event.seq));
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

    /// A step of a durable function is being carried out.
    pub fn step_begins(&mut self, run: u128, label: &str) {
        if self.tasks.is_recorded(run, label) {
            self.violated(format!("step {label:?} of run {run:x} is carried out again after its result was recorded"));
        }
        self.sometimes("a step was carried out");
    }

    /// An agent was asked to answer messages in a turn.
    pub fn agent_asked(&mut self, turn: u128, texts: Vec<String>) {
        self.messages.asked(turn, texts);
    }

    /// An agent answered in a turn.
    pub fn agent_answered(&mut self, turn: u128) {
        self.messages.answered(turn);
    }

    /// A reply reached its channel.
    pub fn delivered(&mut self, turn: u128, reply: &str, session: &str, text: &str) {
        if let Err(wrong) = self.messages.delivered(turn, reply, session, text) {
            self.violated(wrong);
        }
    }

    /// Everything is at rest: what was accepted is done, once, in order.
    pub fn settle(&mut self) {
        let mut violations = Vec::new();
        self.tasks.settle(&mut violations);
        self.messages.settle(&self.tasks, &self.payloads, &mut violations);
        self.violations.extend(violations);
    }

    /// Numbers for the summary: messages, runs.
    pub fn counts(&self) -> (usize, usize) {
        (self.messages.count(), self.tasks.runs())
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
