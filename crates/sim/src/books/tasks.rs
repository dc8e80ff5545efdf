//! Runs, tasks and journals: ends once and never changes after that, goes forward only, no time is cut short, slots are
//! not exceeded, and only the claim that counts is heard.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Entry, Run, Task};

type TaskId = (u128, u16);

#[derive(Debug, Default)]
pub(crate) struct Tasks {
    runs: BTreeMap<u128, Run>,
    tasks: BTreeMap<TaskId, Task>,
    /// Done entries, by the digest of what came of them.
    done: BTreeMap<(TaskId, u32), u64>,
    /// Recorded steps by name.
    steps: BTreeSet<(u128, String)>,
    deadlines: BTreeMap<(TaskId, u32), u64>,
    /// Runs somebody was told of, by what they were started with.
    accepted: BTreeMap<String, u128>,
    /// What each worker has at once at most.
    slots: BTreeMap<(u128, u128), BTreeMap<String, u32>>,
    /// Children asked for by name.
    children: BTreeMap<(TaskId, String), u128>,
    /// Runs that somebody let run again.
    replays: BTreeSet<u128>,
    /// Verdicts on tasks: whether they run.
    verdicts: BTreeMap<TaskId, bool>,
    running: BTreeMap<(u128, u128), BTreeSet<TaskId>>,
    touched: BTreeSet<(u128, u128)>,
}

impl Tasks {
    /// A worker says how much it takes at once.
    pub(crate) fn announced(&mut self, tenant: u128, worker: u128, slots: BTreeMap<String, u32>) {
        self.slots.insert((tenant, worker), slots);
    }

    /// How many runs there were.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// A run as last recorded.
    pub(crate) fn run(&self, id: u128) -> Option<&Run> {
        self.runs.get(&id)
    }

    /// A task as last recorded.
    pub(crate) fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id)
    }

    /// Runs that have not ended, with how they stand.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(|run| !run.ended)
    }

    pub(super) fn enter_run(&mut self, run: Run, violations: &mut Vec<String>, marks: &mut BTreeSet<&'static str>) {
        match run.state {
            "superseded" => marks.insert("a turn was superseded"),
            "parked" => marks.insert("a run was parked"),
            "cancelled" => marks.insert("a run was cancelled"),
            "failed" => marks.insert("a run failed"),
            _ => false,
        };
        if let Some(before) = self.runs.get(&run.id) {
            if before.tenant != run.tenant {
                violations.push(format!("run {:x} is of tenant {} and of {}", run.id, before.tenant, run.tenant));
            }
            if before.ended && before.digest != run.digest && !self.replays.contains(&run.id) {
                let (id, was, is) = (run.id, before.state, run.state);
                violations.push(format!("run {id:x} ended {was} and changed to {is}"));
            }
            if (before.created_at, &before.workflow, &before.key) != (run.created_at, &run.workflow, &run.key) {
                violations.push(format!("run {:x} became another: {before:?}, {run:?}", run.id));
            }
        }
        if let Some((parent, index, name)) = run.child_of.clone()
            && let Err(wrong) = self.child_told((parent, index), &name, run.id)
        {
            violations.push(wrong);
        }
        self.runs.insert(run.id, run);
    }

    /// One name of one task is one run.
    pub(super) fn child_told(&mut self, task: TaskId, name: &str, run: u128) -> Result<(), String> {
        let known = *self.children.entry((task, name.to_owned())).or_insert(run);
        if known == run {
            return Ok(());
        }
        Err(format!("child {name:?} of {:x}.{} is run {known:x} and run {run:x}", task.0, task.1))
    }

    pub(super) fn replay_asked(&mut self, run: u128) {
        self.replays.insert(run);
    }

    pub(super) fn verdict_given(&mut self, task: TaskId, runs: bool) {
        self.verdicts.insert(task, runs);
    }

    pub(super) fn enter_task(&mut self, task: Task, violations: &mut Vec<String>, marks: &mut BTreeSet<&'static str>) {
        let id = (task.run, task.index);
        let mut wrong = |what: &str| violations.push(format!("task {:x}.{} {what}", id.0, id.1));
        if let Some(before) = self.tasks.get(&id) {
            if before.ended && before.digest != task.digest && !self.replays.contains(&task.run) {
                wrong(&format!("ended {} and changed to {}", before.state, task.state));
            }
            if task.attempt < before.attempt || task.invocation < before.invocation || task.entries < before.entries {
                wrong(&format!("went back: {before:?}, {task:?}"));
            }
            let same = (before.attempt, before.invocation) == (task.attempt, task.invocation);
            if let (Some(was), Some(is)) = (before.worker, task.worker)
                && was != is
                && same
            {
                wrong(&format!("is with {is:x} and with {was:x} under one hand-over"));
            }
            if let Some(until) = before.until
                && matches!(task.state, "queued" | "running")
                && task.since < until
            {
                wrong(&format!("is tried again at {}, before {until}", task.since));
            }
            if let Some(worker) = before.worker {
                self.running.entry((task.tenant, worker)).or_default().remove(&id);
            }
            if before.state == "suspended" && task.state != "suspended" {
                marks.insert("a suspended function was woken");
            }
        }
        let verdict = self.verdicts.get(&id).copied();
        if before_state(self.tasks.get(&id)) == Some("judged") {
            match (task.state, verdict) {
                ("queued" | "running", None | Some(false)) => wrong("goes on without a verdict that says so"),
                ("skipped", Some(true)) if !self.replays.contains(&id.0) => wrong("is skipped against its verdict"),
                ("skipped", _) => {
                    marks.insert("a task was skipped");
                }
                _ => {}
            }
        }
        match task.state {
            "suspended" => marks.insert("a function left memory"),
            "backoff" => marks.insert("an attempt waited to be tried again"),
            _ => false,
        };
        for (position, deadline) in &task.pending {
            if let Some(deadline) = deadline {
                self.deadlines.insert((id, *position), *deadline);
            }
        }
        if let Some(worker) = task.worker {
            self.running.entry((task.tenant, worker)).or_default().insert(id);
            self.touched.insert((task.tenant, worker));
        }
        self.tasks.insert(id, task);
    }

    /// Whether an entry was known to be done.
    pub(super) fn done(&self, task: (u128, u16), position: u32) -> bool {
        self.done.contains_key(&(task, position))
    }

    pub(super) fn enter_entry(
        &mut self,
        entry: Entry,
        violations: &mut Vec<String>,
        marks: &mut BTreeSet<&'static str>,
    ) {
        let id = (entry.run, entry.index);
        let place = (id, entry.position);
        let mut wrong = |what: &str| violations.push(format!("entry {:x}.{}.{} {what}", id.0, id.1, entry.position));
        let known = self.done.get(&place).copied();
        match (known, entry.done_at) {
            (Some(known), Some(_)) if known == entry.digest => {}
            (Some(_), _) => wrong(&format!("was done and changed: {entry:?}")),
            (None, Some(at)) => {
                if entry.by_time
                    && let Some(deadline) = self.deadlines.get(&place)
                {
                    marks.insert("a wait ended by time");
                    if at < *deadline {
                        wrong(&format!("ended by time at {at}, before {deadline}"));
                    }
                }
                self.done.insert(place, entry.digest);
                if entry.kind == "run"
                    && entry.label.starts_with("once ")
                    && !self.steps.insert((entry.run, entry.label.clone()))
                {
                    wrong(&format!("records step {:?} a second time", entry.label));
                }
            }
            (None, None) => {}
        }
    }

    pub(super) fn batch_ends(&mut self, violations: &mut Vec<String>) {
        for worker in std::mem::take(&mut self.touched) {
            let (Some(slots), Some(running)) = (self.slots.get(&worker), self.running.get(&worker)) else { continue };
            let mut taken: BTreeMap<&str, u32> = BTreeMap::new();
            for task in running {
                let workflow = self.runs.get(&task.0).map_or("", |run| run.workflow.as_str());
                *taken.entry("default").or_default() += 1;
                if workflow == "heavy" {
                    *taken.entry("gpu").or_default() += 2;
                }
            }
            for (kind, taken) in taken {
                let slots = slots.get(kind).copied().unwrap_or(0);
                if taken > slots {
                    violations.push(format!("worker {:x} has given {taken} slots {kind:?} of {slots}", worker.1));
                }
            }
        }
    }

    pub(super) fn run_accepted(
        &mut self,
        tenant: u128,
        text: &str,
        run: u128,
        payloads: &BTreeMap<u128, (u128, Vec<u8>)>,
    ) -> Result<(), String> {
        let known = *self.accepted.entry(text.to_owned()).or_insert(run);
        if known != run {
            return Err(format!("{text:?} was answered with run {known:x} and with run {run:x}"));
        }
        let Some(row) = self.runs.get(&run) else {
            return Err(format!("{text:?} was answered with run {run:x}, which is not durable"));
        };
        let input = row.input.and_then(|input| payloads.get(&input)).map(|(_, bytes)| bytes.as_slice());
        let said = input.is_some_and(|input| super::contains(input, text.as_bytes()));
        if row.tenant != tenant || !said {
            return Err(format!("run {run:x} is not what {text:?} asked for"));
        }
        Ok(())
    }

    pub(super) fn completion_taken(
        &mut self,
        (run, index, attempt, invocation): (u128, u16, u32, u32),
        said: &[u8],
        payloads: &BTreeMap<u128, (u128, Vec<u8>)>,
    ) -> Result<(), String> {
        let claim = format!("the completion of {run:x}.{index} under attempt {attempt}, hand-over {invocation}");
        let Some(task) = self.tasks.get(&(run, index)) else { return Err(format!("{claim} was taken of no task")) };
        if self.replays.contains(&run) {
            // It may run again already.
            return Ok(());
        }
        if (task.state, task.attempt, task.invocation) != ("completed", attempt, invocation) {
            return Err(format!("{claim} was taken, and what stands is {task:?}"));
        }
        let output = task.output.and_then(|output| payloads.get(&output));
        if output.is_none_or(|(_, bytes)| bytes != said) {
            return Err(format!("{claim} was taken, and another output stands"));
        }
        Ok(())
    }

    pub(super) fn is_recorded(&self, run: u128, label: &str) -> bool {
        self.steps.contains(&(run, label.to_owned()))
    }

    pub(super) fn settle(&self, violations: &mut Vec<String>) {
        for run in self.open() {
            violations.push(format!("run {:x} of {} never ended, it is {}", run.id, run.workflow, run.state));
        }
        for ((run, index), task) in &self.tasks {
            if !task.ended {
                violations.push(format!("task {run:x}.{index} never ended, it is {}", task.state));
            }
        }
        for (text, run) in &self.accepted {
            if !self.runs.contains_key(run) {
                violations.push(format!("run {run:x}, accepted for {text:?}, was lost"));
            }
        }
    }
}

fn before_state(before: Option<&Task>) -> Option<&'static str> {
    before.map(|before| before.state)
}
