//! Events, and the runs they started.

use std::collections::HashMap;

use axum::Json;
use mainspring_core::row::EventRow;

use super::models::{Event, List, Meta, Pagination, RunSummary, TriggeredRun};
use super::problem::Problem;
use super::time::Time;
use super::{Answer, Call, object};
use crate::control::{self, Filter, metadata_pair, statuses_of};
use crate::details::Run;
use crate::names;
use crate::wire::v1::RunStatus;

/// Events looked at for one listing: the latest.
const EXAMINED_MAX: usize = 5_000;
/// Scopes looked at for one listing.
const SCOPES_MAX: usize = 2_000;
/// Runs of one event that are listed. All are counted.
const TRIGGERED_MAX: usize = 1_000;

/// What came of an event.
#[derive(Default)]
struct Outcome {
    summary: RunSummary,
    workflow_ids: Vec<String>,
    statuses: Vec<RunStatus>,
    runs: Vec<TriggeredRun>,
}

/// Events, newest first.
pub(super) async fn list(call: Call) -> Answer<List<Event>> {
    let (offset, limit) = call.page()?;
    let wanted = Wanted::of(&call)?;
    call.settle().await;
    let tenant = call.tenant;
    let read =
        call.hatchet.engine().read(tenant, move |reader| reader.latest_of_all_scopes(tenant, EXAMINED_MAX, SCOPES_MAX));
    let (mut events, _) = read.await?;
    events.retain(|(seq, event)| wanted.fits(*seq, event));
    let outcomes = outcomes(&call, &events).await?;
    events.retain(|(seq, _)| wanted.fits_outcome(outcomes.get(seq)));
    let pagination = Pagination::of_total(offset, limit, events.len());
    let page = events.iter().skip(offset).take(limit);
    let rows = page.map(|(seq, event)| shown(&call, *seq, event, outcomes.get(seq))).collect();
    Ok(Json(List { pagination, rows }))
}

/// One of them.
pub(super) async fn show(call: Call) -> Answer<Event> {
    let id = call.part("v1-event");
    let seq = names::event_seq(id).ok_or_else(|| Problem::not_found("event", id))?;
    call.settle().await;
    let tenant = call.tenant;
    let found = call.hatchet.engine().read(tenant, move |reader| reader.event(tenant, seq, SCOPES_MAX)).await?;
    // The same number at another time is another event.
    let found = found.filter(|event| names::event_id(event.at, seq) == id);
    let event = [(seq, found.ok_or_else(|| Problem::not_found("event", id))?)];
    let outcomes = outcomes(&call, &event).await?;
    let [(_, event)] = event;
    Ok(Json(shown(&call, seq, &event, outcomes.get(&seq))))
}

/// What the parameters ask for.
struct Wanted {
    keys: Vec<String>,
    ids: Vec<String>,
    scopes: Vec<String>,
    since: Option<u64>,
    until: Option<u64>,
    metadata: Vec<(String, String)>,
    workflow_ids: Vec<String>,
    statuses: Vec<RunStatus>,
}

impl Wanted {
    fn of(call: &Call) -> Result<Wanted, Problem> {
        let texts = |name: &'static str| call.parameters(name).map(str::to_owned).collect::<Vec<String>>();
        let pair = |text: &String| {
            let bad = || Problem::field("additionalMetadata", &format!("{text:?} is no pair: write key:value"));
            metadata_pair(text).ok_or_else(bad)
        };
        Ok(Wanted {
            keys: texts("keys"),
            ids: texts("eventIds"),
            scopes: texts("scopes"),
            since: call.time("since")?,
            until: call.time("until")?,
            metadata: texts("additionalMetadata").iter().map(pair).collect::<Result<_, Problem>>()?,
            workflow_ids: texts("workflowIds"),
            statuses: statuses_of(&texts("workflowRunStatuses"))?,
        })
    }

    fn fits(&self, seq: u64, event: &EventRow) -> bool {
        let scope = event.scope.as_deref().unwrap_or("");
        (self.keys.is_empty() || self.keys.contains(&event.name))
            && (self.ids.is_empty() || self.ids.contains(&names::event_id(event.at, seq)))
            && (self.scopes.is_empty() || self.scopes.iter().any(|wanted| wanted == scope))
            && self.since.is_none_or(|since| event.at >= since)
            && self.until.is_none_or(|until| event.at < until)
            && control::has_metadata(&self.metadata, event.metadata.as_deref().unwrap_or_default())
    }

    fn fits_outcome(&self, outcome: Option<&Outcome>) -> bool {
        let workflow = |outcome: &Outcome| outcome.workflow_ids.iter().any(|id| self.workflow_ids.contains(id));
        let status = |outcome: &Outcome| outcome.statuses.iter().any(|status| self.statuses.contains(status));
        (self.workflow_ids.is_empty() || outcome.is_some_and(workflow))
            && (self.statuses.is_empty() || outcome.is_some_and(status))
    }
}

/// The runs that events started, which are younger than they.
async fn outcomes(call: &Call, events: &[(u64, EventRow)]) -> Result<HashMap<u64, Outcome>, Problem> {
    let mut outcomes: HashMap<u64, Outcome> = events.iter().map(|(seq, _)| (*seq, Outcome::default())).collect();
    let Some(since) = events.iter().map(|(_, event)| event.at).min() else { return Ok(outcomes) };
    let filter = Filter { since: Some(since), by_event: true, ..Filter::default() };
    let tenant = call.tenant;
    control::scan(&call.hatchet, tenant, &filter, |run| {
        let started = run.row.event.as_ref().map(|event| event.seq);
        if let Some(outcome) = started.and_then(|seq| outcomes.get_mut(&seq)) {
            outcome.add(&run, names::workflow_id(tenant, &run.row.workflow));
        }
        true
    })
    .await?;
    Ok(outcomes)
}

impl Outcome {
    fn add(&mut self, run: &Run, workflow_id: String) {
        let status = run.status();
        match status {
            RunStatus::Queued => self.summary.queued += 1,
            RunStatus::Running | RunStatus::Evicted => self.summary.running += 1,
            RunStatus::Completed => self.summary.succeeded += 1,
            RunStatus::Failed => self.summary.failed += 1,
            RunStatus::Cancelled => self.summary.cancelled += 1,
        }
        if !self.statuses.contains(&status) {
            self.statuses.push(status);
        }
        if !self.workflow_ids.contains(&workflow_id) {
            self.workflow_ids.push(workflow_id);
        }
        if self.runs.len() < TRIGGERED_MAX {
            self.runs.push(TriggeredRun { workflow_run_id: run.id.to_string() });
        }
    }
}

fn shown(call: &Call, seq: u64, event: &EventRow, outcome: Option<&Outcome>) -> Event {
    let at = Time(event.at);
    Event {
        metadata: Meta { id: names::event_id(event.at, seq), created_at: at, updated_at: at },
        key: event.name.clone(),
        tenant_id: call.tenant.to_string(),
        workflow_run_summary: outcome.map(|outcome| outcome.summary).unwrap_or_default(),
        additional_metadata: object(event.metadata.as_deref().unwrap_or_default()),
        payload: object(&event.data),
        scope: event.scope.clone(),
        seen_at: at,
        triggered_runs: outcome.map(|outcome| outcome.runs.clone()).unwrap_or_default(),
    }
}
