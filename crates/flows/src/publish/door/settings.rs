//! How an agent's configuration is published: its rules, its schemas, and who is asked besides.

use std::collections::BTreeMap;

use mainspring_client::{ClientError, DocumentKey, PutDocument};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ConfigError, Configs, draft, put_register};
use crate::publish::SETTINGS;
use crate::publish::bundle::{from_json, is_conflict, json_of};
use crate::publish::register::{Concurrency, Rules};
use crate::tools::schema;

/// Versions that may be kept in any case.
const KEEP_MAX: u32 = 100;
/// The longest an endpoint may take.
const HOOK_TIMEOUT_MS_MAX: u64 = 10 * 60 * 1_000;
/// Bytes of all of it: one document.
const BYTES_MAX: usize = 200 * 1024;
/// Times a change is begun anew because another came in between.
const TRIES_MAX: u32 = 8;

/// Somebody of the tenant who takes part in a publish: a workflow, or an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hook {
    /// The workflow whose run does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Or the address that is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The name of the secret requests to the address are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// How long the address may take. 60 s if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How an agent's configuration is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What becomes of a publish while another is under way.
    pub concurrency: Concurrency,
    /// Whether sessions stay with the version they began with.
    pub soft_pin: bool,
    /// A session that was silent for so long moves on with its next turn.
    pub idle_move_ms: u64,
    /// Versions that are kept in any case, the newest.
    pub keep_versions: u32,
    /// A JSON Schema per kind.
    pub schemas: BTreeMap<String, Value>,
    /// Who checks, besides what is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<Hook>,
    /// Who compiles instead of what is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile: Option<Hook>,
    /// Who prepares what a version needs before it can become the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply: Option<Hook>,
}

impl Default for Settings {
    fn default() -> Self {
        let Rules { concurrency, soft_pin, idle_move_ms, keep_versions } = Rules::default();
        Settings {
            concurrency,
            soft_pin,
            idle_move_ms,
            keep_versions,
            schemas: BTreeMap::new(),
            validate: None,
            compile: None,
            apply: None,
        }
    }
}

impl Settings {
    fn rules(&self) -> Rules {
        Rules {
            concurrency: self.concurrency,
            soft_pin: self.soft_pin,
            idle_move_ms: self.idle_move_ms,
            keep_versions: self.keep_versions,
        }
    }
}

impl Configs {
    /// An agent's settings.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn settings(&self, agent: &str) -> Result<(u64, Settings), ClientError> {
        match self.client.document(DocumentKey::new(SETTINGS, agent)).await? {
            Some(row) => Ok((row.version, from_json(&row.body)?)),
            None => Ok((0, Settings::default())),
        }
    }

    /// Replaces an agent's settings. They hold for publishes accepted and turns begun from now on. Durable when it
    /// returns.
    ///
    /// # Errors
    /// [`ConfigError::Unfit`] says what to change.
    pub async fn put_settings(&self, agent: &str, settings: &Settings) -> Result<(), ConfigError> {
        self.check_settings(settings)?;
        for _ in 0..TRIES_MAX {
            let (version, _) = self.settings(agent).await?;
            let (at, mut register) = self.register(agent).await?;
            register.rules = settings.rules();
            let put = PutDocument {
                key: DocumentKey::new(SETTINGS, agent),
                expect: Some(version),
                body: json_of(settings)?,
                ttl_ms: None,
                history: 0,
            };
            // The rules are in the register as well, because each decision about the pointer and each turn needs them.
            match self.client.advance(vec![put, put_register(agent, at, &register)?], Vec::new()).await {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ConfigError::State("others changed it each time: try again".to_owned()))
    }

    fn check_settings(&self, settings: &Settings) -> Result<(), ConfigError> {
        if !(1..=KEEP_MAX).contains(&settings.keep_versions) {
            return Err(ConfigError::unfit("keep_versions", format!("from 1 to {KEEP_MAX}")));
        }
        let bytes = json_of(settings)?.len();
        if bytes > BYTES_MAX {
            return Err(ConfigError::unfit("schemas", format!("all has {bytes} bytes, at most {BYTES_MAX} are taken")));
        }
        for (kind, of_kind) in &settings.schemas {
            draft::check_kind(kind)?;
            let mut found = Vec::new();
            schema::check(&format!("schemas.{kind}"), of_kind, &mut found);
            if let Some(first) = found.into_iter().next() {
                return Err(ConfigError::unfit(first.place, first.problem));
            }
        }
        for (field, hook) in
            [("validate", &settings.validate), ("compile", &settings.compile), ("apply", &settings.apply)]
        {
            if let Some(hook) = hook {
                self.check_hook(field, hook)?;
            }
        }
        Ok(())
    }

    fn check_hook(&self, field: &str, hook: &Hook) -> Result<(), ConfigError> {
        let unfit = |what: String| Err(ConfigError::unfit(field, what));
        match (&hook.workflow, &hook.url) {
            (Some(_), Some(_)) | (None, None) => unfit("say either `workflow` or `url`".to_owned()),
            (Some(_), None) if hook.secret.is_some() || hook.timeout_ms.is_some() => {
                unfit("`secret` and `timeout_ms` go with `url`; a workflow says how long its tasks may take".to_owned())
            }
            (Some(_), None) => Ok(()),
            (None, Some(url)) => {
                let Some(egress) = &self.shared.egress else {
                    return unfit("this process calls no addresses: use a workflow".to_owned());
                };
                if hook.timeout_ms.is_some_and(|timeout| !(1..=HOOK_TIMEOUT_MS_MAX).contains(&timeout)) {
                    return unfit(format!("timeout_ms is from 1 to {HOOK_TIMEOUT_MS_MAX}"));
                }
                egress.check(url).or_else(|refused| unfit(refused.to_string()))
            }
        }
    }
}
