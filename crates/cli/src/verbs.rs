//! The operator's verbs: calls of the HTTP API, printed for a terminal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::local::{Server, find, find_all};
use crate::say::say;
use crate::{RunVerb, ServerArgs, TokenVerb};

/// How long `send` waits for a reply.
const REPLY_WAIT: Duration = Duration::from_secs(120);

impl Server {
    /// Calls the API; a problem document becomes the error's text.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let client = reqwest::Client::new();
        let mut request = client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.with_context(|| format!("the server at {} can't be reached", self.url))?;
        let status = response.status();
        let text = response.text().await?;
        if status.is_success() {
            return Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? });
        }
        match serde_json::from_str::<Value>(&text) {
            Ok(problem) => {
                bail!("{} ({}); {}", word(&problem["detail"]), word(&problem["code"]), word(&problem["action"]))
            }
            Err(_) => bail!("the server answered {status}"),
        }
    }
}

/// Needs no token: how a server stands is no tenant's secret.
pub(crate) async fn ready(args: &ServerArgs) -> anyhow::Result<()> {
    let server = match &args.url {
        Some(url) => Server { url: url.trim_end_matches('/').to_owned(), token: String::new() },
        None => find(args)?,
    };
    let standing = server.call(Method::GET, "/readyz", None).await?;
    say!("{}", word(&standing["status"]));
    for trouble in standing["degraded"].as_array().into_iter().flatten() {
        say!("{}", word(trouble));
    }
    Ok(())
}

pub(crate) async fn token(verb: TokenVerb, args: &ServerArgs) -> anyhow::Result<()> {
    let server = find(args)?;
    match verb {
        TokenVerb::Create { name, scopes, ttl_days, quiet } => {
            let asked = json!({ "name": name, "scopes": scopes, "ttl_days": ttl_days });
            let made = server.call(Method::POST, "/v1/tokens", Some(asked)).await?;
            say!("{}", word(&made["token"]));
            if !quiet {
                eprintln!(
                    "its id is {}; it is shown only now. Revoke it with: mainspring token revoke {0}",
                    word(&made["id"])
                );
            }
        }
        TokenVerb::List => {
            let list = server.call(Method::GET, "/v1/tokens", None).await?;
            say!("{:36}  {:24}  {:16}  state", "id", "name", "scopes");
            for token in list["tokens"].as_array().into_iter().flatten() {
                let scopes: Vec<String> = token["scopes"].as_array().into_iter().flatten().map(word).collect();
                let state = match (token["revoked_at"].is_null(), token["expires_at"].as_u64().unwrap_or(0) > now_ms())
                {
                    (false, _) => "revoked",
                    (true, true) => "valid",
                    (true, false) => "expired",
                };
                say!("{:36}  {:24}  {:16}  {state}", word(&token["id"]), word(&token["name"]), scopes.join(","));
            }
        }
        TokenVerb::Revoke { id } => {
            server.call(Method::DELETE, &format!("/v1/tokens/{id}"), None).await?;
            say!("revoked {id}");
        }
    }
    Ok(())
}

pub(crate) async fn run(verb: RunVerb, args: &ServerArgs) -> anyhow::Result<()> {
    let server = find(args)?;
    match verb {
        RunVerb::List { workflow, state, limit } => {
            let workflow = workflow.unwrap_or_default();
            let path = format!("/v1/runs?limit={limit}&workflow={workflow}&state={}", state.unwrap_or_default());
            let list = server.call(Method::GET, &path, None).await?;
            say!("{:36}  {:16}  {:10}  {:>9}  key", "id", "workflow", "state", "took");
            for run in list["runs"].as_array().into_iter().flatten() {
                let took = match (run["created_at"].as_u64(), run["finished_at"].as_u64()) {
                    (Some(from), Some(to)) => format!("{} ms", to.saturating_sub(from)),
                    _ => "-".to_owned(),
                };
                say!(
                    "{:36}  {:16}  {:10}  {took:>9}  {}",
                    word(&run["id"]),
                    word(&run["workflow"]),
                    word(&run["state"]),
                    word(&run["key"])
                );
            }
        }
        RunVerb::Show { id } => show(&server.call(Method::GET, &format!("/v1/runs/{id}"), None).await?),
        RunVerb::Cancel { id, reason } => {
            let body = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            server.call(Method::POST, &format!("/v1/runs/{id}/cancel"), Some(body)).await?;
            say!("cancelled {id}");
        }
        RunVerb::Resume { id } => {
            server.call(Method::POST, &format!("/v1/runs/{id}/resume"), None).await?;
            say!("resumed {id}");
        }
    }
    Ok(())
}

pub(crate) async fn redis_rebuild(args: &ServerArgs) -> anyhow::Result<()> {
    for (tenant, server) in find_all(args)? {
        let given = server.call(Method::POST, "/v1/config-mirror/rebuild", None).await;
        let given = given.with_context(|| format!("tenant {tenant}"))?;
        say!("tenant {tenant}: {} bundles of {} agents", given["bundles"], given["agents"]);
    }
    Ok(())
}

fn show(run: &Value) {
    say!("run {} of {}: {}", word(&run["id"]), word(&run["workflow"]), word(&run["state"]));
    for field in ["key", "waiting_for", "error", "parent", "input", "output"] {
        if !run[field].is_null() {
            say!("  {field:12} {}", word(&run[field]));
        }
    }
    let from = run["created_at"].as_u64().unwrap_or(0);
    for task in run["tasks"].as_array().into_iter().flatten() {
        say!(
            "  task {} {}, attempt {} of {}",
            word(&task["name"]),
            word(&task["state"]),
            task["attempt"],
            task["attempts_max"]
        );
        for entry in task["journal"].as_array().into_iter().flatten() {
            let after = entry["requested_at"].as_u64().unwrap_or(from).saturating_sub(from);
            let took = match (entry["requested_at"].as_u64(), entry["completed_at"].as_u64()) {
                (Some(from), Some(to)) => format!("{} ms", to.saturating_sub(from)),
                _ => "waiting".to_owned(),
            };
            say!(
                "    {:>3}  +{after:>6} ms  {:10} {:20} {took:>9}  {}",
                entry["position"],
                word(&entry["kind"]),
                word(&entry["name"]),
                word(&entry["detail"])
            );
        }
    }
}

pub(crate) async fn send(
    args: &ServerArgs,
    agent: &str,
    interlocutor: &str,
    channel: &str,
    text: &str,
    wait: bool,
) -> anyhow::Result<()> {
    let server = find(args)?;
    let path = format!("/v1/sessions/{agent}/{interlocutor}/{channel}/messages");
    let accepted = server.call(Method::POST, &path, Some(json!({ "text": text }))).await?;
    eprintln!("accepted as {} for turn {}", word(&accepted["message_id"]), word(&accepted["turn_id"]));
    if !wait {
        return Ok(());
    }
    let (mut turn, asked) = (word(&accepted["turn_id"]), std::time::Instant::now());
    while asked.elapsed() < REPLY_WAIT {
        let view = server.call(Method::GET, &format!("/v1/turns/{turn}"), None).await.unwrap_or_default();
        match view["state"].as_str() {
            Some("completed") => {
                say!("{}", word(&view["reply"]["text"]));
                return Ok(());
            }
            Some("superseded") => turn = word(&view["superseded_by"]),
            Some(state @ ("failed" | "cancelled")) => bail!("the turn {state}: {}", word(&view["error"])),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    bail!("no reply within {} s; look at: mainspring run show {turn}", REPLY_WAIT.as_secs())
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
