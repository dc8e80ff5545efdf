//! Cancelling and replaying what a list of ids or a filter names.

use futures_util::future::join_all;
use mainspring_core::row::RunRow;
use mainspring_core::{Command, Refusal, RunId, TenantId};
use mainspring_engine::{EngineError, RunFilter};
use serde_json::{Map, Value};
use tonic::Status;

use crate::definition::milliseconds;
use crate::details::{self, Run};
use crate::names::{self, Named};
use crate::server::{Hatchet, unread};
use crate::status::{self, bad_field};
use crate::wire::v1::{RunStatus, TasksFilter};

/// Runs one request may cancel.
pub(crate) const CANCEL_MAX: usize = 20_000;
/// Runs one request may replay.
const REPLAY_MAX: usize = 1_000;
/// Runs looked at for one listing, so that a rare filter over a long history stays bounded.
const EXAMINED_MAX: usize = 50_000;
/// Commands on their way at once.
const AT_ONCE: usize = 256;
/// Runs read at once.
const PAGE: usize = 500;

/// Which runs a listing or a request is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Filter {
    /// In one of these states; all if empty.
    pub statuses: Vec<RunStatus>,
    /// Asked for at or after, in milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Asked for before.
    pub until: Option<u64>,
    /// Of one of these workflows, by id; all if empty.
    pub workflow_ids: Vec<String>,
    /// With all of these in its metadata.
    pub metadata: Vec<(String, String)>,
    /// Children of this task.
    pub parent: Option<Named>,
    /// Started by this event, by number.
    pub event: Option<u64>,
    /// Started by an event, whichever.
    pub by_event: bool,
    /// With a task that was last given to this worker.
    pub worker: Option<mainspring_core::WorkerId>,
}

impl Filter {
    fn fits(&self, tenant: TenantId, row: &RunRow) -> bool {
        let since = self.since.is_none_or(|since| row.created_at >= since);
        let until = self.until.is_none_or(|until| row.created_at < until);
        let workflow =
            self.workflow_ids.is_empty() || self.workflow_ids.contains(&names::workflow_id(tenant, &row.workflow));
        let parent =
            self.parent.is_none_or(|parent| row.child_of.as_ref().is_some_and(|child| child.task == parent.task()));
        let event = self.event.is_none_or(|event| row.event.as_ref().is_some_and(|started| started.seq == event));
        let by_event = !self.by_event || row.event.is_some();
        since && until && workflow && parent && event && by_event && self.fits_metadata(row)
    }

    fn fits_metadata(&self, row: &RunRow) -> bool {
        if self.metadata.is_empty() {
            return true;
        }
        let shown = details::metadata(row.metadata.as_ref(), row.event.as_ref());
        has_metadata(&self.metadata, &shown.unwrap_or_default())
    }

    /// Whether a run's state may fit; what its tasks say is looked at later.
    fn may_fit_status(&self, row: &RunRow) -> bool {
        // A run that goes on may count as failed already, or as queued.
        self.statuses.is_empty() || !row.state.ended() || self.statuses.contains(&details::rough_status(row.state))
    }
}

/// Whether metadata, which is a JSON object, has all of these.
pub(crate) fn has_metadata(wanted: &[(String, String)], metadata: &[u8]) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let fields: Map<String, Value> = serde_json::from_slice(metadata).unwrap_or_default();
    wanted.iter().all(|(key, wanted)| match fields.get(key) {
        Some(Value::String(found)) => found == wanted,
        Some(found) => {
            let found = found.to_string();
            found == *wanted
        }
        None => false,
    })
}

/// Reads `key:value` as filters have it.
pub(crate) fn metadata_pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once(':')?;
    Some((key.to_owned(), value.to_owned()))
}

/// Runs that fit a filter, newest first, those after the first `skip`, at most `limit`. May lag behind what is durable
/// by what the tables do.
///
/// # Errors
/// A status if they can't be read.
pub(crate) async fn list(
    hatchet: &Hatchet,
    tenant: TenantId,
    filter: &Filter,
    skip: usize,
    limit: usize,
) -> Result<Vec<Run>, Status> {
    let (mut found, mut skipped) = (Vec::new(), 0);
    scan(hatchet, tenant, filter, |run| {
        if skipped < skip {
            skipped += 1;
        } else if found.len() < limit {
            found.push(run);
        }
        found.len() < limit
    })
    .await?;
    Ok(found)
}

/// Shows the runs that fit a filter to `each`, newest first, while it wants more. May lag. Answers whether that is all:
/// `false` when older ones were not looked at.
///
/// # Errors
/// A status if they can't be read.
pub(crate) async fn scan(
    hatchet: &Hatchet,
    tenant: TenantId,
    filter: &Filter,
    mut each: impl FnMut(Run) -> bool,
) -> Result<bool, Status> {
    let engine = hatchet.engine();
    // Whoever lists expects to find what was answered before.
    let position = engine.durable_position(tenant);
    engine.wait_applied(tenant, position, std::time::Duration::from_millis(250)).await;
    let (mut examined, mut before) = (0, None::<RunId>);
    while examined < EXAMINED_MAX {
        let page = engine.read(tenant, move |reader| reader.runs(tenant, &RunFilter::default(), before, PAGE)).await;
        let page = page.map_err(unread)?;
        examined += page.rows.len();
        for (id, row) in page.rows {
            if filter.since.is_some_and(|since| row.created_at < since) {
                // Ids are in the order of time: nothing older follows that is wanted.
                return Ok(true);
            }
            if !filter.fits(tenant, &row) || !filter.may_fit_status(&row) {
                continue;
            }
            let Some(run) = Run::read(hatchet, tenant, id).await.map_err(unread)? else { continue };
            let status = filter.statuses.is_empty() || filter.statuses.contains(&run.status());
            let worker = filter.worker.is_none_or(|worker| run.tasks.iter().any(|task| task.worker == Some(worker)));
            if status && worker && !each(run) {
                return Ok(true);
            }
        }
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    Ok(before.is_none())
}

/// What a request is about: ids, or whatever fits a filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Selection {
    /// These.
    Ids(Vec<Named>),
    /// Those that fit.
    Fitting(Filter),
}

impl Selection {
    /// Reads ids or a filter.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if both are given, or an id is none.
    pub(crate) fn of(ids: Vec<String>, filter: Option<TasksFilter>) -> Result<Selection, Status> {
        match filter {
            Some(_) if !ids.is_empty() => {
                Err(bad_field("filter", "is given along with external_ids: give one of them"))
            }
            None => {
                let named = ids.iter().enumerate().map(|(index, id)| {
                    Named::parse(id)
                        .ok_or_else(|| bad_field(&format!("external_ids[{index}]"), &format!("{id:?} is no id")))
                });
                Ok(Selection::Ids(named.collect::<Result<_, Status>>()?))
            }
            Some(filter) => Ok(Selection::Fitting(Filter {
                statuses: statuses_of(&filter.statuses)?,
                since: filter.since.as_ref().map(milliseconds),
                until: filter.until.as_ref().map(milliseconds),
                workflow_ids: filter.workflow_ids,
                metadata: filter.additional_metadata.iter().filter_map(|pair| metadata_pair(pair)).collect(),
                ..Filter::default()
            })),
        }
    }

    async fn named(self, hatchet: &Hatchet, tenant: TenantId, max: usize) -> Result<Vec<Named>, Status> {
        match self {
            Selection::Ids(ids) if ids.len() > max => {
                Err(bad_field("external_ids", &format!("has {} entries, at most {max} are allowed", ids.len())))
            }
            Selection::Ids(ids) => Ok(ids),
            Selection::Fitting(filter) => {
                let mut found = Vec::new();
                let whole = scan(hatchet, tenant, &filter, |run| {
                    found.push(Named::Run(run.id));
                    found.len() < max
                });
                if !whole.await? {
                    let text = format!(
                        "would have to look at more than the latest {EXAMINED_MAX} runs: narrow it by since and until"
                    );
                    return Err(bad_field("filter", &text));
                }
                Ok(found)
            }
        }
    }
}

/// Statuses by their words.
///
/// # Errors
/// `INVALID_ARGUMENT` for a word that is none.
pub(crate) fn statuses_of(words: &[String]) -> Result<Vec<RunStatus>, Status> {
    let status = |word: &String| match word.as_str() {
        "QUEUED" => Ok(RunStatus::Queued),
        "RUNNING" => Ok(RunStatus::Running),
        "COMPLETED" => Ok(RunStatus::Completed),
        "FAILED" => Ok(RunStatus::Failed),
        "CANCELLED" => Ok(RunStatus::Cancelled),
        other => Err(bad_field(
            "statuses",
            &format!("has {other:?}: QUEUED, RUNNING, COMPLETED, FAILED and CANCELLED are known"),
        )),
    };
    words.iter().map(status).collect()
}

/// Cancels; answers the ids of what was there to be cancelled. What has ended is left as it is.
///
/// # Errors
/// A status for the first that could not be decided; what came before it is cancelled.
pub(crate) async fn cancel(hatchet: &Hatchet, tenant: TenantId, selection: Selection) -> Result<Vec<String>, Status> {
    let mut cancelled = Vec::new();
    for some in selection.named(hatchet, tenant, CANCEL_MAX).await?.chunks(AT_ONCE) {
        let asked = some.iter().map(|named| {
            let reason = "cancelled by request".to_owned();
            let command = match *named {
                Named::Run(run) => Command::CancelRun { run, reason },
                Named::Task(task) => Command::CancelTask { task, reason },
            };
            hatchet.engine().submit(tenant, command)
        });
        for (named, answer) in some.iter().zip(join_all(asked).await) {
            match answer {
                Ok(_) => cancelled.push(shown(*named)),
                // Of a list, what is not there does not keep the rest from being cancelled.
                Err(EngineError::Refused(Refusal::NoRun { .. } | Refusal::NoTask { .. })) => {}
                Err(error) => return Err(status::failed(&error)),
            }
        }
    }
    Ok(cancelled)
}

/// Replays; answers the ids of what runs again. Tasks of one run that are named together run again together.
///
/// # Errors
/// A status for the first that could not be decided; what came before it runs again.
pub(crate) async fn replay(hatchet: &Hatchet, tenant: TenantId, selection: Selection) -> Result<Vec<String>, Status> {
    let mut runs: Vec<(RunId, Option<Vec<u16>>, Vec<Named>)> = Vec::new();
    for named in selection.named(hatchet, tenant, REPLAY_MAX).await? {
        let index = match named {
            Named::Run(_) => None,
            Named::Task(task) => Some(task.index),
        };
        match runs.iter_mut().find(|(run, ..)| *run == named.run()) {
            Some((_, tasks, names)) => {
                match (tasks.as_mut(), index) {
                    (Some(tasks), Some(index)) => tasks.push(index),
                    // The whole run has its parts in it.
                    _ => *tasks = None,
                }
                names.push(named);
            }
            None => runs.push((named.run(), index.map(|index| vec![index]), vec![named])),
        }
    }
    let mut replayed = Vec::new();
    let alone = runs.len() == 1;
    for (run, tasks, names) in runs {
        match hatchet.engine().submit(tenant, Command::ReplayRun { run, tasks }).await {
            Ok(_) => replayed.extend(names.into_iter().map(shown)),
            Err(EngineError::Refused(Refusal::NoRun { .. } | Refusal::NotEnded { .. })) => {}
            // One of many does not keep the others; whoever asks for one wants to know why not.
            Err(EngineError::Refused(Refusal::NotReplayable { .. })) if !alone => {}
            Err(error) => return Err(status::failed(&error)),
        }
    }
    Ok(replayed)
}

fn shown(named: Named) -> String {
    match named {
        Named::Run(run) => run.to_string(),
        Named::Task(task) => names::task_id(task, usize::from(task.index) + 2),
    }
}
