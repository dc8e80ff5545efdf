//! Events: something happened, by name, with data and a scope. They start workflows and complete waits.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use bytes::Bytes;

use crate::effect::Effect;
use crate::fence::Fence;
use crate::id::{RunId, TaskId, VersionId};
use crate::journal::Completion;
use crate::machine::{Consequence, Step};
use crate::reply::{Refusal, Reply};
use crate::row::{self, EventRef, EventRow};
use crate::run::NewRun;
use crate::workflow::WorkflowDef;
use crate::write::Table;

impl Step<'_> {
    pub(crate) fn emit_event(
        &mut self,
        name: &str,
        scope: Option<String>,
        data: Bytes,
        metadata: Option<Bytes>,
        priority: Option<u8>,
        fence: Option<Fence>,
    ) -> Result<Reply, Refusal> {
        if let Some(fence) = fence {
            self.check_fence(fence)?;
        }
        self.check_event(name, scope.as_deref(), &data)?;
        self.check_metadata(metadata.as_ref())?;
        let at = self.now;
        let event =
            EventRow { name: name.to_owned(), scope, at, run: fence.map(|fence| fence.task.run), data, metadata };
        let seq = self.publish(event, priority);
        Ok(Reply::Emitted { seq, at })
    }

    pub(crate) fn check_event(&self, name: &str, scope: Option<&str>, data: &Bytes) -> Result<(), Refusal> {
        let starts = self.check_events([(name, scope, data)])?;
        // An event that starts nothing is taken even when no run may start: it may be what lets others end.
        if starts == 0 { Ok(()) } else { self.check_live_runs() }
    }

    /// Checks events of one decision, which together have the limits of one. Answers how many runs they start.
    pub(crate) fn check_events<'e>(
        &self,
        events: impl IntoIterator<Item = (&'e str, Option<&'e str>, &'e Bytes)>,
    ) -> Result<usize, Refusal> {
        let (mut woken, mut starts, mut copies) = (0_usize, 0_usize, 0_usize);
        for (name, scope, data) in events {
            self.check_label("the event's name", name)?;
            if let Some(scope) = scope {
                self.check_key("the event's scope", scope)?;
            }
            let max = self.limits.event_bytes_max;
            if data.len() > max {
                return Err(Refusal::TooLarge { what: "the event's data", found: data.len(), max });
            }
            let fan_out = self.waits_for(name, scope).len();
            woken += fan_out;
            if woken > self.limits.event_fan_out_max {
                return Err(Refusal::Full {
                    what: "waits that one event would complete",
                    max: self.limits.event_fan_out_max,
                    action: "give the event a scope, so that fewer runs wait for the same one",
                });
            }
            // Each run that is woken or started gets the data as its own.
            let triggered = self.triggered_by(name);
            starts += triggered.len();
            copies = copies.saturating_add((fan_out + triggered.len()).saturating_mul(data.len()));
            if copies > self.limits.event_copies_bytes_max {
                return Err(Refusal::TooLarge {
                    what: "the event's data, over all runs that would get it,",
                    found: copies,
                    max: self.limits.event_copies_bytes_max,
                });
            }
            for (_, def) in &triggered {
                self.check_executable(def)?;
            }
        }
        Ok(starts)
    }

    /// Records an event, wakes who waits for it, starts what it triggers.
    pub(crate) fn publish(&mut self, event: EventRow, priority: Option<u8>) -> u64 {
        self.meta.event_seq += 1;
        *self.meta_dirty = true;
        let seq = self.meta.event_seq;
        self.out.put(Table::Event, &row::key::event(self.tenant, event.scope.as_deref(), seq), &event);
        self.wake_waits(&event);
        self.start_triggered(&event, seq, priority);
        self.out.effect(Effect::Event { tenant: self.tenant, seq, event });
        seq
    }

    /// The waits an event completes, in order.
    fn waits_for(&self, name: &str, scope: Option<&str>) -> BTreeSet<(TaskId, u32)> {
        let Some(waits) = self.t.event_waits.get(name) else { return BTreeSet::new() };
        let of_any = waits.get(&None).into_iter().flatten();
        let of_scope = scope.and_then(|scope| waits.get(&Some(scope.to_owned()))).into_iter().flatten();
        of_any.chain(of_scope).copied().collect()
    }

    /// The workflows an event starts a run of.
    fn triggered_by(&self, name: &str) -> Vec<(VersionId, Arc<WorkflowDef>)> {
        let current = self.t.current.values().filter_map(|version| Some((version, self.t.versions.get(version)?)));
        current
            .filter(|(_, def)| !def.inbox && def.event_triggers.iter().any(|trigger| matches_pattern(trigger, name)))
            .map(|(version, def)| (*version, Arc::clone(def)))
            .collect()
    }

    /// A wait without a scope takes any event of the name; one with a scope only events of that scope.
    fn wake_waits(&mut self, event: &EventRow) {
        let satisfied = self.waits_for(&event.name, event.scope.as_deref());
        if satisfied.is_empty() {
            return;
        }
        // Another event of the same decision finds nobody here any more: what it brought would be nobody's.
        if let Some(waits) = self.t.event_waits.get_mut(&event.name) {
            waits.remove(&None);
            if event.scope.is_some() {
                waits.remove(&event.scope);
            }
            if waits.is_empty() {
                self.t.event_waits.remove(&event.name);
            }
        }
        for (task, position) in satisfied {
            // Each has its own, because retention removes a run with the payloads in its journal.
            let completion = Completion::Value(self.store_payload(event.data.clone()));
            self.agenda.push_back(Consequence::CompleteEntry { task, position, completion });
        }
    }

    /// Starts what an event triggers. A run's own start is an event too, so workflows could start each other without
    /// end within one decision: chains and their sum are bounded, and what is beyond that is not started.
    fn start_triggered(&mut self, event: &EventRow, seq: u64, priority: Option<u8>) {
        let depth = event.run.and_then(|run| self.triggered.get(&run)).copied().unwrap_or(0);
        if depth >= self.limits.trigger_depth_max {
            return;
        }
        for (version, def) in self.triggered_by(&event.name) {
            if self.triggered.len() >= self.limits.event_fan_out_max {
                return;
            }
            // Requests are refused because of it; the steps of a run's life are not requests.
            if def.not_yet.is_some() {
                continue;
            }
            let id = self.ids.mint_run();
            self.triggered.insert(id, depth + 1);
            let input = Some(self.store_payload(event.data.clone()));
            // A workflow with a key rule serialises its event-started runs by the event's scope.
            let key = event.scope.clone().filter(|_| def.key.is_some());
            self.create_run(NewRun {
                key,
                priority,
                input,
                metadata: event.metadata.clone(),
                event: Some(EventRef { seq, at: event.at, name: event.name.clone() }),
                ..NewRun::of(id, version, def)
            });
        }
    }

    /// Publishes a step in the life of a keyed run, in the same commit as the step itself.
    pub(crate) fn publish_lifecycle(&mut self, run: RunId, what: &str, error: Option<&str>) {
        let data = match error {
            Some(error) => format!("{{\"error\":{}}}", json_string(error, 4_096)),
            None => "{}".to_owned(),
        };
        self.publish_for(run, what, data);
    }

    pub(crate) fn publish_superseded(&mut self, run: RunId, by: Option<RunId>) {
        let reason = self.t.runs.get(&run).and_then(|run| run.row.error.clone()).unwrap_or_default();
        let by = by.map_or_else(|| "null".to_owned(), |by| format!("\"{by}\""));
        let data = format!("{{\"superseded_by\":{by},\"reason\":{}}}", json_string(&reason, 4_096));
        self.publish_for(run, "superseded", data);
    }

    fn publish_for(&mut self, id: RunId, what: &str, data: String) {
        let Some(run) = self.t.runs.get(&id) else { return };
        let Some(prefix) = &run.def.lifecycle_events else { return };
        let (name, scope) = (format!("{prefix}.{what}"), run.row.key.clone());
        let (at, data) = (self.now, Bytes::from(data));
        self.publish(EventRow { name, scope, at, run: Some(id), data, metadata: None }, None);
    }
}

/// Whether a trigger's pattern fits a name. `*` stands for any text.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        // The earliest place leaves the most for the parts that follow.
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// A JSON string literal of at most `chars_max` characters of `text`.
fn json_string(text: &str, chars_max: usize) -> String {
    let mut literal = "\"".to_string();
    for c in text.chars().take(chars_max) {
        match c {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                // Writing into a string cannot fail.
                let _ = write!(literal, "\\u{:04x}", c as u32);
            }
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}
