//! Rows, replies and effects as short lines, with names instead of ids.
//!
//! Runs become `r1, r2 ...` and messages `m1 ...` in the order they are first seen, payloads become what they say.

use std::collections::BTreeMap;

use mainspring_core::id::{MessageId, RunId, TenantId};
use mainspring_core::journal::{Completion, Pending, PendingKind};
use mainspring_core::place::LabelValue;
use mainspring_core::row::{
    ChildRow, DocumentRow, EventRow, IdempotencyRow, InboxRow, JournalRow, LogRow, MessageRow, MessageState, RateRow,
    RunRow, TaskRow, TaskState, TenantRow, TokenRow, WorkerRow, WorkflowRow, decode, key,
};
use mainspring_core::write::{Op, Table, ops};
use mainspring_core::{Dispatch, Effect, Refusal, Reply};

use super::streams;
use super::tables::{message_of, run_of, task_of, tenant_of, token_of, version_of, worker_of};

/// Names for ids.
#[derive(Debug, Default, Clone)]
pub struct Names {
    by_id: BTreeMap<u128, String>,
    runs: usize,
    messages: usize,
    versions: BTreeMap<(TenantId, String), usize>,
}

impl Names {
    /// Gives an id a name.
    pub fn name(&mut self, id: u128, name: &str) {
        self.by_id.insert(id, name.to_owned());
    }

    /// The id with this name.
    pub fn id(&self, name: &str) -> Option<u128> {
        self.by_id.iter().find(|(_, known)| *known == name).map(|(id, _)| *id)
    }

    fn run(&mut self, id: u128) {
        if !self.by_id.contains_key(&id) {
            self.runs += 1;
            self.by_id.insert(id, format!("r{}", self.runs));
        }
    }

    /// Names what a batch brings, in the order it brings it.
    pub fn learn(&mut self, batch: &[u8]) {
        for op in ops(batch) {
            let op = op.expect("a batch just written decodes");
            match (op.table, op.body) {
                (Table::Run, _) => self.run(run_of(op.key).0),
                (Table::Message, _) => {
                    let id = message_of(op.key).0;
                    if !self.by_id.contains_key(&id) {
                        self.messages += 1;
                        self.by_id.insert(id, format!("m{}", self.messages));
                    }
                }
                (Table::Payload, Some(body)) => {
                    let id = key::second(op.key).expect("a payload's key holds its id");
                    self.by_id.insert(id, format!("{:?}", String::from_utf8_lossy(body)));
                }
                (Table::Workflow, Some(body)) => {
                    let version = version_of(op.key).0;
                    let row: WorkflowRow = decode(body).expect("a row just written decodes");
                    if !self.by_id.contains_key(&version) {
                        let nth = self.versions.entry((tenant_of(op.key), row.def.name.clone())).or_default();
                        *nth += 1;
                        self.by_id.insert(version, format!("{}@{nth}", row.def.name));
                    }
                }
                _ => {}
            }
        }
    }

    /// Puts names in place of all ids in a text. An id never seen is a run that is promised and not yet made.
    pub fn put_in(&mut self, text: &str) -> String {
        let mut named = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(id) = rest.get(..36).and_then(uuid) {
                self.run(id);
                named.push_str(&self.by_id[&id]);
                rest = &rest[36..];
            } else {
                let c = rest.chars().next().expect("the rest is not empty");
                named.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        named
    }
}

fn uuid(text: &str) -> Option<u128> {
    let hyphens = [8, 13, 18, 23];
    let fits = text.bytes().enumerate().all(|(at, b)| {
        if hyphens.contains(&at) { b == b'-' } else { b.is_ascii_digit() || (b'a'..=b'f').contains(&b) }
    });
    fits.then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok()).flatten()
}

/// A field, if there is something to say.
fn field<T: std::fmt::Display>(name: &str, value: Option<T>) -> String {
    value.map(|value| format!(" {name}={value}")).unwrap_or_default()
}

/// One changed row in a line. Payloads and the partition's own row are left out.
pub fn change(op: Op<'_>) -> Option<String> {
    let Some(body) = op.body else {
        let what = match op.table {
            Table::Inbox => key::inbox_of(op.key).map(|(workflow, key)| format!("{workflow}/{key}")),
            Table::Idempotency => key::idempotency_of(op.key).map(str::to_owned),
            Table::Rate => key::rate_of(op.key).map(str::to_owned),
            Table::Worker => Some(worker_of(op.key).to_string()),
            Table::Document => key::document_of(op.key).map(|key| format!("{}/{}", key.kind, key.name)),
            Table::Revision => Some(revision(op.key)),
            Table::Pending => Some(entry_of(op.key)),
            Table::StreamGroup | Table::StreamProgress | Table::StreamPart => Some(streams::key_of(op.table, op.key)),
            _ => None,
        };
        return Some(format!("- {} {}", format!("{:?}", op.table).to_lowercase(), what.unwrap_or_default()));
    };
    let expect = "a row just written decodes";
    let line = match op.table {
        Table::Meta | Table::Payload => return None,
        Table::Tenant => format!("tenant {}", decode::<TenantRow>(body).expect(expect).name),
        Table::Workflow => {
            let row: WorkflowRow = decode(body).expect(expect);
            format!("workflow {}{}", version_of(op.key), if row.current { "" } else { " retired" })
        }
        Table::Run => {
            let row: RunRow = decode(body).expect(expect);
            let mut line = format!("run {} {}", run_of(op.key), row.workflow);
            line += &row.key.map(|key| format!("[{key}]")).unwrap_or_default();
            line += &format!(" {}", row.state.word());
            line += &field("priority", Some(row.priority).filter(|priority| *priority != 1));
            line += &field("parent", row.parent.map(|parent| format!("{}.{}", parent.task, parent.position)));
            line += &field("messages", Some(row.messages).filter(|count| *count > 0));
            line += &field("from", row.superseded_from);
            line += &field("by", row.superseded_by);
            line += &field("group", row.group);
            line += &field("superseded_before", Some(row.superseded_before).filter(|count| *count > 0));
            line += &field("metadata", row.metadata.as_deref().map(String::from_utf8_lossy));
            line += &field("child_of", row.child_of.map(|of| format!("{}:{}", of.task, of.name)));
            line += &field("event", row.event.map(|event| format!("{}:{}@{}", event.seq, event.name, event.at)));
            line += if row.once { " once" } else { "" };
            line += if row.guarded { " guarded" } else { "" };
            line += &field("asked_to_end", row.asked_to_end.map(|reason| format!("{reason:?}")));
            line += &field("output", row.output.map(|output| output.id));
            line + &field("error", row.error.map(|error| format!("{error:?}")))
        }
        Table::Task => {
            let row: TaskRow = decode(body).expect(expect);
            let mut line = format!("task {} {}", task_of(op.key), task_state(&row.state));
            line += &format!(" attempt={} invocation={}", row.attempt, row.invocation);
            line += &field("failures", Some(row.failures).filter(|count| *count > 0));
            line += &field("losses", Some(row.losses).filter(|count| *count > 0));
            line += &field("journal", Some(row.journal_len).filter(|count| *count > 0));
            for (position, pending) in &row.pending {
                line += &format!(" [{position}: {}]", waits_for(pending));
            }
            line += &field("acknowledged", Some(row.acknowledged).filter(|nth| *nth > 0));
            line += if row.slots_released { " slots_released" } else { "" };
            line += &field("fence", row.fence);
            for rate in &row.rates {
                let sets = rate.sets.map(|(limit, window)| format!(" of {limit}/{window}"));
                line += &format!(" [takes {} of {}{}]", rate.units, rate.name, sets.unwrap_or_default());
            }
            line += &field("grounds", row.grounds.map(|grounds| grounds.id));
            for (name, payload) in &row.signals {
                line += &format!(" [signal {name} {}]", payload.id);
            }
            line += &field("output", row.output.map(|output| output.id));
            line + &field("error", row.error.map(|error| format!("{error:?}")))
        }
        Table::Journal => {
            let row: JournalRow = decode(body).expect(expect);
            let position = key::position_of(op.key).expect("a journal's key holds the position");
            let label = if row.label.is_empty() { String::new() } else { format!(" {}", row.label) };
            let done = row.done.map_or_else(|| "pending".to_owned(), |(_, done)| completion(&done));
            format!("journal {}.{position} {}{label}: {done}", task_of(op.key), row.kind.word())
        }
        Table::Pending => format!("pending {} {}", entry_of(op.key), waits_for(&decode(body).expect(expect))),
        Table::Message => {
            let row: MessageRow = decode(body).expect(expect);
            let state = match row.state {
                MessageState::Unread => "unread".to_owned(),
                MessageState::Received { run } => format!("received by {run}"),
                MessageState::Done { run } => format!("done with {run}"),
            };
            let (id, payload) = (message_of(op.key), row.payload.id);
            format!("message {id} {payload} {}/{}#{} {state}", row.workflow, row.key, row.seq)
        }
        Table::Inbox => {
            let row: InboxRow = decode(body).expect(expect);
            let (workflow, key) = key::inbox_of(op.key).expect("an inbox's key names workflow and key");
            let closed = if row.closed { " closed" } else { "" };
            let next = field("successor", row.successor);
            let groups = field("groups", Some(row.groups.join("+")).filter(|groups| !groups.is_empty()));
            format!("inbox {workflow}/{key} live={}{closed}{next} next_seq={}{groups}", row.live, row.next_seq)
        }
        Table::Event => {
            let row: EventRow = decode(body).expect(expect);
            let seq = key::event_seq_of(op.key).expect("an event's key holds its number");
            let data = String::from_utf8_lossy(&row.data).into_owned();
            let scope = field("scope", row.scope) + &field("run", row.run);
            let scope = scope + &field("metadata", row.metadata.as_deref().map(String::from_utf8_lossy));
            format!("event {seq} {}{scope} {data}", row.name)
        }
        Table::Idempotency => {
            let row: IdempotencyRow = decode(body).expect(expect);
            let name = key::idempotency_of(op.key).expect("the key is text");
            let message = row.message.map(|message| format!(" {message}")).unwrap_or_default();
            format!("idempotency {name} ->{message} {} until {}", row.run, row.expires_at)
        }
        Table::Token => {
            let row: TokenRow = decode(body).expect(expect);
            let revoked = row.revoked_at.map(|at| format!(" revoked at {at}")).unwrap_or_default();
            format!("token {} {:?} until {}{revoked}", token_of(op.key), row.scopes, row.expires_at)
        }
        Table::Worker => {
            let row: WorkerRow = decode(body).expect(expect);
            let actions = row.actions.into_iter().collect::<Vec<_>>().join(",");
            let mut line = format!("worker {} {actions}", worker_of(op.key));
            row.slots.iter().for_each(|(kind, units)| line += &format!(" {kind}={units}"));
            row.labels.iter().for_each(|(name, value)| line += &format!(" {name}:{}", label(value)));
            line + &format!(" lease={}{}", row.lease_ms, if row.paused { " paused" } else { "" })
        }
        Table::Rate => {
            let row: RateRow = decode(body).expect(expect);
            let name = key::rate_of(op.key).expect("a rate's key is its name");
            let put = if row.put { "" } else { " brought along" };
            format!("rate {name} {} of {} left in {} ms from {}{put}", row.left, row.limit, row.window_ms, row.since)
        }
        Table::Child => {
            let row: ChildRow = decode(body).expect(expect);
            format!("child {} of {}: {}", row.name, task_of(op.key), row.run)
        }
        Table::Document => {
            let key = key::document_of(op.key).expect("a document's key names kind and name");
            format!("document {}/{} {}", key.kind, key.name, document(&decode(body).expect(expect)))
        }
        Table::Revision => {
            let row: DocumentRow = decode(body).expect(expect);
            format!("revision {} {}", revision(op.key), document(&row))
        }
        Table::Stream
        | Table::StreamPart
        | Table::StreamEntry
        | Table::StreamEntryId
        | Table::StreamGroup
        | Table::StreamProgress => streams::row(op.table, op.key, body),
        Table::Log => {
            let row: LogRow = decode(body).expect(expect);
            format!("log {} attempt={} {} {:?}", task_of(op.key), row.attempt, row.level, row.message)
        }
    };
    Some(format!("+ {line}"))
}

fn entry_of(row: &[u8]) -> String {
    format!("{}.{}", task_of(row), key::position_of(row).expect("an entry's key holds the position"))
}

fn document(row: &DocumentRow) -> String {
    let body = match read_once(&row.body) {
        Some((message, run)) => format!("{message} for {run}"),
        None => String::from_utf8_lossy(&row.body).into_owned(),
    };
    let more = field("until", row.expires_at) + &field("by", row.by);
    format!("@{} {body}{more}", row.version)
}

/// The document that remembers a message by its sender's own id holds two ids.
fn read_once(body: &[u8]) -> Option<(MessageId, RunId)> {
    let number = |from: usize| Some(u128::from_be_bytes(body.get(from..from + 16)?.try_into().ok()?));
    let ids = (MessageId(number(0)?), RunId(number(16)?));
    (body.len() == 32).then_some(ids)
}

/// Kind, name and version of a revision's key.
fn revision(row: &[u8]) -> String {
    let length = |at: usize| usize::from(u16::from_be_bytes([row[at], row[at + 1]]));
    let (kind, name) = (length(16), length(18));
    let text = |from: usize, to: usize| String::from_utf8_lossy(&row[from..to]).into_owned();
    let version = row[20 + kind + name..].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{}/{}@{version}", text(20, 20 + kind), text(20 + kind, 20 + kind + name))
}

fn label(value: &LabelValue) -> String {
    match value {
        LabelValue::Text(text) => text.clone(),
        LabelValue::Number(number) => number.to_string(),
    }
}

fn task_state(state: &TaskState) -> String {
    match state {
        TaskState::Running { worker, deadline, .. } => format!("running on {worker}{}", field("until", *deadline)),
        TaskState::Backoff { until } => format!("backoff until {until}"),
        other => other.word().to_owned(),
    }
}

fn waits_for(pending: &Pending) -> String {
    let what = match &pending.kind {
        PendingKind::Sleep => "sleep".to_owned(),
        PendingKind::Receive { close_on_timeout, .. } => {
            format!("receive{}", if *close_on_timeout { " or close" } else { "" })
        }
        PendingKind::Event { name, scope } => format!("event {name}{}", field("scope", scope.as_ref())),
        PendingKind::Signal { name } => format!("signal {name}"),
        PendingKind::Child { run } => format!("child {run}"),
    };
    what + &pending.deadline.map(|at| format!(" until {at}")).unwrap_or_default()
}

fn completion(done: &Completion) -> String {
    match done {
        Completion::Unit => "done".to_owned(),
        Completion::Bool(answer) => format!("{answer}"),
        Completion::Value(value) => format!("{}", value.id),
        Completion::Failed(error) => format!("failed {error:?}"),
        Completion::Cancelled(reason) => format!("cancelled {reason:?}"),
        Completion::Messages(messages) => {
            let each: Vec<String> = messages.iter().map(|message| message.id.to_string()).collect();
            format!("messages {}", each.join(" "))
        }
        Completion::TimedOut => "timed out".to_owned(),
        Completion::Closed => "closed".to_owned(),
        Completion::Spawned(run) => format!("spawned {run}"),
        Completion::Child(end) => {
            let output = field("output", end.output.map(|output| output.id));
            let error = field("error", end.error.as_ref().map(|error| format!("{error:?}")));
            format!("child {} {}{output}{error}", end.run, end.state.word())
        }
    }
}

/// A reply or refusal in a line.
pub fn answer(answer: &Result<Reply, Refusal>) -> String {
    let duplicate = |duplicate: bool| if duplicate { " (duplicate)" } else { "" };
    match answer {
        Ok(Reply::Done) => "done".to_owned(),
        Ok(Reply::Registered { version, created }) => {
            format!("registered {version}{}", if *created { "" } else { " (known)" })
        }
        Ok(Reply::Started { run, duplicate: again }) => format!("started {run}{}", duplicate(*again)),
        Ok(Reply::Accepted { message, run, duplicate: again }) => {
            format!("accepted {message} for {run}{}", duplicate(*again))
        }
        Ok(Reply::StartedAll { runs }) => {
            format!("started {}", runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
        Ok(Reply::Until(until)) => format!("until {until}"),
        Ok(Reply::Emitted { seq, .. }) => format!("emitted {seq}"),
        Ok(Reply::EntryDone(done)) => format!("entry: {}", completion(done)),
        Ok(Reply::EntryPending { child }) => format!("entry pending{}", field("child", *child)),
        Ok(Reply::Suspended) => "suspended".to_owned(),
        Ok(Reply::StayAwake) => "stay awake".to_owned(),
        Ok(Reply::Written { version }) => format!("written @{version}"),
        Ok(Reply::Standing { unread, committed }) => {
            format!("{unread} unread{}", if *committed { ", committed" } else { "" })
        }
        Ok(Reply::Interrupted(interrupted)) => format!("interrupted: {interrupted}"),
        Ok(Reply::Waiting { reason: None, .. }) => "waits for nothing".to_owned(),
        Ok(Reply::Waiting { reason: Some(reason), since }) => format!("since {}: {reason}", since.unwrap_or(0)),
        Ok(Reply::Inbox(None)) => "no inbox".to_owned(),
        Ok(Reply::Inbox(Some(view))) => {
            let closed = if view.closed { " closed" } else { "" };
            let more = field("successor", view.successor);
            format!("inbox of {}{closed}{more}: {} unread, {} received", view.live, view.unread, view.received)
        }
        Ok(Reply::OfKey(runs)) if runs.is_empty() => "no run of this key".to_owned(),
        Ok(Reply::OfKey(runs)) => {
            format!("of this key: {}", runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
        Ok(Reply::Workers(workers)) => format!("{workers:?}"),
        Ok(Reply::Stream(reply)) => streams::answer(reply),
        Ok(Reply::Counts(counts)) => format!("{counts:?}"),
        Err(refusal) => format!("refused {}: {refusal}", refusal.code()),
    }
}

/// An effect in a line. Events are shown by their rows already.
pub fn effect(effect: &Effect, dispatch: usize) -> Option<String> {
    Some(match effect {
        Effect::Dispatch(given) => {
            let Dispatch { worker, task, action, attempt, invocation, input, journal_len, key, .. } = &**given;
            let Dispatch { messages_waiting, metadata, child_of, event, grounds, parents, errors, lineage, .. } =
                &**given;
            let more = field("input", input.map(|input| input.id)) + &field("key", key.as_ref());
            let replay = field("replay", Some(journal_len).filter(|len| **len > 0));
            let waiting = field("unread_up_to", *messages_waiting);
            let which = format!("attempt={attempt} invocation={invocation}");
            let mut line = format!("! d{dispatch}: {action} {task} to {worker} {which}{more}{replay}{waiting}");
            line += &field("metadata", metadata.as_deref().map(String::from_utf8_lossy));
            line += &field("child_of", child_of.as_ref().map(|of| format!("{}:{}", of.task, of.name)));
            line += &field("event", event.as_ref().map(|event| format!("{}:{}", event.seq, event.name)));
            if lineage.group != task.run {
                line += &format!(" group={} superseded_before={}", lineage.group, lineage.superseded_before);
                line += &field("from", lineage.from);
            }
            line += &field("grounds", grounds.map(|grounds| grounds.id));
            // Outputs of parents that were skipped stand out; the others are in the lines above.
            let skipped = parents.iter().filter(|(_, output)| output.is_none());
            skipped.for_each(|(parent, _)| line += &format!(" without={parent}"));
            errors.iter().for_each(|(index, error)| line += &format!(" failed={index}:{error:?}"));
            line
        }
        Effect::CancelAttempt { worker, task, attempt, .. } => format!("! stop {task} attempt={attempt} on {worker}"),
        Effect::EntryDone { worker, task, position, completion: done, invocation, .. } => {
            format!("! tell {worker} {task}.{position} invocation={invocation}: {}", completion(done))
        }
        Effect::MessageWaits { worker, task, .. } => format!("! tell {worker} a message waits for {task}"),
        Effect::Judge { task, .. } => format!("! judge {task}"),
        // What changed is in the rows above.
        Effect::TaskChanged { .. } | Effect::Event { .. } => return None,
        Effect::RunEnded { run, state, .. } => format!("! ended {run} {}", state.word()),
        Effect::StreamStirred { stream, .. } => format!("! stir {stream}"),
        Effect::TokenRevoked { token, .. } => format!("! revoked {token}"),
    })
}
