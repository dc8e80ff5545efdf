//! Calls to addresses that strangers choose: webhooks' endpoints, tools. What may be called is a [`Policy`], checked on
//! the URL and again on every address its name stands for when a connection is made. Redirects are not followed, proxies
//! of the environment not used; what an answer may cost in time and memory is limited.
//!
//! What this module does not know: what is said, to whom it matters, and when to try again.

pub mod address;
mod http;
pub mod policy;
mod resolve;
mod trust;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

pub use http::{EgressOptions, HttpEgress};
pub use policy::{Policy, Refused};
pub(crate) use trust::tls;

use crate::outside::Calling;

/// Bytes a request's body may have.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes a request's own headers may have.
pub const REQUEST_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an answer's headers that are read.
pub const ANSWER_HEADER_BYTES_MAX: usize = 16 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `POST` and the like.
    pub method: &'static str,
    /// Where.
    pub url: String,
    /// Headers, which may be secrets.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// What a call may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// From the beginning to the end of the answer.
    pub time: Duration,
    /// Bytes of the answer's body that are kept. What is beyond is not read, and the connection closed.
    pub body_bytes_max: usize,
}

/// An answer. Its status is known, and as much of its body as came in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body's beginning.
    pub body: Bytes,
    /// Whether that is all of it.
    pub end: BodyEnd,
    /// How long it took until the status came.
    pub answered_ms: u64,
    /// How long it took in all.
    pub took_ms: u64,
    /// Whom it came from.
    pub remote: Option<SocketAddr>,
}

/// How the reading of a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// It is whole.
    Whole,
    /// There is more of it than is kept.
    Cut,
    /// It broke off, or did not come in time.
    Broken,
}

/// A call without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It may not be called. Nothing left.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No connection was made: the name, the network or TLS. The request never left.
    #[error("{0}")]
    Unreached(String),
    /// It was sent, or may have been, and no answer came: it may have been carried out.
    #[error("{0}")]
    Unanswered(String),
}

impl Fault {
    /// Whether it is certain that the request never left.
    pub fn never_left(&self) -> bool {
        match self {
            Fault::Refused(_) | Fault::Unreached(_) => true,
            Fault::Unanswered(_) => false,
        }
    }
}

impl Answer {
    /// The first header of a name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// How long the answer asks to wait (`Retry-After`, in seconds or as a date), in milliseconds from `now_ms`.
    pub fn retry_after_ms(&self, now_ms: u64) -> Option<u64> {
        let asked = self.header("retry-after")?.trim();
        if let Ok(seconds) = asked.parse::<u64>() {
            return Some(seconds.saturating_mul(1_000));
        }
        let at = jiff::fmt::rfc2822::parse(asked).ok()?.timestamp().as_millisecond();
        u64::try_from(at).ok().map(|at| at.saturating_sub(now_ms))
    }
}

/// Whoever carries calls out: over HTTP in production; a simulator has its own.
pub trait Egress: Send + Sync {
    /// Checks a URL as [`Egress::call`] will, as far as that is possible without a connection.
    ///
    /// # Errors
    /// [`Refused`] says what to change.
    fn check(&self, url: &str) -> Result<(), Refused>;

    /// Calls once. `heard` gets the body's pieces as they come, and ends the reading by answering false.
    ///
    /// # Errors
    /// [`Fault`], which says whether the request may have been carried out. Any answer with a status is an [`Answer`].
    fn call_hearing<'a>(
        &'a self,
        request: Request,
        limits: CallLimits,
        heard: &'a mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Calling<'a, Result<Answer, Fault>>;

    /// Calls once.
    ///
    /// # Errors
    /// As [`Egress::call_hearing`].
    fn call(&self, request: Request, limits: CallLimits) -> Calling<'_, Result<Answer, Fault>> {
        Box::pin(async move { self.call_hearing(request, limits, &mut |_| true).await })
    }
}

#[cfg(test)]
mod tests;
