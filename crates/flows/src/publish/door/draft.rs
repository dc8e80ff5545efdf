//! The draft: what the next publish makes a version of, kind by kind, as it was written.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainspring_client::{ClientError, DocumentKey, PutDocument};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Configs};
use crate::publish::DRAFT;
use crate::publish::bundle::{BUNDLE_BYTES_MAX, BundleError, BundleRef, apart, from_json, is_conflict, json_of};

/// Kinds of one configuration.
pub const KINDS_MAX: usize = 32;
/// Bytes of a kind's name, which is a part of addresses and keys.
const KIND_BYTES_MAX: usize = 48;
/// Times a change is begun anew because another came in between.
const TRIES_MAX: u32 = 8;

/// A kind of a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drafted {
    /// The content.
    #[serde(flatten)]
    pub content: BundleRef,
    /// When it was put there.
    pub at: u64,
    /// Who did.
    pub by: String,
}

/// A draft.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Draft {
    /// Its kinds.
    pub kinds: BTreeMap<String, Drafted>,
}

impl Draft {
    /// The content of each kind.
    pub fn sources(&self) -> BTreeMap<String, BundleRef> {
        self.kinds.iter().map(|(kind, one)| (kind.clone(), one.content.clone())).collect()
    }
}

/// Checks a kind's name.
pub(crate) fn check_kind(kind: &str) -> Result<(), ConfigError> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let first = kind.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if first && kind.len() <= KIND_BYTES_MAX && kind.bytes().all(good) {
        return Ok(());
    }
    let what =
        format!("{kind:?} is no kind: use a lower-case word of at most {KIND_BYTES_MAX} letters, digits and `_`");
    Err(ConfigError::unfit("kind", what))
}

impl Configs {
    /// An agent's draft, with its version. One nobody has written is an empty one of version 0.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn draft(&self, agent: &str) -> Result<(u64, Draft), ClientError> {
        match self.client.document(DocumentKey::new(DRAFT, agent)).await? {
            Some(row) => Ok((row.version, from_json(&row.body)?)),
            None => Ok((0, Draft::default())),
        }
    }

    /// Puts kinds into a draft as they were written; if `whole`, those not among them go. Durable when it returns; answers
    /// the draft with its version.
    ///
    /// # Errors
    /// [`ConfigError`] says what to change; [`ConfigError::DraftChanged`] if it does not have the version `expect`.
    pub async fn put_draft(
        &self,
        agent: &str,
        kinds: Vec<(String, Bytes)>,
        whole: bool,
        expect: Option<u64>,
        by: &str,
    ) -> Result<(u64, Draft), ConfigError> {
        for (kind, text) in &kinds {
            check_kind(kind)?;
            if text.len() > BUNDLE_BYTES_MAX {
                return Err(BundleError::TooLarge { bytes: text.len() }.into());
            }
        }
        let mut put = BTreeMap::new();
        for (kind, text) in kinds {
            let read = text.clone();
            let json = apart(move || serde_json::from_slice::<IgnoredAny>(&read).map(drop)).await;
            json.map_err(|error| ConfigError::Malformed {
                kind: kind.clone(),
                line: error.line(),
                cause: error.to_string(),
            })?;
            let content = self.bundles().put(text).await?;
            put.insert(kind, Drafted { content, at: self.now_ms(), by: by.to_owned() });
        }
        self.change_draft(agent, expect, |draft| {
            if whole {
                draft.kinds.clear();
            }
            draft.kinds.extend(put.clone());
            let found = draft.kinds.len();
            if found <= KINDS_MAX {
                return Ok(());
            }
            Err(ConfigError::unfit("kinds", format!("there would be {found}, and {KINDS_MAX} are the limit")))
        })
        .await
    }

    /// Takes a kind out of a draft.
    ///
    /// # Errors
    /// [`ConfigError::NotFound`] if it has none.
    pub async fn remove_draft(&self, agent: &str, kind: &str, expect: Option<u64>) -> Result<u64, ConfigError> {
        let changed = self.change_draft(agent, expect, |draft| {
            draft.kinds.remove(kind).map(drop).ok_or(ConfigError::NotFound("kind in the draft"))
        });
        Ok(changed.await?.0)
    }

    async fn change_draft(
        &self,
        agent: &str,
        expect: Option<u64>,
        change: impl Fn(&mut Draft) -> Result<(), ConfigError>,
    ) -> Result<(u64, Draft), ConfigError> {
        for _ in 0..TRIES_MAX {
            let (found, mut draft) = self.draft(agent).await?;
            if let Some(expected) = expect.filter(|expected| *expected != found) {
                return Err(ConfigError::DraftChanged { found, expected });
            }
            change(&mut draft)?;
            let put = PutDocument {
                key: DocumentKey::new(DRAFT, agent),
                expect: Some(found),
                body: json_of(&draft)?,
                ttl_ms: None,
                history: 0,
            };
            match self.client.advance(vec![put], Vec::new()).await {
                Ok(_) => return Ok((found + 1, draft)),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ConfigError::State("others changed the draft each time: try again".to_owned()))
    }
}
