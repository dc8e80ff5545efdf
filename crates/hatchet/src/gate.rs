//! Who may come in: the bearer token of a call, and the tenant it stands for.

use std::sync::Arc;

use mainspring_core::TenantId;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::status;

/// Whoever holds a good token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The tenant.
    pub tenant: TenantId,
    /// Whether the token allows to change something.
    pub writes: bool,
}

/// Reads a token; `None` for one that is not good, or not any more.
pub type Gate = Arc<dyn Fn(&str) -> Option<Caller> + Send + Sync>;

/// Who makes a call.
///
/// # Errors
/// `UNAUTHENTICATED` without a good token, `PERMISSION_DENIED` for one that only reads.
pub(crate) fn enter(gate: &Gate, metadata: &MetadataMap) -> Result<TenantId, Status> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
    let caller = bearer(header).and_then(|token| gate(token)).ok_or_else(status::unauthenticated)?;
    if !caller.writes {
        let text = "the token may only read: workers and their clients need one with the scope \"write\"";
        return Err(Status::permission_denied(text));
    }
    Ok(caller.tenant)
}

/// The token in an `authorization` header.
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
