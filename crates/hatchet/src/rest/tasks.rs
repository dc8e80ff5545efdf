//! Tasks: looked at, cancelled, replayed.

use axum::Json;
use serde::Deserialize;

use super::models::{List, Pagination, TaskEvent, TaskSummary, Touched};
use super::problem::Problem;
use super::shown::{Room, Shown};
use super::{Answer, Body, Call, history, time};
use crate::control::{self, CANCEL_MAX, Filter, Selection, metadata_pair, statuses_of};
use crate::names::Named;

/// One task. The id of a run stands for its only task, or its first.
pub(super) async fn show(call: Call) -> Answer<TaskSummary> {
    let (named, run) = call.run("task", "task").await?;
    let shown = Shown::of(&call.hatchet, call.tenant, run, &mut Room::new(true)).await?;
    Ok(Json(shown.task(usize::from(named.task().index))))
}

/// What happened to a task.
pub(super) async fn events(call: Call) -> Answer<List<TaskEvent>> {
    let (named, run) = call.run("task", "task").await?;
    let (offset, limit) = call.page()?;
    let events = history::of_one(&run, usize::from(named.task().index));
    let pagination = Pagination::of_total(offset, limit, events.len());
    Ok(Json(List { pagination, rows: events.into_iter().skip(offset).take(limit).collect() }))
}

/// `V1CancelTaskRequest` and `V1ReplayTaskRequest`. What is empty is not given.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chosen {
    #[serde(default)]
    external_ids: Option<Vec<String>>,
    #[serde(default)]
    filter: Option<Fitting>,
}

/// `V1TaskFilter`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fitting {
    since: String,
    #[serde(default)]
    until: Option<String>,
    #[serde(default)]
    statuses: Option<Vec<String>>,
    #[serde(default)]
    workflow_ids: Option<Vec<String>>,
    #[serde(default)]
    additional_metadata: Option<Vec<String>>,
}

/// Cancels.
pub(super) async fn cancel(call: Call, Body(chosen): Body<Chosen>) -> Answer<Touched> {
    let ids = control::cancel(&call.hatchet, call.tenant, chosen.selection()?).await?;
    Ok(Json(Touched { ids }))
}

/// Lets run again.
pub(super) async fn replay(call: Call, Body(chosen): Body<Chosen>) -> Answer<Touched> {
    let ids = control::replay(&call.hatchet, call.tenant, chosen.selection()?).await?;
    Ok(Json(Touched { ids }))
}

impl Chosen {
    fn selection(self) -> Result<Selection, Problem> {
        let ids = self.external_ids.unwrap_or_default();
        let filter = match self.filter {
            None if ids.is_empty() => {
                return Err(Problem::field("externalIds", "is not given, and no filter either: give one of them"));
            }
            Some(_) if !ids.is_empty() => {
                return Err(Problem::field("filter", "is given along with externalIds: give one of them"));
            }
            Some(filter) => filter,
            None => {
                let named = ids.iter().enumerate().map(|(index, id)| {
                    Named::parse(id).ok_or_else(|| Problem::not_an_id(&format!("externalIds[{index}]"), id))
                });
                return Ok(Selection::Ids(named.collect::<Result<_, Problem>>()?));
            }
        };
        let at = |field: &str, text: &str| {
            let bad = || Problem::field(field, &format!("{text:?} is no time: write it like 2026-11-24T18:28:20Z"));
            time::parse(text).ok_or_else(bad)
        };
        let pair = |text: &String| {
            let bad = || Problem::field("filter.additionalMetadata", &format!("{text:?} is no pair: write key:value"));
            metadata_pair(text).ok_or_else(bad)
        };
        let workflow_ids = filter.workflow_ids.unwrap_or_default();
        let metadata = filter.additional_metadata.unwrap_or_default();
        if workflow_ids.len().max(metadata.len()) > CANCEL_MAX {
            return Err(Problem::field("filter", &format!("has a list of more than {CANCEL_MAX} entries")));
        }
        Ok(Selection::Fitting(Filter {
            statuses: statuses_of(&filter.statuses.unwrap_or_default())?,
            since: Some(at("filter.since", &filter.since)?),
            until: filter.until.map(|until| at("filter.until", &until)).transpose()?,
            workflow_ids,
            metadata: metadata.iter().map(pair).collect::<Result<_, Problem>>()?,
            ..Filter::default()
        }))
    }
}
