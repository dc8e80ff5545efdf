//! Counters and gauges in the Prometheus text format. Nothing here names a tenant.

use std::fmt::Write;
use std::sync::atomic::Ordering;

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
    text
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
