//! What became of deliveries: the tries, as events in the subscription's scope, and the dead letters, as documents.

use mainspring_client::{ClientError, DocumentKey};
use serde::{Deserialize, Serialize};

use super::delivery::{Attempt, Owed};
use super::{ATTEMPT_EVENT, DEAD, Webhooks, scope_of};

/// Tries one look gives at most.
pub const PAGE_MAX: usize = 200;
/// Events of a subscription's scope looked at for one page of tries: others lie between them.
const EXAMINED_MAX: usize = 2_000;

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What was owed.
    pub owed: Owed,
    /// The last try.
    pub last: Attempt,
    /// How many there were.
    pub attempts: u32,
    /// When it was given up.
    pub died_at: u64,
    /// When it was last sent again because a person asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<u64>,
}

/// The name of a dead letter: those of one subscription lie together, in the order of their events.
pub(super) fn dead_name(subscription: &str, seq: u64) -> String {
    format!("{subscription}/{seq:016x}")
}

impl Webhooks {
    /// The latest tries of a subscription before a position, newest first, and where the next page begins. May lag.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn attempts(
        &self,
        subscription: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Attempt>, Option<u64>), ClientError> {
        let (scope, limit) = (scope_of(subscription), limit.clamp(1, PAGE_MAX));
        let (mut found, mut before, mut examined) = (Vec::new(), before.unwrap_or(u64::MAX), 0);
        while examined < EXAMINED_MAX {
            let events = self.client.events_before(Some(&scope), before, PAGE_MAX).await?;
            let last = events.len() < PAGE_MAX;
            for (seq, event) in events {
                (before, examined) = (seq, examined + 1);
                if event.name != ATTEMPT_EVENT {
                    continue;
                }
                if let Ok(attempt) = serde_json::from_slice(&event.data) {
                    found.push(attempt);
                }
                if found.len() == limit {
                    return Ok((found, Some(before)));
                }
            }
            if last {
                return Ok((found, None));
            }
        }
        Ok((found, Some(before)))
    }

    /// Dead letters of a subscription after one, in the order of their events, each with its version; and the event the
    /// next page begins after. May lag.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn dead_letters(
        &self,
        subscription: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<(u64, DeadLetter)>, Option<u64>), ClientError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let after = after.map(|seq| dead_name(subscription, seq));
        let prefix = format!("{subscription}/");
        let rows = self.client.documents_after(DEAD, &prefix, after.as_deref(), limit).await?;
        let full = rows.len() == limit;
        let read: Vec<(u64, DeadLetter)> = rows
            .into_iter()
            .filter_map(|(_, row)| Some((row.version, serde_json::from_slice(&row.body).ok()?)))
            .collect();
        let next = read.last().filter(|_| full).map(|(_, letter)| letter.owed.seq);
        Ok((read, next))
    }

    /// One dead letter, with its version.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn dead_letter(&self, subscription: &str, seq: u64) -> Result<Option<(u64, DeadLetter)>, ClientError> {
        let row = self.client.document(DocumentKey::new(DEAD, dead_name(subscription, seq))).await?;
        Ok(row.and_then(|row| Some((row.version, serde_json::from_slice(&row.body).ok()?))))
    }
}
