//! Providers: who carries a tool out, asked once. What came of it is a [`Tried`]; what follows is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{Client, ClientError, EngineError, Failure, RunId, TaskId, TenantId};
use serde_json::{Value, json};

use super::breaker::Breakers;
use super::call::OnBehalf;
use super::catalogue::KnownTools;
use super::schema;
use super::template::{self, Encoding};
use super::tool::{Builtin, Http, Provider, Tool};
use super::tried::{self, ToolError, Tried};
use crate::calls::EffectPolicy;
use crate::egress::{CallLimits, Egress, Request};
use crate::outside::Calling;
use crate::settings::Secret;
use crate::sign;
use crate::token::{CallbackGrant, TurnTokens};

/// Where a tenant's secrets come from. They are read when they are used, and kept nowhere.
pub trait Secrets: Send + Sync {
    /// A secret by name.
    fn secret(&self, tenant: TenantId, name: &str) -> Option<String>;
}

/// No secrets at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn secret(&self, _: TenantId, _: &str) -> Option<String> {
        None
    }
}

/// Tools of remote MCP servers.
pub trait RemoteTools: Send + Sync {
    /// Calls one. `headers` may hold secrets.
    #[allow(clippy::too_many_arguments, reason = "a call has that many parts")]
    fn call<'a>(
        &'a self,
        tenant: TenantId,
        url: &'a str,
        headers: Vec<(String, String)>,
        tool: &'a str,
        arguments: &'a Value,
        key: &'a str,
        limits: CallLimits,
    ) -> Calling<'a, Tried>;
}

/// What callbacks are checked with, and where they are sent.
#[derive(Clone)]
pub struct CallbackDoor {
    /// What their tokens are signed with.
    pub tokens: TurnTokens,
    /// Where they are sent: `{url}/{execution}`.
    pub url: String,
}

impl CallbackDoor {
    /// Where the outcome of a step is to be sent, and the token that entitles to it.
    fn callback(&self, tenant: TenantId, execution_id: &str, step: &str, until_ms: u64) -> (String, String) {
        let run = execution_id.parse().unwrap_or(RunId(0));
        let grant = CallbackGrant { tenant, run, step: step.to_owned() };
        (format!("{}/{execution_id}", self.url), self.tokens.sign_callback(&grant, until_ms))
    }
}

/// What providers need. Cheap to clone.
#[derive(Clone)]
pub struct Kit {
    /// Calls to strangers' addresses.
    pub egress: Arc<dyn Egress>,
    /// Secrets.
    pub secrets: Arc<dyn Secrets>,
    /// Tools of MCP servers, if there are any.
    pub remote: Option<Arc<dyn RemoteTools>>,
    /// Callbacks.
    pub callbacks: CallbackDoor,
    /// Providers that are left alone.
    pub breakers: Breakers,
    /// Tools read lately.
    pub known: KnownTools,
}

/// One call to be carried out, once.
pub struct Try<'a> {
    /// For whom.
    pub client: &'a Client,
    /// The execution.
    pub execution_id: &'a str,
    /// The step of it.
    pub step: &'a str,
    /// The tool.
    pub tool: &'a Tool,
    /// Its arguments.
    pub arguments: &'a Value,
    /// What the provider recognises a repeat by.
    pub key: &'a str,
    /// On whose behalf.
    pub caller: &'a OnBehalf,
    /// How long it may take.
    pub timeout: Duration,
    /// The task that asks, and the place in its journal: a worker's run is asked for under that name. `None` for a call
    /// that nothing remembers.
    pub asking: Option<(TaskId, u32)>,
    /// Whether an earlier process had begun this very try.
    pub again: bool,
}

impl Kit {
    /// Carries a call out once.
    ///
    /// # Errors
    /// A [`Failure`] if this process is ending: then nothing is known yet, and nothing is recorded.
    pub async fn try_once(&self, call: &Try<'_>) -> Result<Tried, Failure> {
        let repeatable = matches!(call.tool.policy, EffectPolicy::Pure | EffectPolicy::Idempotent);
        // A worker's run is found again by its name; whatever else was begun may have been carried out.
        let found_again = matches!(call.tool.provider, Provider::Workflow { .. } | Provider::Builtin { .. });
        if call.again && !repeatable && !found_again {
            let text = "this server ended between the call and its outcome";
            return Ok(Tried::InDoubt(ToolError::new("interrupted", text)));
        }
        let now = call.client.engine().world().now_ms();
        let guarded = self.breaker_of(call);
        if let Some(provider) = &guarded
            && let Err(wait_ms) = self.breakers.enter(provider, now)
        {
            let text = format!("{provider} has failed several times in a row and is left alone for {wait_ms} ms");
            let error = ToolError::new("circuit_open", text);
            return Ok(Tried::Failed { error, again: true, after_ms: Some(wait_ms) });
        }
        let tried = self.call(call, now).await?;
        if let Some(provider) = &guarded {
            let after = call.client.engine().world().now_ms();
            self.breakers.leave(provider, in_order(&tried), after);
        }
        Ok(checked(call.tool, tried))
    }

    fn breaker_of(&self, call: &Try<'_>) -> Option<String> {
        let url = match &call.tool.provider {
            Provider::Http(http) => &http.url,
            Provider::Mcp { url, .. } => url,
            Provider::Workflow { .. } | Provider::Builtin { .. } | Provider::Person(_) | Provider::Steps(_) => {
                return None;
            }
        };
        let host = url.split('/').nth(2).unwrap_or_default();
        Some(format!("{} of tenant {}", host, call.client.tenant()))
    }

    async fn call(&self, call: &Try<'_>, now: u64) -> Result<Tried, Failure> {
        match &call.tool.provider {
            Provider::Http(http) => Ok(self.http(call, http, now).await),
            Provider::Workflow { name } => workflow(call, name).await,
            Provider::Mcp { url, tool, headers } => {
                let Some(remote) = &self.remote else {
                    return Ok(never("mcp_off", "this server is not set up to call MCP servers"));
                };
                let (scope, secrets) = self.scope(call, now, headers.values().map(String::as_str));
                let mut sent = Vec::new();
                for (name, value) in headers {
                    match template::fill_text(value, &scope, Encoding::Header) {
                        Ok(value) => sent.push((name.clone(), value)),
                        Err(error) => return Ok(never("template", &error.to_string())),
                    }
                }
                let limits = limits(call);
                let tried = remote.call(call.client.tenant(), url, sent, tool, call.arguments, call.key, limits).await;
                Ok(without(tried, &secrets))
            }
            Provider::Builtin { name } => Ok(builtin(*name, call.arguments).await),
            Provider::Person(_) | Provider::Steps(_) => unreachable!("people and plans are not called"),
        }
    }

    async fn http(&self, call: &Try<'_>, http: &Http, now: u64) -> Tried {
        let places = http.headers.values().map(String::as_str);
        let body_text = http.body.as_ref().map(Value::to_string);
        let (scope, mut secrets) = self.scope(call, now, places.chain(body_text.as_deref()));
        let request = match self.request(call, http, &scope, now, &mut secrets) {
            Ok(request) => request,
            Err(problem) => return never("request", &problem),
        };
        let mut progress = Progress::default();
        let client = call.client;
        let scope_of = format!("{EXECUTION_SCOPE}{}", call.execution_id);
        let mut heard = |piece: &[u8]| {
            for line in progress.lines(piece) {
                // Whatever is said before the end is for those who look now.
                client.whisper("tool.progress", &scope_of, None, Bytes::from(line));
            }
            true
        };
        let tried = match self.egress.call_hearing(request, limits(call), &mut heard).await {
            Ok(answer) => {
                let later = call.tool.later.is_some();
                let after = call.client.engine().world().now_ms();
                tried::of_answer(&answer, &http.not_done_statuses, later, http.result_at.as_deref(), after)
            }
            Err(fault) => tried::of_fault(&fault),
        };
        without(tried, &secrets)
    }

    /// What places are filled in from, and the secrets among it.
    fn scope<'t>(&self, call: &Try<'_>, now: u64, texts: impl Iterator<Item = &'t str>) -> (Value, Vec<String>) {
        let tenant = call.client.tenant();
        let (mut named, mut values) = (serde_json::Map::new(), Vec::new());
        for text in texts {
            for path in template::paths(&json!(text)).unwrap_or_default() {
                if let Some(name) = path.strip_prefix("secrets.")
                    && let Some(secret) = self.secrets.secret(tenant, name)
                {
                    values.push(secret.clone());
                    named.insert(name.to_owned(), json!(secret));
                }
            }
        }
        let caller = call.caller;
        let mut about = json!({
            "key": call.key, "execution_id": call.execution_id, "tool": call.tool.name,
            "tenant": tenant.to_string(), "agent": caller.agent, "session": caller.session, "turn_id": caller.turn_id,
        });
        if let Some(later) = &call.tool.later {
            let until = now.saturating_add(later.expires_ms);
            let (url, token) = self.callbacks.callback(tenant, call.execution_id, call.step, until);
            values.push(token.clone());
            about["callback_url"] = json!(url);
            about["callback_token"] = json!(token);
        }
        (json!({ "args": call.arguments, "secrets": named, "call": about }), values)
    }

    fn request(
        &self,
        call: &Try<'_>,
        http: &Http,
        scope: &Value,
        now: u64,
        secrets: &mut Vec<String>,
    ) -> Result<Request, String> {
        let method = match http.method.as_str() {
            "GET" => "GET",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "POST",
        };
        let text = |template: &str, encoding| {
            template::fill_text(template, scope, encoding).map_err(|error| error.to_string())
        };
        let url = text(&http.url, Encoding::Url)?;
        let body = match &http.body {
            Some(body) => Bytes::from(template::fill(body, scope).map_err(|error| error.to_string())?.to_string()),
            None if method == "GET" => Bytes::new(),
            None => Bytes::from(call.arguments.to_string()),
        };
        let mut headers = Vec::new();
        for (name, value) in &http.headers {
            headers.push((name.clone(), text(value, Encoding::Header)?));
        }
        let has = |wanted: &str| http.headers.keys().any(|name| name.eq_ignore_ascii_case(wanted));
        if !has("content-type") && !body.is_empty() {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        // Whoever only looks wants to know how it is now, not what was answered to an earlier look under this key.
        if !has("idempotency-key") && call.tool.policy != EffectPolicy::Pure {
            headers.push(("idempotency-key".to_owned(), call.key.to_owned()));
        }
        if let Some(later) = call.tool.later.as_ref().filter(|_| !has("mainspring-callback-url")) {
            let until = now.saturating_add(later.expires_ms);
            let (url, token) = self.callbacks.callback(call.client.tenant(), call.execution_id, call.step, until);
            headers.push(("mainspring-callback-url".to_owned(), url));
            headers.push(("mainspring-callback-token".to_owned(), token.clone()));
            secrets.push(token);
        }
        if let Some(name) = &http.sign_with {
            let secret = self.secrets.secret(call.client.tenant(), name);
            let secret = secret.ok_or_else(|| format!("the secret {name:?} it is signed with is not configured"))?;
            let (secret, at_s) = (Secret(secret), now / 1_000);
            headers.push((sign::ID_HEADER.to_owned(), call.key.to_owned()));
            headers.push((sign::TIMESTAMP_HEADER.to_owned(), at_s.to_string()));
            headers.push((sign::SIGNATURE_HEADER.to_owned(), sign::signature(&secret, call.key, at_s, &body)));
        }
        Ok(Request { method, url, headers, body })
    }
}

/// The scope under which those who follow an execution hear what its provider says meanwhile.
pub const EXECUTION_SCOPE: &str = "tool-execution:";
/// Bytes of a line of progress.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Lines of progress in what a provider sends, in pieces.
#[derive(Default)]
struct Progress {
    pending: Vec<u8>,
}

impl Progress {
    fn lines(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        self.pending.extend_from_slice(piece);
        let mut lines = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let said = serde_json::from_slice::<Value>(&line).ok();
            let kind = said.as_ref().and_then(|said| said.get("type")).and_then(Value::as_str);
            if matches!(kind, Some("progress" | "status")) {
                lines.push(line.trim_ascii().to_vec());
            }
        }
        if self.pending.len() > LINE_BYTES_MAX {
            self.pending.clear();
        }
        lines
    }
}

fn limits(call: &Try<'_>) -> CallLimits {
    CallLimits { time: call.timeout, body_bytes_max: call.tool.result_bytes_max as usize }
}

fn never(code: &str, problem: &str) -> Tried {
    Tried::Failed { error: ToolError::new(code, problem), again: false, after_ms: None }
}

/// Whether a try shows that the provider is in order, whatever it said.
fn in_order(tried: &Tried) -> bool {
    match tried {
        Tried::Done(_) | Tried::DoneWithout(_) | Tried::Accepted => true,
        Tried::Failed { again, .. } => !again,
        Tried::InDoubt(_) => false,
    }
}

/// What a provider may have repeated of the secrets it was sent is not kept.
fn without(tried: Tried, secrets: &[String]) -> Tried {
    if secrets.iter().all(String::is_empty) {
        return tried;
    }
    let hide = |text: String| {
        secrets.iter().filter(|secret| secret.len() >= 4).fold(text, |text, secret| text.replace(secret.as_str(), "…"))
    };
    let hide_error = |error: ToolError| ToolError { code: error.code, message: hide(error.message) };
    match tried {
        Tried::Done(result) => {
            let text = result.to_string();
            let hidden = hide(text.clone());
            if hidden == text {
                Tried::Done(result)
            } else {
                Tried::Done(serde_json::from_str(&hidden).unwrap_or(json!(hidden)))
            }
        }
        Tried::DoneWithout(error) => Tried::DoneWithout(hide_error(error)),
        Tried::Failed { error, again, after_ms } => Tried::Failed { error: hide_error(error), again, after_ms },
        Tried::InDoubt(error) => Tried::InDoubt(hide_error(error)),
        Tried::Accepted => Tried::Accepted,
    }
}

/// A result that does not fit the tool's own schema can't be used; that it was carried out stays true.
fn checked(tool: &Tool, tried: Tried) -> Tried {
    let Tried::Done(result) = tried else { return tried };
    if result.to_string().len() > tool.result_bytes_max as usize {
        let text = format!("the result is larger than result_bytes_max, {} bytes", tool.result_bytes_max);
        return Tried::DoneWithout(ToolError::new("result_too_large", text));
    }
    let Some(wanted) = &tool.result else { return Tried::Done(result) };
    let findings = schema::findings(wanted, &result);
    if findings.is_empty() {
        return Tried::Done(result);
    }
    let listed: Vec<String> =
        findings.iter().map(|finding| format!("{}: {}", finding.place, finding.problem)).collect();
    Tried::DoneWithout(ToolError::new("result_unfit", format!("the result does not fit: {}", listed.join("; "))))
}

async fn builtin(name: Builtin, arguments: &Value) -> Tried {
    match name {
        Builtin::Echo => Tried::Done(arguments.clone()),
        Builtin::Sleep => {
            let ms = arguments.get("ms").and_then(Value::as_u64).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Tried::Done(json!({ "slept_ms": ms }))
        }
        Builtin::Fail => never("failed", arguments.get("message").and_then(Value::as_str).unwrap_or("asked to fail")),
    }
}

/// Gives a call to a worker, as a run of its workflow, and waits for that.
async fn workflow(call: &Try<'_>, name: &str) -> Result<Tried, Failure> {
    let repeatable = matches!(call.tool.policy, EffectPolicy::Pure | EffectPolicy::Idempotent);
    let input = json!({
        "tool": call.tool.name, "arguments": call.arguments,
        "call": {
            "key": call.key, "execution_id": call.execution_id, "agent": call.caller.agent,
            "session": call.caller.session, "turn_id": call.caller.turn_id,
        },
    });
    let started = match call.asking {
        Some((task, position)) => {
            call.client.start_child(name, &input, task, format!("{}@{position}", call.step), !repeatable).await
        }
        None => call.client.start(name, &input).await,
    };
    let run = match started {
        Ok(run) => run,
        Err(error) => return ending(error, |error| never("worker_refused", &error)),
    };
    let waited = tokio::time::timeout(call.timeout, call.client.wait::<Value>(run)).await;
    let Ok(ended) = waited else {
        let text = format!("the worker did not end within {} ms", call.timeout.as_millis());
        // It is told to stop; whether it had done it is another question.
        if let Err(error) = call.client.cancel(run, &text).await {
            tracing::debug!(%run, %error, "a worker that is late could not be told to stop");
        }
        return Ok(Tried::InDoubt(ToolError::new("no_answer", text)));
    };
    match ended {
        Ok(output) => Ok(match output.get("error").filter(|error| error.get("code").is_some()) {
            Some(error) => {
                let said = |part: &str| error.get(part).and_then(Value::as_str).unwrap_or_default().to_owned();
                let again = error.get("retry").and_then(Value::as_bool).unwrap_or(false);
                Tried::Failed { error: ToolError::new(&said("code"), said("message")), again, after_ms: None }
            }
            None => Tried::Done(output),
        }),
        Err(error) => ending(error, |error| Tried::InDoubt(ToolError::new("worker_failed", error))),
    }
}

/// What an error of the engine says about a call: nothing yet, if this process is ending.
fn ending(error: ClientError, otherwise: impl FnOnce(String) -> Tried) -> Result<Tried, Failure> {
    match error {
        ClientError::Engine(error @ (EngineError::Stopped { .. } | EngineError::ShuttingDown)) => {
            Err(Failure::GivenUp(error.to_string()))
        }
        other => Ok(otherwise(other.to_string())),
    }
}
