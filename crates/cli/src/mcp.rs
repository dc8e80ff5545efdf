//! MCP, both ways: what the discovery server lists is the catalogue of tools, and what remote servers offer is called as a
//! provider of tools.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use mainspring_client::TenantId;
use mainspring_flows::calls::EffectPolicy;
use mainspring_flows::egress::{CallLimits, Egress, HttpEgress};
use mainspring_flows::outside::Calling;
use mainspring_flows::tools::catalogue::Standing;
use mainspring_flows::tools::tried::Tried;
use mainspring_flows::tools::{Entry, RemoteTools, ToolError};
use mainspring_mcp::{
    Authenticate, Call, Caller, Catalogue, CatalogueError, Cause, Denied, ListedTool, Outcome, Remote, RemoteLimits,
    Server, SideEffects, Tier, WhyNot,
};
use mainspring_server::AppState;
use mainspring_server::auth::Scope;
use serde_json::{Map, Value};

/// The discovery server's routes.
pub(crate) fn routes(state: &AppState) -> axum::Router {
    let of_tokens = state.clone();
    let authenticate: Authenticate = Arc::new(move |token: String| {
        let state = of_tokens.clone();
        Box::pin(async move {
            let denied = || Denied::Unauthorized("the token is unknown, expired or revoked".to_owned());
            let caller = state.auth().caller(&token).ok_or_else(denied)?;
            if state.engine().hub().is_revoked(caller.token) {
                return Err(denied());
            }
            caller.must_have(Scope::Read).map_err(|_| Denied::Forbidden("the token may not read".to_owned()))?;
            Ok(Caller { tenant: caller.tenant.to_string(), agent: None })
        })
    });
    mainspring_mcp::discovery::router(Arc::new(Listed(state.clone())), authenticate)
}

/// The catalogue of tools, as it is listed.
struct Listed(AppState);

impl Catalogue for Listed {
    fn list<'a>(
        &'a self,
        caller: &'a Caller,
        tier: &'a Tier,
        after: Option<&'a str>,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<ListedTool>, CatalogueError>> {
        Box::pin(async move {
            let broken = |error: String| CatalogueError::Unavailable(error);
            let tenant: TenantId = caller.tenant.parse().map_err(|_| CatalogueError::NoSuchAgent)?;
            let door = self.0.tools(tenant).map_err(|_| broken("no tools are carried out here".to_owned()))?;
            let catalogue = door.catalogue();
            let entries: Vec<(Entry, Vec<WhyNot>)> = match tier {
                Tier::Catalogue | Tier::Available => {
                    let all = catalogue.tools().await.map_err(|error| broken(error.to_string()))?;
                    let wanted = |entry: &Entry| *tier == Tier::Catalogue || entry.tool.available;
                    all.into_iter().filter(wanted).map(|entry| (entry, Vec::new())).collect()
                }
                Tier::Enabled { agent } | Tier::Unavailable { agent } => {
                    if self.0.agents().get(tenant, agent).is_none() {
                        return Err(CatalogueError::NoSuchAgent);
                    }
                    let tiers = catalogue.tiers(agent).await.map_err(|error| broken(error.to_string()))?;
                    let enabled = matches!(tier, Tier::Enabled { .. });
                    tiers
                        .into_iter()
                        .filter_map(|(entry, standing)| match standing {
                            Standing::Enabled(applied) => enabled.then_some((*applied, Vec::new())),
                            Standing::Disabled if !enabled => Some((entry, vec![disabled(agent)])),
                            Standing::Unavailable if !enabled => Some((entry, vec![unavailable()])),
                            Standing::Disabled | Standing::Unavailable | Standing::Unknown => None,
                        })
                        .collect()
                }
            };
            let behind = |entry: &Entry| after.is_none_or(|after| entry.tool.name.as_str() > after);
            let page = entries.into_iter().filter(|(entry, _)| behind(entry)).take(count);
            Ok(page.map(|(entry, why_not)| listed(entry, why_not)).collect())
        })
    }
}

fn disabled(agent: &str) -> WhyNot {
    WhyNot {
        code: "tool_disabled".to_owned(),
        detail: format!("it is available, and not enabled for agent {agent:?}"),
        action: format!("PUT /v1/agents/{agent}/tools/<name> with {{\"enabled\": true}}"),
    }
}

fn unavailable() -> WhyNot {
    WhyNot {
        code: "tool_unavailable".to_owned(),
        detail: "it is in the catalogue, and not available to this tenant's agents".to_owned(),
        action: "PUT /v1/tools/<name> with \"available\": true".to_owned(),
    }
}

fn listed(entry: Entry, why_not: Vec<WhyNot>) -> ListedTool {
    let object = |schema: Value| match schema {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let Entry { version, tool } = entry;
    ListedTool {
        name: tool.name,
        version: Some(version.to_string()),
        title: tool.title,
        description: tool.description,
        input_schema: object(tool.parameters),
        output_schema: tool.result.map(object),
        side_effects: match tool.policy {
            EffectPolicy::Pure => SideEffects::Pure,
            EffectPolicy::Idempotent => SideEffects::Idempotent,
            EffectPolicy::Compensatable => SideEffects::Compensatable,
            EffectPolicy::Irreversible => SideEffects::Irreversible,
        },
        confirmation: tool.confirmation.is_some(),
        why_not,
    }
}

/// Tools of remote servers, called from addresses the policy allows.
pub(crate) struct OfServers {
    remote: Remote,
    egress: HttpEgress,
}

impl OfServers {
    pub(crate) fn new(egress: HttpEgress) -> Self {
        OfServers { remote: Remote::new(egress.client(), RemoteLimits::default()), egress }
    }
}

impl RemoteTools for OfServers {
    fn call<'a>(
        &'a self,
        tenant: TenantId,
        url: &'a str,
        headers: Vec<(String, String)>,
        tool: &'a str,
        arguments: &'a Value,
        key: &'a str,
        limits: CallLimits,
    ) -> Calling<'a, Tried> {
        Box::pin(async move {
            let never = |code: &str, text: String| Tried::Failed {
                error: ToolError::new(code, text),
                again: false,
                after_ms: None,
            };
            if let Err(refused) = self.egress.check(url) {
                return never("address_refused", refused.to_string());
            }
            let mut server = match Server::new(tenant.to_string(), url) {
                Ok(server) => server,
                Err(bad) => return never("mcp_server", bad.to_string()),
            };
            for (name, value) in headers {
                server = match server.with_header(&name, &value) {
                    Ok(server) => server,
                    Err(bad) => return never("mcp_server", bad.to_string()),
                };
            }
            let nothing = Map::new();
            let arguments = arguments.as_object().unwrap_or(&nothing);
            let call = Call { tool, arguments, idempotency_key: key, correlation_id: None, timeout: limits.time };
            tried(self.remote.call_tool(&server, &call).await)
        })
    }
}

fn tried(outcome: Outcome) -> Tried {
    match outcome {
        Outcome::Succeeded(answer) => {
            Tried::Done(answer.structured.unwrap_or_else(|| serde_json::json!({ "text": answer.text })))
        }
        // What it did before it failed, only its author knows.
        Outcome::ToolError(answer) => Tried::InDoubt(ToolError::new("tool_error", answer.text)),
        Outcome::NotDone(not_done) => {
            let (code, again) = match not_done.cause {
                Cause::Unreachable | Cause::TimedOut => ("provider_unreachable", true),
                Cause::Busy | Cause::ServerFailed => ("provider_busy", true),
                Cause::Unauthorized => ("provider_unauthorized", false),
                Cause::NotMcp => ("provider_not_mcp", false),
                Cause::Refused | Cause::TooLarge | Cause::HeadersWanted => ("provider_refused", false),
            };
            let after_ms = not_done.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            Tried::Failed { error: ToolError::new(code, not_done.detail), again, after_ms }
        }
        Outcome::InDoubt(doubt) => Tried::InDoubt(ToolError::new("no_answer", doubt.to_string())),
    }
}
