//! A catalogue to test with: two tenants, an agent, more tools than fit on a page.

use std::sync::Arc;

use axum::Router;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mainspring_mcp::{
    Authenticate, Caller, Catalogue, CatalogueError, Denied, ListedTool, SideEffects, Tier, WhyNot, discovery,
};
use serde_json::{Map, Value, json};

/// Tools in everybody's catalogue beside the four with a name.
pub(crate) const MANY: usize = 230;

/// The discovery server over the sample.
pub(crate) fn router() -> Router {
    discovery::router(Arc::new(Sample), authenticate())
}

/// `acme`, `trips-of-acme` and `empty` get in, as the tenants of these names; what else there is, is refused in each way.
fn authenticate() -> Authenticate {
    Arc::new(|token| {
        let caller = |tenant: &str, agent: Option<&str>| {
            Ok(Caller { tenant: tenant.to_owned(), agent: agent.map(str::to_owned) })
        };
        let answer = match token.as_str() {
            "acme" => caller("acme", None),
            "trips-of-acme" => caller("acme", Some("trips")),
            "empty" => caller("empty", None),
            "weak" => Err(Denied::Forbidden("this token may not read".to_owned())),
            "unlucky" => Err(Denied::Unavailable("tokens can't be checked now".to_owned())),
            _ => Err(Denied::Unauthorized("this token is not known".to_owned())),
        };
        async move { answer }.boxed()
    })
}

struct Sample;

impl Catalogue for Sample {
    fn list<'a>(
        &'a self,
        caller: &'a Caller,
        tier: &'a Tier,
        after: Option<&'a str>,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<ListedTool>, CatalogueError>> {
        async move {
            let mut tools = tier_of(caller, tier)?;
            tools.sort_by(|a, b| a.name.cmp(&b.name));
            tools.retain(|tool| after.is_none_or(|after| tool.name.as_str() > after));
            tools.truncate(count);
            Ok(tools)
        }
        .boxed()
    }
}

fn tier_of(caller: &Caller, tier: &Tier) -> Result<Vec<ListedTool>, CatalogueError> {
    let activated = caller.tenant == "acme";
    match tier {
        Tier::Catalogue => Ok(named().into_iter().chain((0..MANY).map(numbered)).collect()),
        Tier::Available if activated => Ok(named()),
        Tier::Available => Ok(Vec::new()),
        Tier::Enabled { agent } if activated && agent == "trips" => {
            Ok(named().into_iter().filter(|tool| tool.name != "money.refund").collect())
        }
        Tier::Unavailable { agent } if activated && agent == "trips" => {
            let mut refund = tool("money.refund", SideEffects::Irreversible);
            refund.why_not.push(WhyNot {
                code: "not_enabled".to_owned(),
                detail: "the agent has not enabled it".to_owned(),
                action: "enable it for the agent".to_owned(),
            });
            Ok(vec![refund])
        }
        Tier::Enabled { agent } | Tier::Unavailable { agent } if agent == "unlucky" => {
            Err(CatalogueError::Unavailable("the store does not answer".to_owned()))
        }
        Tier::Enabled { .. } | Tier::Unavailable { .. } => Err(CatalogueError::NoSuchAgent),
    }
}

fn named() -> Vec<ListedTool> {
    vec![
        tool("calendar.look", SideEffects::Pure),
        tool("gmail.label", SideEffects::Idempotent),
        tool("hotel.book", SideEffects::Compensatable),
        tool("money.refund", SideEffects::Irreversible),
    ]
}

fn numbered(number: usize) -> ListedTool {
    let mut tool = tool(&format!("many.tool_{number:03}"), SideEffects::Pure);
    // 64 KiB each: a page is full by bytes before it is full by number.
    if number >= 200 {
        tool.description = "x".repeat(64 * 1024);
    }
    tool
}

fn tool(name: &str, side_effects: SideEffects) -> ListedTool {
    ListedTool {
        name: name.to_owned(),
        version: Some("3".to_owned()),
        title: Some(format!("Title of {name}")),
        description: format!("Does what {name} says."),
        input_schema: object(json!({
            "type": "object",
            "properties": { "subject": { "type": "string" } },
            "required": ["subject"],
        })),
        // Without a type, which the protocol wants and a JSON Schema need not have.
        output_schema: (name == "calendar.look")
            .then(|| object(json!({ "properties": { "free": { "type": "boolean" } } }))),
        side_effects,
        confirmation: side_effects == SideEffects::Irreversible,
        why_not: Vec::new(),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}
