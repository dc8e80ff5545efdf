//! What each page needs to be told. The server fills these; nothing here reads anything.
//!
//! Times are milliseconds since the Unix epoch. A turn, a run and a list of runs are the API's own JSON.

use serde::Serialize;

/// What surrounds every page.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Frame {
    /// The tenant whose data is shown; `None` before signing in.
    pub tenant: Option<String>,
    /// The server's version, for the foot of the page.
    pub version: String,
    /// The server's clock. Relative times count from it, in the page's scripts too: a browser's clock may be wrong.
    pub now_ms: u64,
    /// How much waits for a person, 100 at most.
    pub waiting: usize,
}

/// `GET /`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OverviewPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// The numbers at the top.
    pub counts: Counts,
    /// The latest turns, newest first.
    pub turns: Vec<TurnRow>,
    /// The latest runs, newest first, each a `RunSummary` of the API.
    pub runs: Vec<serde_json::Value>,
    /// How current the two lists are.
    pub as_of: AsOf,
}

/// What is going on in this moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Runs that have not ended.
    pub runs_live: u64,
    /// Turns still accumulating messages, or waiting for their predecessor.
    pub turns_waiting: u64,
    /// Turns an agent is working on.
    pub turns_processing: u64,
    /// Messages accepted since the server was set up.
    pub messages_accepted: u64,
    /// Workers connected.
    pub workers_connected: u64,
}

/// One turn in the overview's list: the API's `TurnSummary` and whose turn it is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TurnRow {
    /// The turn's id.
    pub id: String,
    /// The turn's state, as the API spells it.
    pub state: String,
    /// The agent that answers.
    pub agent: String,
    /// Who talks to the agent.
    pub interlocutor: String,
    /// Where the conversation takes place.
    pub channel: String,
    /// When the turn began.
    pub started_at: u64,
    /// When the turn ended.
    pub finished_at: Option<u64>,
    /// How many messages the turn has.
    pub message_count: u64,
}

/// How current a listing is.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct AsOf {
    /// The log position the listing includes.
    pub position: u64,
    /// How far the listing is behind the log.
    pub lag_ms: u64,
}

/// `GET /chat`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChatPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// The agents to choose from.
    pub agents: Vec<AgentChoice>,
    /// The agent the address asks for (`?agent=`). It is offered even when it is not among `agents`.
    pub agent: Option<String>,
    /// Whom the address speaks as (`?as=`). Without it, the browser remembers or makes up a name.
    pub interlocutor: Option<String>,
}

/// An agent the chat offers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AgentChoice {
    /// The name used in addresses.
    pub name: String,
    /// A few words on what it does.
    pub description: Option<String>,
}

/// `GET /turns/{id}`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TurnPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/turns/{id}` answers.
    pub turn: serde_json::Value,
    /// The state of its session as it is now: what an agent is given, `version` and `data`.
    pub state: serde_json::Value,
}

/// `GET /runs`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunsPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/runs` answers.
    pub list: serde_json::Value,
    /// What the list was asked for.
    pub filter: RunsFilter,
    /// Names of workflows to suggest; may be empty.
    pub workflows: Vec<String>,
}

/// The query of `GET /runs`. `None` and the empty string both mean: any.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunsFilter {
    /// Only runs of this workflow.
    pub workflow: Option<String>,
    /// Only runs in this state.
    pub state: Option<String>,
    /// Where the page begins; `None` is the newest.
    pub cursor: Option<String>,
}

/// `GET /runs/{id}`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/runs/{id}` answers.
    pub run: serde_json::Value,
}

/// `GET /nodes`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NodesPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/cluster` answers, if there is a cluster.
    pub cluster: Option<serde_json::Value>,
}

/// `GET /streams`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StreamsPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/streams` answers.
    pub list: serde_json::Value,
    /// Streams that are kept elsewhere.
    pub elsewhere: Vec<crate::state::StreamLag>,
    /// What is wrong there.
    pub degraded: Vec<String>,
}

/// `GET /streams/{name}`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StreamPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/streams/{name}` answers.
    pub stream: serde_json::Value,
}

/// `GET /webhooks`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WebhooksPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/webhooks` answers.
    pub list: serde_json::Value,
}

/// `GET /webhooks/{id}`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WebhookPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/webhooks/{id}` answers.
    pub hook: serde_json::Value,
    /// What `GET /v1/webhooks/{id}/attempts` answers.
    pub tries: serde_json::Value,
    /// What `GET /v1/webhooks/{id}/dead-letters` answers.
    pub dead: serde_json::Value,
    /// Whether whoever looks may pause it, and the like.
    pub may_change: bool,
}

/// `GET /tools`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ToolsPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/tools` answers.
    pub tools: Vec<serde_json::Value>,
    /// The agents whose tools can be looked at.
    pub agents: Vec<String>,
    /// The agent the address asks for (`?agent=`).
    pub agent: Option<String>,
}

/// `GET /tools/executions`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExecutionsPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/tool-executions` answers.
    pub executions: Vec<serde_json::Value>,
    /// Where the next page begins.
    pub next_cursor: Option<String>,
    /// What the list was asked for.
    pub filter: ExecutionsFilter,
    /// Names of tools to suggest.
    pub tools: Vec<String>,
}

/// The query of `GET /tools/executions`. `None` and the empty string both mean: any.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExecutionsFilter {
    /// Only of this tool.
    pub tool: Option<String>,
    /// Only with this status.
    pub status: Option<String>,
    /// Only in this session.
    pub session: Option<String>,
    /// Only for this agent.
    pub agent: Option<String>,
    /// Where the page begins; `None` is the newest.
    pub cursor: Option<String>,
}

/// `GET /tools/executions/{id}`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExecutionPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/tool-executions/{id}` answers, with the tool, the caller and what is asked of a person.
    pub execution: serde_json::Value,
    /// What `GET /v1/runs/{id}` answers about its run.
    pub run: serde_json::Value,
    /// The runs of steps that are carried out at the same time: `{step, execution_id, status, error}`.
    pub children: Vec<serde_json::Value>,
}

/// `GET /attention`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AttentionPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// What `GET /v1/attention` answers, the oldest first.
    pub waiting: Vec<serde_json::Value>,
}

/// A refusal or a failure: the API's problem details, for a person.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ErrorPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// The HTTP status.
    pub status: u16,
    /// The problem's code, for searching in logs and documentation.
    pub code: Option<String>,
    /// What happened, in a few words.
    pub title: String,
    /// What happened, in a sentence.
    pub detail: String,
    /// What to do about it.
    pub action: String,
}

/// `GET /login`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LoginPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// Why the last token was not accepted.
    pub reason: Option<String>,
    /// The path to go on to. It is posted back as `next`; the server accepts only paths of its own.
    pub next: Option<String>,
}

/// `GET /agents`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AgentsPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// The agents by name, each with its pointer.
    pub agents: Vec<serde_json::Value>,
}

/// `GET /agents/{agent}/config`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConfigPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// The agent.
    pub agent: String,
    /// As `GET /v1/agents/{agent}/publish` has it.
    pub overview: serde_json::Value,
    /// As `GET /v1/agents/{agent}/pointer` has it.
    pub pointer: serde_json::Value,
    /// As `GET /v1/agents/{agent}/versions` has them.
    pub versions: Vec<serde_json::Value>,
    /// As `GET /v1/agents/{agent}/pins` has them.
    pub pins: serde_json::Value,
    /// Whether there are buttons.
    pub may_change: bool,
}

/// `GET /publishes/{id}`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PublishPage {
    /// What surrounds the page.
    pub frame: Frame,
    /// As `GET /v1/publishes/{id}` has it.
    pub publish: serde_json::Value,
    /// Whether nothing more will happen.
    pub over: bool,
    /// Whether there are buttons.
    pub may_change: bool,
}
