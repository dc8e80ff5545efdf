//! Asking somebody of the tenant: what is wrong with a draft, what it compiles to, whether all is prepared for it.
//!
//! They are told digests, and the content itself while it is small; larger content is read by its digest
//! (`GET /v1/config/content/{digest}`). What they answer is findings, and from compiling, bundles.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use mainspring_client::{Context, Failure, SpawnOptions};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::bundle::BundleRef;
use super::check::Finding;
use super::door::{Configs, Hook};
use super::job::{Job, StageName};
use crate::egress::{BodyEnd, CallLimits, REQUEST_BYTES_MAX, Request};
use crate::settings::Secret;
use crate::sign;

/// Bytes of content, all kinds together, up to which it goes along.
const INLINE_BYTES_MAX: u64 = 1024 * 1024;
/// How long an address may take if nothing is said.
const TIMEOUT_MS: u64 = 60_000;
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What somebody answers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Said {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What a kind compiles to.
    pub bundles: BTreeMap<String, Made>,
}

/// A bundle that somebody made: its content, or the digest of content that is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Made {
    /// The content.
    Content(Box<RawValue>),
    /// Its digest.
    Digest(String),
}

/// What somebody is told.
async fn told(configs: &Configs, stage: StageName, job: &Job) -> Result<Value, Failure> {
    let of = if stage == StageName::Apply { &job.bundles } else { &job.sources };
    let inline = of.values().map(|one| one.bytes).sum::<u64>() <= INLINE_BYTES_MAX;
    let mut bundles = serde_json::Map::new();
    for (kind, one) in of {
        let BundleRef { digest, bytes, .. } = one;
        let mut said = json!({ "digest": digest, "bytes": bytes });
        if inline {
            said["content"] = content(configs, one).await?;
        }
        bundles.insert(kind.clone(), said);
    }
    let tenant = configs.client().tenant();
    Ok(json!({
        "stage": stage.word(), "publish_id": job.id, "tenant": tenant.to_string(), "agent": job.agent,
        "version": job.version, "correlation_id": job.correlation_id(tenant), "bundles": bundles,
    }))
}

async fn content(configs: &Configs, one: &BundleRef) -> Result<Value, Failure> {
    let content = configs.bundles().get(&one.digest).await.map_err(Failure::retryable)?;
    let content = content.ok_or_else(|| Failure::Final(format!("{} is not stored any more", one.digest)))?;
    serde_json::from_slice(&content).map_err(Failure::permanent)
}

/// Has a workflow's run do it. It is waited for as long as it takes; a publish that is cancelled cancels it.
pub(super) async fn by_workflow(
    ctx: &Context,
    configs: &Configs,
    name: &str,
    stage: StageName,
    job: &Job,
) -> Result<Said, Failure> {
    let told: Value = ctx.note("told", || told(configs, stage, job)).await?;
    let call = ctx.spawn(name, &told, SpawnOptions::default()).await?;
    let said: Value = call.result().await.map_err(|failure| match failure {
        Failure::Child { run, state, error } => {
            Failure::Final(format!("run {run} of workflow {name:?} ended {state}: {error}"))
        }
        other => other,
    })?;
    read(&said.to_string().into_bytes(), name)
}

/// Asks an address once.
pub(super) async fn by_address(configs: &Configs, hook: &Hook, stage: StageName, job: &Job) -> Result<Said, Failure> {
    let (Some(url), Some(egress)) = (&hook.url, &configs.shared.egress) else {
        return Err(Failure::Final("this process calls no addresses".to_owned()));
    };
    let body = Bytes::from(told(configs, stage, job).await?.to_string());
    if body.len() > REQUEST_BYTES_MAX {
        return Err(Failure::Final(format!(
            "the request has {} bytes, at most {REQUEST_BYTES_MAX} are sent",
            body.len()
        )));
    }
    // The same for each try, so that whoever is asked can tell a repeat.
    let key = format!("{}:{}", job.id, stage.word());
    let mut headers =
        vec![("content-type".to_owned(), "application/json".to_owned()), ("idempotency-key".to_owned(), key.clone())];
    if let Some(name) = &hook.secret {
        let secrets = configs.shared.secrets.as_ref();
        let secret = secrets.and_then(|secrets| secrets.secret(configs.client().tenant(), name));
        let secret = Secret(secret.ok_or_else(|| Failure::Final(format!("no secret {name:?} is configured")))?);
        let at_s = configs.now_ms() / 1_000;
        headers.push((sign::ID_HEADER.to_owned(), key.clone()));
        headers.push((sign::TIMESTAMP_HEADER.to_owned(), at_s.to_string()));
        headers.push((sign::SIGNATURE_HEADER.to_owned(), sign::signature(&secret, &key, at_s, &body)));
    }
    let limits = CallLimits {
        time: Duration::from_millis(hook.timeout_ms.unwrap_or(TIMEOUT_MS)),
        body_bytes_max: ANSWER_BYTES_MAX,
    };
    let request = Request { method: "POST", url: url.clone(), headers, body };
    let answer = egress.call(request, limits).await.map_err(Failure::retryable)?;
    match (answer.status, answer.end) {
        (200..=299, BodyEnd::Whole) if answer.body.is_empty() => Ok(Said::default()),
        (200..=299, BodyEnd::Whole) => read(&answer.body, url),
        (200..=299, BodyEnd::Cut) => {
            let text =
                format!("{url} answered more than {ANSWER_BYTES_MAX} bytes: store content and answer its digest");
            Err(Failure::Final(text))
        }
        (200..=299, BodyEnd::Broken) => Err(Failure::Retryable(format!("the answer of {url} broke off"))),
        (status @ (408 | 425 | 429 | 500..=599), _) => Err(Failure::Retryable(format!("{url} answered {status}"))),
        (status, _) => Err(Failure::Final(format!("{url} answered {status}, which no repeat will change"))),
    }
}

fn read(said: &[u8], whom: &str) -> Result<Said, Failure> {
    if said == b"null" {
        return Ok(Said::default());
    }
    serde_json::from_slice(said)
        .map_err(|error| Failure::Final(format!("{whom} answered something else than {{findings, bundles}}: {error}")))
}
