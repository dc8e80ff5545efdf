//! A tenant's events in the order they happened in, for readers that remember how far they came.
//!
//! A reader keeps the number of the last event it is done with in a document of the kind [`FEED_POSITION`], and moves it
//! with what follows from the events in one decision ([`Client::advance`]). Retention waits for it.

use bytes::Bytes;
use mainspring_core::command::Start;
use mainspring_core::row::EventRow;
use mainspring_core::{Command, DocumentKey, FEED_POSITION, PutDocument, Reply, RunId};

use crate::client::{Client, ClientError};

/// How far a reader came, and the version of the document that says so, with which it is moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedPosition {
    /// The number of the last event it is done with.
    pub seq: u64,
    /// The document's version; 0 if there is none.
    pub version: u64,
}

impl FeedPosition {
    /// The document that moves a reader from here to `seq`, if nobody has moved it meanwhile.
    pub fn moved_to(self, reader: &str, seq: u64) -> PutDocument {
        PutDocument {
            key: DocumentKey::new(FEED_POSITION, reader),
            expect: Some(self.version),
            body: Bytes::from(seq.to_string()),
            ttl_ms: None,
            history: 0,
        }
    }
}

impl Client {
    /// Up to `limit` events of the tenant after `after`, of all scopes, in the order of their numbers and without a gap.
    /// Fewer if they are large. Shows everything that is durable.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn feed(&self, after: u64, limit: usize) -> Result<Vec<(u64, EventRow)>, ClientError> {
        let tenant = self.tenant();
        Ok(self.engine().read(tenant, move |reader| reader.feed(tenant, after, limit)).await?)
    }

    /// An event of a scope by its number, if it is kept.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn event(&self, scope: Option<&str>, seq: u64) -> Result<Option<EventRow>, ClientError> {
        Ok(self.engine().event(self.tenant(), scope, seq).await?)
    }

    /// The latest `limit` events of a scope before one, newest first. May lag.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events_before(
        &self,
        scope: Option<&str>,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(u64, EventRow)>, ClientError> {
        let (tenant, scope) = (self.tenant(), scope.map(str::to_owned));
        let read = move |reader: &mainspring_engine::Reader| {
            reader.latest_events_before(tenant, scope.as_deref(), before, limit)
        };
        Ok(self.engine().read(tenant, read).await?)
    }

    /// How far a reader came. `None` for one that has not begun.
    ///
    /// # Errors
    /// [`ClientError`]; one whose document is not a number can't be gone on with.
    pub async fn feed_position(&self, reader: &str) -> Result<Option<FeedPosition>, ClientError> {
        let Some(row) = self.document(DocumentKey::new(FEED_POSITION, reader)).await? else { return Ok(None) };
        let seq = std::str::from_utf8(&row.body).ok().and_then(|text| text.parse().ok());
        let cause = || "not a number".to_owned();
        let seq = seq.ok_or_else(|| ClientError::Json { what: "a feed's position", cause: cause() })?;
        Ok(Some(FeedPosition { seq, version: row.version }))
    }

    /// Writes documents and starts runs, all of it or nothing. Durable when it returns; answers the runs.
    ///
    /// # Errors
    /// [`ClientError::Engine`] with a refusal: a version conflict means that somebody else has moved on.
    pub async fn advance(&self, puts: Vec<PutDocument>, starts: Vec<Start>) -> Result<Vec<RunId>, ClientError> {
        match self.submit_patiently(Command::Advance { puts, starts }).await? {
            Reply::StartedAll { runs } => Ok(runs),
            other => unreachable!("what moves on is answered with the runs it starts, not {other:?}"),
        }
    }
}
