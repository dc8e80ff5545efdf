//! Counters and gauges in the Prometheus text format. Nothing here names a tenant.

use std::sync::atomic::{AtomicU64, Ordering};

use mainspring_client::{DEAD_LETTERS, TenantId};
use mainspring_core::reply::Counts as Live;
use mainspring_core::{Command, Reply};
use mainspring_flows::webhooks::Counts;

use crate::state::{AppState, Beside, Metric};

/// All metrics, of one state or of those of several partitions together.
pub async fn text(states: &[AppState]) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| text.push_str(&line(name, kind, help, value));
    let (mut batches, mut commands, mut bytes, mut rows, mut swept, mut behind, mut broken) = (0, 0, 0, 0, 0, 0, 0);
    for (stats, unapplied) in states.iter().flat_map(|state| state.engine().stats()) {
        batches += stats.batches();
        commands += stats.commands();
        bytes += stats.bytes();
        rows += stats.rows_applied();
        swept += stats.runs_swept();
        behind += unapplied as u64;
        broken += u64::from(stats.tables_error().is_some());
    }
    let accepting = states.iter().all(|state| state.engine().health() == mainspring_engine::Health::Accepting);
    let sum = |of: fn(&AppState) -> &AtomicU64| states.iter().map(|state| of(state).load(Ordering::Relaxed)).sum();
    metric("accepting", "gauge", "1 while work is accepted.", u64::from(accepting));
    metric("http_requests_total", "counter", "Requests to the pages.", sum(AppState::requests));
    metric("messages_accepted_total", "counter", "Messages accepted by this process.", sum(AppState::accepted));
    metric("log_batches_total", "counter", "Batches made durable.", batches);
    metric("log_commands_total", "counter", "Commands decided in durable batches.", commands);
    metric("log_bytes_total", "counter", "Bytes made durable.", bytes);
    metric("tables_rows_total", "counter", "Rows written to the tables, after folding.", rows);
    metric("tables_behind_bytes", "gauge", "Durable bytes not in the tables yet.", behind);
    metric("tables_broken", "gauge", "Partitions whose tables can't be written at the moment.", broken);
    metric("runs_swept_total", "counter", "Finished runs removed by retention.", swept);
    let counts = live_counts(states).await;
    metric("runs_live", "gauge", "Runs that have not ended.", counts.runs_live);
    metric("runs_queued", "gauge", "Runs waiting behind a key.", counts.runs_queued);
    metric("runs_parked", "gauge", "Runs waiting for a person.", counts.runs_parked);
    metric("tasks_queued", "gauge", "Tasks waiting for a worker.", counts.tasks_queued);
    metric("tasks_running", "gauge", "Tasks with a worker.", counts.tasks_running);
    metric("tasks_suspended", "gauge", "Durable tasks waiting outside memory.", counts.tasks_suspended);
    metric("messages_unread", "gauge", "Messages no run has received yet.", counts.messages_unread);
    metric("workers", "gauge", "Connected workers.", counts.workers);
    let webhooks: Vec<_> = states.iter().filter_map(AppState::any_webhooks).collect();
    if !webhooks.is_empty() {
        let sum = |of: fn(&Counts) -> &AtomicU64| {
            webhooks.iter().map(|one| of(one.counts()).load(Ordering::Relaxed)).sum::<u64>()
        };
        let requests = webhooks.iter().map(|one| one.requests() as u64).sum();
        metric("webhooks_delivered_total", "counter", "Deliveries that were taken.", sum(|counts| &counts.delivered));
        metric(
            "webhooks_retried_total",
            "counter",
            "Tries that failed and are made again.",
            sum(|counts| &counts.retrying),
        );
        metric("webhooks_dead_total", "counter", "Deliveries that were given up.", sum(|counts| &counts.dead));
        metric("webhooks_requests", "gauge", "Requests to endpoints under way.", requests);
    }
    let streams = streams(states).await;
    metric("stream_entries_total", "counter", "Entries published to streams.", streams.published);
    metric("stream_lag", "gauge", "Entries that groups have not acknowledged.", streams.lag);
    metric(
        "stream_lag_max",
        "gauge",
        "Entries the group that is furthest behind has not acknowledged.",
        streams.lag_max,
    );
    metric("stream_pending", "gauge", "Entries that are with consumers.", streams.pending);
    metric("stream_consumers", "gauge", "Consumers of streams.", streams.consumers);
    metric("stream_dead_letters_total", "counter", "Entries that were given up.", streams.dead_letters);
    for one in beside(states) {
        metric(one.name, one.kind, one.help, one.value);
    }
    text
}

/// What stands beside the stores, each number once: counters and sizes added up, whether all is well by who is worst off.
fn beside(states: &[AppState]) -> Vec<Metric> {
    let mut all: Vec<Metric> = Vec::new();
    for one in states.iter().filter_map(AppState::beside).flat_map(Beside::metrics) {
        match all.iter_mut().find(|known| known.name == one.name) {
            Some(known) if one.help.starts_with("1 while") => known.value = known.value.min(one.value),
            Some(known) => known.value += one.value,
            None => all.push(one),
        }
    }
    all
}

/// One metric in that format.
pub fn line(name: &str, kind: &str, help: &str, value: u64) -> String {
    format!("# HELP mainspring_{name} {help}\n# TYPE mainspring_{name} {kind}\nmainspring_{name} {value}\n")
}

/// How streams stand, over all tenants.
#[derive(Debug, Default)]
struct StreamCounts {
    published: u64,
    lag: u64,
    lag_max: u64,
    pending: u64,
    consumers: u64,
    dead_letters: u64,
}

async fn streams(states: &[AppState]) -> StreamCounts {
    let mut sum = StreamCounts::default();
    for (state, tenant) in tenants(states).await {
        for view in state.client(tenant).streams().list().await.unwrap_or_default() {
            sum.published += view.published;
            if view.name.starts_with(DEAD_LETTERS) {
                sum.dead_letters += view.published;
            }
            for group in view.groups {
                sum.lag += group.waiting;
                sum.lag_max = sum.lag_max.max(group.waiting);
                sum.pending += group.in_hand;
                sum.consumers += group.consumers.len() as u64;
            }
        }
    }
    sum
}

/// What is live, over all tenants.
async fn live_counts(states: &[AppState]) -> Live {
    let mut sum = Live::default();
    for (state, tenant) in tenants(states).await {
        if let Ok((Reply::Counts(counts), _)) = state.engine().submit(tenant, Command::Count).await {
            sum = sum + counts;
        }
    }
    sum
}

async fn tenants(states: &[AppState]) -> Vec<(&AppState, TenantId)> {
    let mut all = Vec::new();
    for state in states {
        let tenants = state.engine().tenants().await.unwrap_or_default();
        all.extend(tenants.into_iter().map(|(tenant, _)| (state, tenant)));
    }
    all
}
