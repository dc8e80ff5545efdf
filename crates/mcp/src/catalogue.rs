//! What the discovery server lists, and whom it asks for it.

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Map, Value};

/// Who asks: what a token was found to stand for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The tenant. Nothing of any other is ever listed.
    pub tenant: String,
    /// The agent the caller is bound to, if it is: then no other agent's tools are listed.
    pub agent: Option<String>,
}

/// Which of the tools there are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Everything that is offered, whether the tenant has activated it or not.
    Catalogue,
    /// What the tenant has activated.
    Available,
    /// What one agent may use.
    Enabled {
        /// The agent's id.
        agent: String,
    },
    /// What one agent could have and has not, each with its reasons ([`ListedTool::why_not`]).
    Unavailable {
        /// The agent's id.
        agent: String,
    },
}

/// What a call of a tool does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SideEffects {
    /// Nothing.
    Pure,
    /// Something, and the same again makes no difference.
    Idempotent,
    /// Something that another tool can undo.
    Compensatable,
    /// Something that stays. Also what is not known.
    Irreversible,
}

/// One reason why an agent has not got a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhyNot {
    /// A stable word for programs.
    pub code: String,
    /// What is in the way.
    pub detail: String,
    /// What to do about it.
    pub action: String,
}

/// A tool as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListedTool {
    /// Its stable name.
    pub name: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does, for whoever chooses.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Map<String, Value>,
    /// JSON Schema of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Map<String, Value>>,
    /// Its side-effect policy.
    #[serde(rename = "policy")]
    pub side_effects: SideEffects,
    /// Whether somebody has to say yes to each call.
    #[serde(rename = "confirmation_required")]
    pub confirmation: bool,
    /// In [`Tier::Unavailable`]: what is in the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why_not: Vec<WhyNot>,
}

/// The catalogue could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// There is no such agent, or it is another tenant's, which looks the same.
    #[error("there is no such agent")]
    NoSuchAgent,
    /// It can't answer now. The text is told to the caller.
    #[error("the catalogue can't be read now: {0}")]
    Unavailable(String),
}

/// Who knows the tools.
pub trait Catalogue: Send + Sync + 'static {
    /// Gives at most `count` tools of a tier, in the order of their names' bytes, beginning behind the name `after`.
    ///
    /// Fewer than `count` mean that there are no more. A tool as listed should stay well below
    /// [`PAGE_BYTES_MAX`](crate::discovery::PAGE_BYTES_MAX): one that does not is a page of its own.
    ///
    /// # Errors
    /// [`CatalogueError`], whose text the caller is told.
    fn list<'a>(
        &'a self,
        caller: &'a Caller,
        tier: &'a Tier,
        after: Option<&'a str>,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<ListedTool>, CatalogueError>>;
}
