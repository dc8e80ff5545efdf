//! Counters and gauges in the Prometheus text format. Nothing here names a tenant.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use mainspring_client::DEAD_LETTERS;
use mainspring_core::reply::Counts;
use mainspring_core::{Command, Reply};

use crate::state::AppState;

/// All metrics.
pub async fn text(state: &AppState) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "# HELP mainspring_{name} {help}\n# TYPE mainspring_{name} {kind}\nmainspring_{name} {value}\n"
        );
    };
    let (mut batches, mut commands, mut bytes, mut rows, mut swept, mut behind, mut broken) = (0, 0, 0, 0, 0, 0, 0);
    for (stats, unapplied) in state.engine().stats() {
        batches += stats.batches();
        commands += stats.commands();
        bytes += stats.bytes();
        rows += stats.rows_applied();
        swept += stats.runs_swept();
        behind += unapplied as u64;
        broken += u64::from(stats.tables_error().is_some());
    }
    let accepting = state.engine().health() == mainspring_engine::Health::Accepting;
    metric("accepting", "gauge", "1 while work is accepted.", u64::from(accepting));
    metric("http_requests_total", "counter", "Requests to the pages.", state.requests().load(Ordering::Relaxed));
    metric(
        "messages_accepted_total",
        "counter",
        "Messages accepted by this process.",
        state.accepted().load(Ordering::Relaxed),
    );
    metric("log_batches_total", "counter", "Batches made durable.", batches);
    metric("log_commands_total", "counter", "Commands decided in durable batches.", commands);
    metric("log_bytes_total", "counter", "Bytes made durable.", bytes);
    metric("tables_rows_total", "counter", "Rows written to the tables, after folding.", rows);
    metric("tables_behind_bytes", "gauge", "Durable bytes not in the tables yet.", behind);
    metric("tables_broken", "gauge", "Partitions whose tables can't be written at the moment.", broken);
    metric("runs_swept_total", "counter", "Finished runs removed by retention.", swept);
    let counts = live_counts(state).await;
    metric("runs_live", "gauge", "Runs that have not ended.", counts.runs_live);
    metric("runs_queued", "gauge", "Runs waiting behind a key.", counts.runs_queued);
    metric("runs_parked", "gauge", "Runs waiting for a person.", counts.runs_parked);
    metric("tasks_queued", "gauge", "Tasks waiting for a worker.", counts.tasks_queued);
    metric("tasks_running", "gauge", "Tasks with a worker.", counts.tasks_running);
    metric("tasks_suspended", "gauge", "Durable tasks waiting outside memory.", counts.tasks_suspended);
    metric("messages_unread", "gauge", "Messages no run has received yet.", counts.messages_unread);
    metric("workers", "gauge", "Connected workers.", counts.workers);
    if let Some(webhooks) = state.any_webhooks() {
        let (counts, requests) = (webhooks.counts(), webhooks.requests() as u64);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        metric("webhooks_delivered_total", "counter", "Deliveries that were taken.", read(&counts.delivered));
        metric("webhooks_retried_total", "counter", "Tries that failed and are made again.", read(&counts.retrying));
        metric("webhooks_dead_total", "counter", "Deliveries that were given up.", read(&counts.dead));
        metric("webhooks_requests", "gauge", "Requests to endpoints under way.", requests);
    }
    let streams = streams(state).await;
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
    for one in state.beside().map(crate::state::Beside::metrics).unwrap_or_default() {
        metric(one.name, one.kind, one.help, one.value);
    }
    text
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

async fn streams(state: &AppState) -> StreamCounts {
    let mut sum = StreamCounts::default();
    for (tenant, _) in state.engine().tenants().await.unwrap_or_default() {
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
async fn live_counts(state: &AppState) -> Counts {
    let mut sum = Counts::default();
    for (tenant, _) in state.engine().tenants().await.unwrap_or_default() {
        if let Ok((Reply::Counts(counts), _)) = state.engine().submit(tenant, Command::Count).await {
            sum = sum + counts;
        }
    }
    sum
}
