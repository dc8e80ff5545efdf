//! Rate limits.

use axum::Json;
use mainspring_core::Table;
use mainspring_core::row::{self, RateRow, key};
use mainspring_engine::EngineError;

use super::models::{List, Pagination, RateLimit};
use super::problem::Problem;
use super::time::Time;
use super::{Answer, Call};

/// The limits there are, by key unless asked otherwise.
pub(super) async fn list(call: Call) -> Answer<List<RateLimit>> {
    let (offset, limit) = call.page()?;
    let search = call.parameter("search").unwrap_or("").to_lowercase();
    let tenant = call.tenant;
    let rows = call.hatchet.engine().read(tenant, move |reader| reader.prefixed(Table::Rate, &tenant.to_bytes()));
    let now = call.hatchet.engine().world().now_ms();
    let mut limits = Vec::new();
    for (key, body) in rows.await? {
        let name = key::rate_of(&key).unwrap_or_default();
        if !name.to_lowercase().contains(&search) {
            continue;
        }
        let row: RateRow = row::decode(&body).map_err(|bad| EngineError::Unreadable { cause: bad.to_string() })?;
        limits.push(RateLimit {
            key: name.to_owned(),
            tenant_id: tenant.to_string(),
            limit_value: row.limit,
            value: row.left_at(now),
            window: window(row.window_ms),
            last_refill: Time(refilled_at(&row, now)),
        });
    }
    match call.parameter("orderByField") {
        None | Some("key") => {}
        Some("value") => limits.sort_by_key(|limit| limit.value),
        Some("limitValue") => limits.sort_by_key(|limit| limit.limit_value),
        Some(other) => {
            return Err(Problem::field("orderByField", &format!("is {other:?}: use key, value or limitValue")));
        }
    }
    match call.parameter("orderByDirection") {
        None | Some("asc" | "ASC") => {}
        Some("desc" | "DESC") => limits.reverse(),
        Some(other) => return Err(Problem::field("orderByDirection", &format!("is {other:?}: use asc or desc"))),
    }
    let pagination = Pagination::of_total(offset, limit, limits.len());
    Ok(Json(List { pagination, rows: limits.into_iter().skip(offset).take(limit).collect() }))
}

/// When it was last full: windows follow each other while nobody takes anything.
fn refilled_at(row: &RateRow, now: u64) -> u64 {
    let windows = now.saturating_sub(row.since).checked_div(row.window_ms).unwrap_or(0);
    row.since.saturating_add(windows.saturating_mul(row.window_ms))
}

/// The word by which a window is put there, or its length.
fn window(ms: u64) -> String {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    let word = match ms {
        1_000 => "SECOND",
        60_000 => "MINUTE",
        3_600_000 => "HOUR",
        DAY_MS => "DAY",
        _ if ms == 7 * DAY_MS => "WEEK",
        _ if ms == 30 * DAY_MS => "MONTH",
        _ if ms == 365 * DAY_MS => "YEAR",
        _ => return format!("{ms}ms"),
    };
    word.to_owned()
}
