//! Tokens.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use mainspring_core::row::TokenRow;
use mainspring_core::{Command, Table, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Path, id, json_body};
use crate::auth::{Caller, Grant, Scope};
use crate::problem::Problem;
use crate::state::AppState;

/// Days a token lasts unless said otherwise.
const TTL_DAYS_DEFAULT: u64 = 90;
/// Days a token may last.
const TTL_DAYS_MAX: u64 = 3_650;

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it is for, for people.
    name: String,
    /// What it may do: `read`, `write`, `admin`. `read` and `write` by default.
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// How long it lasts, in days. 90 by default.
    #[serde(default)]
    ttl_days: Option<u64>,
}

/// A token made. This is the only time it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenCreated {
    /// Its id.
    id: String,
    /// The token itself.
    token: String,
    /// When it ends, in milliseconds since the Unix epoch.
    expires_at: u64,
}

/// A token in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenView {
    id: String,
    name: String,
    scopes: Vec<String>,
    created_at: u64,
    expires_at: u64,
    revoked_at: Option<u64>,
}

/// A list of tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenList {
    tokens: Vec<TokenView>,
}

/// Makes a token for the caller's tenant.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = CreateToken,
    responses((status = 201, body = TokenCreated), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<TokenCreated>), Problem> {
    caller.must_have(Scope::Admin)?;
    let asked: CreateToken = json_body(body, 64 * 1024).await?;
    let words = asked.scopes.unwrap_or_else(|| vec!["read".to_owned(), "write".to_owned()]);
    let scopes = words.iter().map(|word| Scope::from_word(word).ok_or(word)).collect::<Result<Vec<_>, _>>();
    let scopes = scopes.map_err(|word| {
        Problem::bad_request("scope_unknown", format!("{word:?} is not a scope"), "use read, write or admin")
    })?;
    let days = asked.ttl_days.unwrap_or(TTL_DAYS_DEFAULT);
    if days == 0 || days > TTL_DAYS_MAX || scopes.is_empty() {
        let action = format!("use ttl_days between 1 and {TTL_DAYS_MAX}, and at least one scope");
        return Err(Problem::bad_request("token_malformed", "such a token would be of no use, or never end", action));
    }
    let token = make(&state, caller.tenant, &asked.name, &scopes, days * 24 * 60 * 60).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Makes and records a token.
///
/// # Errors
/// Those of recording it.
pub async fn make(
    state: &AppState,
    tenant: mainspring_client::TenantId,
    name: &str,
    scopes: &[Scope],
    ttl_s: u64,
) -> Result<TokenCreated, Problem> {
    let broken = |what: &str| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "token_unsigned", what, "look at the server's log")
    };
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| broken("the system gave no randomness"))?;
    let token_id = TokenId(u128::from_le_bytes(random));
    let options = state.options();
    let grant = Grant {
        id: token_id,
        tenant,
        scopes,
        ttl_s,
        server_url: &options.public_url,
        grpc_address: &options.grpc_address,
    };
    let (token, claims) = state.auth().keys().sign(&grant).map_err(|_| broken("the token could not be signed"))?;
    let expires_at = claims.exp.saturating_mul(1_000);
    let put = Command::PutToken { token: token_id, name: name.to_owned(), scopes: claims.scopes, expires_at };
    state.engine().submit(tenant, put).await?;
    Ok(TokenCreated { id: token_id.to_string(), token, expires_at })
}

impl TokenCreated {
    /// The token itself.
    pub fn token(&self) -> &str {
        &self.token
    }
}

/// Lists the tenant's tokens, without the tokens themselves.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens",
    responses((status = 200, body = TokenList), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<TokenList>, Problem> {
    caller.must_have(Scope::Admin)?;
    let tenant = caller.tenant;
    let rows: Vec<(u128, TokenRow)> =
        state.engine().read(tenant, move |reader| reader.all(tenant, Table::Token)).await?;
    let tokens = rows.into_iter().map(|(id, row)| TokenView {
        id: TokenId(id).to_string(),
        name: row.name,
        scopes: row.scopes,
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
    });
    Ok(Json(TokenList { tokens: tokens.collect() }))
}

/// Revokes a token. It is refused from the moment this is answered, and its streams end.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem)),
)]
pub async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Path(token): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_have(Scope::Admin)?;
    let token = id("token", &token)?;
    state.engine().submit(caller.tenant, Command::RevokeToken { token }).await?;
    state.engine().hub().mark_revoked(token);
    Ok(StatusCode::NO_CONTENT)
}
