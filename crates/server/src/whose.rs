//! Whose a request is, before it is handled: the tenant its token, its address or its cookie names.
//!
//! The handlers find the same tenant by the same means, and check what it may do. Here it only decides where they run.

use std::collections::BTreeMap;

use axum::extract::Query;
use axum::http::header;
use axum::http::request::Parts;
use mainspring_client::TenantId;
use serde::Deserialize;

use crate::api::incoming::Placed;
use crate::auth::{Auth, bearer, cookie, now_s};

/// The tenant a request is about; `None` if it is about none, or its token is not ours: any partition refuses that alike.
pub fn whose(parts: &Parts, auth: &Auth, integrations: &BTreeMap<String, Placed>) -> Option<TenantId> {
    #[derive(Deserialize)]
    struct WithToken {
        token: Option<String>,
    }
    if let Some(id) = parts.uri.path().strip_prefix("/v1/incoming/") {
        return integrations.get(id).map(|placed| placed.tenant);
    }
    if parts.headers.contains_key(header::AUTHORIZATION) {
        return of_token(bearer(parts)?, auth);
    }
    if let Ok(Query(WithToken { token: Some(token) })) = Query::try_from_uri(&parts.uri) {
        return of_token(&token, auth);
    }
    of_token(cookie(parts)?, auth)
}

fn of_token(token: &str, auth: &Auth) -> Option<TenantId> {
    let (turn_tokens, now) = (auth.keys().turn_tokens(), now_s() * 1_000);
    if let Ok(grant) = turn_tokens.check(token, now) {
        return Some(grant.tenant);
    }
    if let Ok(grant) = turn_tokens.check_callback(token, now) {
        return Some(grant.tenant);
    }
    auth.caller(token).map(|caller| caller.tenant)
}
