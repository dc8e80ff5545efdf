//! The catalogue: which tools a tenant has, which of them its agents may use, and which one agent uses. Documents.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mainspring_client::{Client, ClientError, DocumentKey, Guard, PutDocument, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tool::{Finding, Provider, Tool};
use crate::calls::EffectPolicy;

/// The kind of tools' documents.
const TOOL: &str = "tool";
/// The kind of what agents have of them.
const ACTIVATION: &str = "tool_activation";
/// Versions of a tool that are kept.
const VERSIONS_KEPT: u32 = 20;
/// Tools of one tenant.
const TOOLS_MAX: usize = 1_000;
/// How long a tool that was read is not read again, in milliseconds.
const KNOWN_FOR_MS: u64 = 1_000;
/// Tools known at once, over all tenants.
const KNOWN_MAX: usize = 10_000;
/// Tools one call may need, all together.
const OTHERS_MAX: usize = 200;

/// What an agent has of a tool. Without one, what the tool itself says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Whether it may use it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// A stricter policy than the tool's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<EffectPolicy>,
    /// Whether a person is asked, where the tool says how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<bool>,
    /// How long a try may take, if less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

fn yes() -> bool {
    true
}

/// How a tool stands for an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// No such tool.
    Unknown,
    /// In the catalogue, and no agent of the tenant may use it.
    Unavailable,
    /// The tenant's agents may use it, this one may not.
    Disabled,
    /// It may use it, as it is here.
    Enabled(Box<Entry>),
}

/// A tool with its version.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Counted from 1, by one with each change.
    pub version: u64,
    /// The tool.
    #[serde(flatten)]
    pub tool: Tool,
}

/// Why a tool is not put into the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// What is wrong with it.
    #[error("{} thing(s) are wrong with the tool", .0.len())]
    Findings(Vec<Finding>),
    /// The engine.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Tools read lately, so that not every call reads them again. A change elsewhere is seen a second later. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KnownTools(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    read: HashMap<(TenantId, String), Read>,
    /// Changes made here: what was begun to be read before one of them may be what was there before it.
    changes: u64,
}

/// When a tool was read, and what was there.
type Read = (u64, Option<Entry>);

impl KnownTools {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a tool, or else how many changes there were so far.
    fn get(&self, tenant: TenantId, name: &str, now_ms: u64) -> Result<Option<Entry>, u64> {
        let known = self.lock();
        match known.read.get(&(tenant, name.to_owned())) {
            Some((read_at, entry)) if now_ms.saturating_sub(*read_at) < KNOWN_FOR_MS => Ok(entry.clone()),
            _ => Err(known.changes),
        }
    }

    /// Remembers what was read since there were so many changes, unless there were more meanwhile.
    fn put(&self, changes: u64, tenant: TenantId, name: &str, now_ms: u64, entry: Option<Entry>) {
        let mut known = self.lock();
        if known.changes != changes {
            return;
        }
        if known.read.len() >= KNOWN_MAX {
            known.read.clear();
        }
        known.read.insert((tenant, name.to_owned()), (now_ms, entry));
    }

    /// Forgets a tool that has changed. Answers how many changes there were by now.
    fn forget(&self, tenant: TenantId, name: &str) -> u64 {
        let mut known = self.lock();
        known.read.remove(&(tenant, name.to_owned()));
        known.changes += 1;
        known.changes
    }
}

/// A tenant's tools. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalogue {
    client: Client,
    known: KnownTools,
}

impl Catalogue {
    /// Of the client's tenant.
    pub fn new(client: Client, known: KnownTools) -> Self {
        Catalogue { client, known }
    }

    /// Puts a tool, or a new version of it. Durable when it returns. Answers the version, and what its author should know.
    ///
    /// # Errors
    /// [`CatalogueError::Findings`] lists everything that is wrong.
    pub async fn put(&self, name: &str, written: &Value) -> Result<(u64, Vec<Finding>), CatalogueError> {
        let bytes = written.to_string().len();
        if bytes > super::tool::TOOL_BYTES_MAX {
            let problem = format!("it has {bytes} bytes, at most {} are taken", super::tool::TOOL_BYTES_MAX);
            return Err(CatalogueError::Findings(vec![Finding::new("", problem)]));
        }
        let (tool, mut advice) = Tool::checked(name, written).map_err(CatalogueError::Findings)?;
        let known = self.tools().await?;
        let mut found = Vec::new();
        if known.len() >= TOOLS_MAX && !known.iter().any(|entry| entry.tool.name == name) {
            found.push(Finding::new("", format!("there are {TOOLS_MAX} tools already: remove one that nobody uses")));
        }
        let by_name: BTreeMap<&str, &Tool> =
            known.iter().map(|entry| (entry.tool.name.as_str(), &entry.tool)).collect();
        check_others(&tool, &by_name, &mut found, &mut advice);
        if !found.is_empty() {
            return Err(CatalogueError::Findings(found));
        }
        let told = json!({ "tool": name, "policy": tool.policy, "available": tool.available });
        let (version, _) = self.write(TOOL, name, &tool, None, VERSIONS_KEPT, "tool.defined", &told).await?;
        Ok((version, advice))
    }

    /// Takes a tool out of the catalogue. What is under way goes on. False if there was none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, name: &str) -> Result<bool, ClientError> {
        let Some(entry) = self.tool(name).await? else { return Ok(false) };
        let told = json!({ "tool": name });
        let (_, changes) = self.write(TOOL, name, &entry.tool, Some(0), VERSIONS_KEPT, "tool.removed", &told).await?;
        // It ends with the millisecond in which that was decided, by a clock that may be one ahead of this one.
        let now = self.client.engine().world().elapsed_ms();
        self.known.put(changes, self.client.tenant(), name, now, None);
        Ok(true)
    }

    /// A tool.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tool(&self, name: &str) -> Result<Option<Entry>, ClientError> {
        let (tenant, now) = (self.client.tenant(), self.client.engine().world().elapsed_ms());
        let changes = match self.known.get(tenant, name, now) {
            Ok(known) => return Ok(known),
            Err(changes) => changes,
        };
        let row = self.client.document(DocumentKey::new(TOOL, name)).await?;
        let entry = row.and_then(|row| {
            // What another release wrote and this one does not understand is not guessed at.
            Some(Entry { version: row.version, tool: serde_json::from_slice(&row.body).ok()? })
        });
        self.known.put(changes, tenant, name, now, entry.clone());
        Ok(entry)
    }

    /// All tools, by name. May lag.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tools(&self) -> Result<Vec<Entry>, ClientError> {
        let rows = self.client.documents(TOOL, "").await?;
        let read = |row: &mainspring_client::DocumentRow| serde_json::from_slice(&row.body).ok();
        Ok(rows.iter().filter_map(|(_, row)| Some(Entry { version: row.version, tool: read(row)? })).collect())
    }

    /// What an agent has of a tool.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn activation(&self, agent: &str, name: &str) -> Result<Option<Activation>, ClientError> {
        let row = self.client.document(activation_key(agent, name)).await?;
        Ok(row.and_then(|row| serde_json::from_slice(&row.body).ok()))
    }

    /// Changes what an agent has of a tool. Durable when it returns.
    ///
    /// # Errors
    /// [`CatalogueError::Findings`] if it would be less strict than the tool.
    pub async fn activate(&self, agent: &str, name: &str, activation: &Activation) -> Result<(), CatalogueError> {
        let Some(Entry { tool, .. }) = self.tool(name).await? else {
            let problem = format!("there is no tool {name:?}: put it into the catalogue first");
            return Err(CatalogueError::Findings(vec![Finding::new("", problem)]));
        };
        if activation.policy.is_some_and(|policy| severity(policy) < severity(tool.policy)) {
            let problem = "an agent's policy may be stricter than the tool's, not looser";
            return Err(CatalogueError::Findings(vec![Finding::new("/policy", problem)]));
        }
        if activation.confirmation == Some(true) && tool.confirmation.is_none() {
            let problem = "the tool does not say what is asked: give it a confirmation";
            return Err(CatalogueError::Findings(vec![Finding::new("/confirmation", problem)]));
        }
        let told = json!({ "tool": name, "agent": agent, "enabled": activation.enabled });
        let key = activation_key(agent, name);
        self.write(ACTIVATION, &key.name, activation, None, VERSIONS_KEPT, "tool.activation", &told).await?;
        Ok(())
    }

    /// How a tool stands for an agent; `None` for whoever acts for the tenant itself, who may use all that is available.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn standing(&self, agent: Option<&str>, name: &str) -> Result<Standing, ClientError> {
        let Some(mut entry) = self.tool(name).await? else { return Ok(Standing::Unknown) };
        if !entry.tool.available {
            return Ok(Standing::Unavailable);
        }
        let Some(agent) = agent else { return Ok(Standing::Enabled(Box::new(entry))) };
        Ok(match self.activation(agent, name).await? {
            Some(Activation { enabled: false, .. }) => Standing::Disabled,
            Some(activation) => {
                apply(&mut entry.tool, &activation);
                Standing::Enabled(Box::new(entry))
            }
            None => Standing::Enabled(Box::new(entry)),
        })
    }

    /// Every tool of the catalogue with how it stands for an agent. May lag.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tiers(&self, agent: &str) -> Result<Vec<(Entry, Standing)>, ClientError> {
        let prefix = activation_key(agent, "").name;
        let [tools, activations] =
            self.client.documents_of([(TOOL, String::new()), (ACTIVATION, prefix.clone())]).await?;
        let activations: BTreeMap<&str, Activation> = activations
            .iter()
            .filter_map(|(key, row)| Some((key.name.strip_prefix(&prefix)?, serde_json::from_slice(&row.body).ok()?)))
            .collect();
        let entries = tools
            .iter()
            .filter_map(|(_, row)| Some(Entry { version: row.version, tool: serde_json::from_slice(&row.body).ok()? }));
        Ok(entries
            .map(|entry| {
                let standing = match (entry.tool.available, activations.get(entry.tool.name.as_str())) {
                    (false, _) => Standing::Unavailable,
                    (true, Some(Activation { enabled: false, .. })) => Standing::Disabled,
                    (true, activation) => {
                        let mut tool = entry.tool.clone();
                        if let Some(activation) = activation {
                            apply(&mut tool, activation);
                        }
                        Standing::Enabled(Box::new(Entry { version: entry.version, tool }))
                    }
                };
                (entry, standing)
            })
            .collect())
    }

    /// The tools that a call of this one needs besides itself, as they are now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn others(&self, tool: &Tool) -> Result<BTreeMap<String, Tool>, ClientError> {
        let mut others: BTreeMap<String, Tool> = BTreeMap::new();
        let mut wanted: Vec<String> = tool.others().into_iter().map(str::to_owned).collect();
        while let Some(name) = wanted.pop() {
            if others.contains_key(&name) || others.len() >= OTHERS_MAX {
                continue;
            }
            if let Some(entry) = self.tool(&name).await? {
                wanted.extend(entry.tool.others().into_iter().map(str::to_owned));
                others.insert(name, entry.tool);
            }
        }
        Ok(others)
    }

    /// Answers the document's version, and how many changes there were by now.
    #[allow(clippy::too_many_arguments, reason = "a document has that many parts")]
    async fn write(
        &self,
        kind: &str,
        name: &str,
        value: &impl Serialize,
        ttl_ms: Option<u64>,
        history: u32,
        told: &str,
        data: &Value,
    ) -> Result<(u64, u64), ClientError> {
        let body = serde_json::to_vec(value).map(Bytes::from);
        let body = body.map_err(|error| ClientError::Json { what: "the tool", cause: error.to_string() })?;
        let put = PutDocument { key: DocumentKey::new(kind, name), expect: None, body, ttl_ms, history };
        let event = Some((told.to_owned(), None, Bytes::from(data.to_string())));
        let version = self.client.put_document(put, None, Guard::default(), event).await?;
        Ok((version, self.known.forget(self.client.tenant(), name)))
    }
}

fn activation_key(agent: &str, name: &str) -> DocumentKey {
    // With the length, so that no two of these can be spelt the same.
    DocumentKey::new(ACTIVATION, format!("{}:{agent}/{name}", agent.len()))
}

fn severity(policy: EffectPolicy) -> u8 {
    match policy {
        EffectPolicy::Pure => 0,
        EffectPolicy::Idempotent => 1,
        EffectPolicy::Compensatable => 2,
        EffectPolicy::Irreversible => 3,
    }
}

fn apply(tool: &mut Tool, activation: &Activation) {
    if let Some(policy) = activation.policy {
        tool.policy = policy;
    }
    if let Some(timeout_ms) = activation.timeout_ms {
        tool.timeout_ms = tool.timeout_ms.min(timeout_ms.max(1));
    }
    // Asking less is the tool's to decide.
    if let (Some(true), Some(confirmation)) = (activation.confirmation, &mut tool.confirmation) {
        confirmation.when = None;
    }
}

/// Checks what can be checked only with the other tools at hand.
fn check_others(tool: &Tool, known: &BTreeMap<&str, &Tool>, found: &mut Vec<Finding>, advice: &mut Vec<Finding>) {
    let missing = |name: &str| format!("there is no tool {name:?}: put it into the catalogue first");
    if let Some(related) = &tool.compensation {
        match known.get(related.tool.as_str()) {
            None => found.push(Finding::new("/compensation/tool", missing(&related.tool))),
            Some(undo) if matches!(undo.provider, Provider::Steps(_) | Provider::Person(_)) => {
                found.push(Finding::new("/compensation/tool", "what undoes is neither a plan nor a person"));
            }
            Some(undo) if undo.policy == EffectPolicy::Irreversible => {
                let problem = "what undoes should be idempotent: it is asked again until it is done";
                advice.push(Finding::new("/compensation/tool", problem));
            }
            Some(_) => {}
        }
    }
    let poll = tool.later.as_ref().and_then(|later| later.poll.as_ref()).map(|poll| &poll.by);
    for (place, related) in [("/probe/tool", tool.probe.as_ref()), ("/later/poll/tool", poll)] {
        let Some(related) = related else { continue };
        match known.get(related.tool.as_str()) {
            None => found.push(Finding::new(place, missing(&related.tool))),
            Some(asked) if asked.policy != EffectPolicy::Pure => {
                found.push(Finding::new(place, "what asks must be pure: it is asked any number of times"));
            }
            Some(_) => {}
        }
    }
    if let Provider::Steps(plan) = &tool.provider {
        for step in plan.all() {
            let place = format!("/provider/steps ({})", step.name);
            match known.get(step.tool.as_str()) {
                None => found.push(Finding::new(place, missing(&step.tool))),
                Some(other) if matches!(other.provider, Provider::Steps(_)) => {
                    found.push(Finding::new(place, "a plan within a plan: write its steps out"));
                }
                Some(other) if other.policy == EffectPolicy::Irreversible => {
                    let problem = "from this step on nothing before it is undone: put it last";
                    advice.push(Finding::new(place, problem));
                }
                Some(_) => {}
            }
            if let Some(related) =
                step.compensation.as_ref().filter(|related| !known.contains_key(related.tool.as_str()))
            {
                found.push(Finding::new(format!("/provider/steps ({})", step.name), missing(&related.tool)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(1);

    #[test]
    fn what_was_read_before_a_change_is_not_remembered_after_it() {
        let known = KnownTools::default();
        let Err(before) = known.get(TENANT, "t", 0) else { panic!("nothing was read") };
        // Somebody reads, and while they do the tool is changed.
        let after = known.forget(TENANT, "t");
        known.put(before, TENANT, "t", 0, None);
        assert_eq!(known.get(TENANT, "t", 0), Err(after));
        known.put(after, TENANT, "t", 0, None);
        assert_eq!(known.get(TENANT, "t", KNOWN_FOR_MS - 1), Ok(None));
        assert_eq!(known.get(TENANT, "t", KNOWN_FOR_MS), Err(after), "a change elsewhere is seen in the end");
    }
}
