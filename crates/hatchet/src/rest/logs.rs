//! What tasks wrote down.

use axum::Json;
use mainspring_core::row::LogRow;

use super::models::{List, LogLine, Pagination};
use super::problem::Problem;
use super::shown::display_name;
use super::time::Time;
use super::{Answer, Call, PAGE_MAX, object};

/// The lines of a task's log, oldest first unless asked otherwise.
pub(super) async fn list(call: Call) -> Answer<List<LogLine>> {
    let (named, run) = call.run("task", "task").await?;
    let number = |text: &str| text.parse::<usize>().ok();
    let offset = call.parsed("offset", "number", number)?.unwrap_or(0);
    let limit = call.parsed("limit", "number", number)?.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let (since, until) = (call.time("since")?, call.time("until")?);
    let attempt = call.parsed("attempt", "number", |text| text.parse::<u32>().ok())?;
    let search = call.parameter("search").map(str::to_lowercase);
    let levels: Vec<&str> = call.parameters("levels").collect();
    let newest_first = match call.parameter("order_by_direction") {
        None | Some("ASC" | "asc") => false,
        Some("DESC" | "desc") => true,
        Some(other) => return Err(Problem::field("order_by_direction", &format!("is {other:?}: use ASC or DESC"))),
    };
    let (tenant, task) = (call.tenant, named.task());
    let mut lines: Vec<LogRow> = call.hatchet.engine().read(tenant, move |reader| reader.log(tenant, task)).await?;
    lines.retain(|line| {
        since.is_none_or(|since| line.at >= since)
            && until.is_none_or(|until| line.at < until)
            && attempt.is_none_or(|attempt| line.attempt == attempt)
            && (levels.is_empty() || levels.contains(&level(&line.level)))
            && search.as_ref().is_none_or(|search| line.message.to_lowercase().contains(search))
    });
    // Each line is told of by a call of its own: they may come in another order than they were written in.
    lines.sort_by_key(|line| line.at);
    if newest_first {
        lines.reverse();
    }
    let pagination = Pagination::of_total(offset, limit, lines.len());
    let name = display_name(&run, usize::from(task.index));
    let id = run.task_id(usize::from(task.index));
    let rows = lines.into_iter().skip(offset).take(limit).map(|line| shown(line, &id, &name));
    Ok(Json(List { pagination, rows: rows.collect() }))
}

fn shown(line: LogRow, id: &str, name: &str) -> LogLine {
    LogLine {
        created_at: Time(line.at),
        level: level(&line.level),
        message: line.message,
        metadata: object(&line.metadata),
        task_external_id: id.to_owned(),
        task_display_name: name.to_owned(),
        retry_count: line.attempt.saturating_sub(1),
        attempt: line.attempt,
    }
}

/// The wire knows four levels; others are shown as the next of them.
fn level(word: &str) -> &'static str {
    match word.to_ascii_uppercase().as_str() {
        "DEBUG" | "TRACE" => "DEBUG",
        "WARN" | "WARNING" => "WARN",
        "ERROR" | "CRITICAL" | "FATAL" => "ERROR",
        _ => "INFO",
    }
}
