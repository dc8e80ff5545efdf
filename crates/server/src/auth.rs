//! Tokens: signed JWTs (ES256) with an expiry, an id and scopes, revocable.
//!
//! They carry what Hatchet's SDKs read as well: `sub` (the tenant), `server_url` and `grpc_broadcast_address`. The signing
//! key lies in the data directory, readable by its owner only; whoever can read it can make tokens, which is how the
//! command line on the same machine gets in.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use mainspring_client::TenantId;
use mainspring_core::TokenId;
use mainspring_flows::TurnTokens;
use mainspring_flows::seal::Sealer;
use p256::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::problem::Problem;
use crate::state::AppState;

/// The cookie the pages use.
pub const COOKIE: &str = "mainspring_token";
/// Verified tokens remembered, so that a signature is checked once rather than at each request.
const VERIFIED_MAX: usize = 10_000;
/// Bytes a token may have.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Look at everything of the tenant.
    Read,
    /// Send messages, start and cancel runs.
    Write,
    /// Make and revoke tokens.
    Admin,
    /// Look at webhooks and their deliveries, and at nothing else: for a tenant's own users.
    Webhooks,
}

impl Scope {
    /// The word in tokens.
    pub fn word(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
            Scope::Webhooks => "webhooks",
        }
    }

    /// The scope of a word.
    pub fn from_word(word: &str) -> Option<Scope> {
        [Scope::Read, Scope::Write, Scope::Admin, Scope::Webhooks].into_iter().find(|scope| scope.word() == word)
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who made it.
    pub iss: String,
    /// For whom.
    pub aud: String,
    /// The tenant.
    pub sub: String,
    /// When it was made, in seconds since the Unix epoch.
    pub iat: u64,
    /// When it ends, in seconds since the Unix epoch.
    pub exp: u64,
    /// Its id.
    pub token_id: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Where the HTTP API is.
    pub server_url: String,
    /// Where the gRPC API is.
    pub grpc_broadcast_address: String,
}

/// The signing key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Its file can't be read or written.
    #[error("the signing key {path} can't be used: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not a key.
    #[error(
        "{path} is not an EC P-256 key in PEM: restore it, or remove it to make a new one (all tokens end with it): {cause}"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// No randomness.
    #[error("the system gave no randomness for a key: {0}")]
    Random(String),
}

/// The key pair that signs tokens.
#[derive(Clone)]
pub struct Keys {
    signing: EncodingKey,
    verifying: DecodingKey,
    turn_tokens: TurnTokens,
    sealer: Sealer,
    fingerprint: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Loads the key from a data directory, making one if there is none.
    ///
    /// # Errors
    /// [`KeysError`] names the file.
    pub fn load_or_create(dir: &Path) -> Result<Keys, KeysError> {
        let path = dir.join("keys").join("signing.pem");
        if let Some(keys) = Keys::load(&path)? {
            return Ok(keys);
        }
        let pem = new_pem(&path)?;
        write_secret(&path, &pem).map_err(|source| KeysError::File { path: path.clone(), source })?;
        Keys::from_pem(&pem, &path)
    }

    /// Loads the key from a file, if there is one.
    ///
    /// # Errors
    /// [`KeysError`] names the file.
    pub fn load(path: &Path) -> Result<Option<Keys>, KeysError> {
        match fs::read_to_string(path) {
            Ok(pem) => Keys::from_pem(&pem, path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeysError::File { path: path.to_owned(), source }),
        }
    }

    fn from_pem(pem: &str, path: &Path) -> Result<Keys, KeysError> {
        let malformed = |cause: String| KeysError::Malformed { path: path.to_owned(), cause };
        let secret = <p256::SecretKey as p256::pkcs8::DecodePrivateKey>::from_pkcs8_pem(pem)
            .map_err(|e| malformed(e.to_string()))?;
        let public = secret.public_key().to_public_key_pem(LineEnding::LF).map_err(|e| malformed(e.to_string()))?;
        // Of its own, so that a turn token says nothing about the signing key.
        let for_turns =
            Sha256::new().chain_update(b"mainspring turn tokens").chain_update(secret.to_bytes()).finalize();
        let for_secrets =
            Sha256::new().chain_update(b"mainspring sealed secrets").chain_update(secret.to_bytes()).finalize();
        let digest = Sha256::digest(public.as_bytes());
        Ok(Keys {
            fingerprint: digest[..16].iter().map(|byte| format!("{byte:02x}")).collect(),
            turn_tokens: TurnTokens::new(for_turns.into()),
            sealer: Sealer::new(for_secrets.into()),
            signing: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|e| malformed(e.to_string()))?,
            verifying: DecodingKey::from_ec_pem(public.as_bytes()).map_err(|e| malformed(e.to_string()))?,
        })
    }

    /// What tokens for turns' attempts are signed with. They stay good over restarts.
    pub fn turn_tokens(&self) -> &TurnTokens {
        &self.turn_tokens
    }

    /// Which key it is, in a form that tells nothing of it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What keeps the secrets of tenants. They are lost with the signing key.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Signs a token for a tenant. Recording it, so that it can be listed and revoked, is the caller's business.
    ///
    /// # Errors
    /// What the signer said; it does not fail for a key that loaded.
    pub fn sign(&self, grant: &Grant<'_>) -> Result<(String, Claims), jsonwebtoken::errors::Error> {
        let now = now_s();
        let claims = Claims {
            iss: grant.server_url.to_owned(),
            aud: grant.server_url.to_owned(),
            sub: grant.tenant.to_string(),
            iat: now,
            exp: now.saturating_add(grant.ttl_s),
            token_id: grant.id.to_string(),
            scopes: grant.scopes.iter().map(|scope| scope.word().to_owned()).collect(),
            server_url: grant.server_url.to_owned(),
            grpc_broadcast_address: grant.grpc_address.to_owned(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing)?;
        Ok((token, claims))
    }

    fn verify(&self, token: &str) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_aud = false;
        validation.leeway = 0;
        jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation).ok().map(|data| data.claims)
    }
}

/// What a token is to say.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// Its id.
    pub id: TokenId,
    /// Its tenant.
    pub tenant: TenantId,
    /// What it may do.
    pub scopes: &'a [Scope],
    /// How long, in seconds.
    pub ttl_s: u64,
    /// Where the HTTP API is.
    pub server_url: &'a str,
    /// Where the gRPC API is.
    pub grpc_address: &'a str,
}

/// A verified caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose data the call is about.
    pub tenant: TenantId,
    /// The token.
    pub token: TokenId,
    /// Shared with those who remember the token: a caller is made anew for each request.
    scopes: Arc<[String]>,
    expires_s: u64,
}

impl Caller {
    /// Whether the token has come to its end, for those who hold it for longer than one request.
    pub fn expired(&self) -> bool {
        self.expires_s <= now_s()
    }

    /// Goes on if the token may look at webhooks: `webhooks` may, and `read`.
    ///
    /// # Errors
    /// A 403 that names the scope.
    pub fn may_see_webhooks(&self) -> Result<(), Problem> {
        self.must_have(Scope::Read).or_else(|_| self.must_have(Scope::Webhooks))
    }

    /// Goes on if the token has the scope. `admin` has all.
    ///
    /// # Errors
    /// A 403 that names the scope.
    pub fn must_have(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.iter().any(|have| have == scope.word() || have == Scope::Admin.word()) {
            return Ok(());
        }
        let detail = format!("the token has the scopes {:?}, this call needs {:?}", self.scopes, scope.word());
        let action = format!("use a token made with --scopes {}", scope.word());
        Err(Problem::new(StatusCode::FORBIDDEN, "scope_missing", detail, action))
    }
}

/// Checks tokens.
#[derive(Debug)]
pub struct Auth {
    keys: Keys,
    verified: Mutex<HashMap<[u8; 32], Caller>>,
}

impl Auth {
    /// Checks tokens signed by these keys.
    pub fn new(keys: Keys) -> Self {
        Auth { keys, verified: Mutex::new(HashMap::new()) }
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Who calls with this token, if it is genuine and has not ended.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        let caller = match known {
            Some(caller) => caller,
            None => {
                let claims = self.keys.verify(token)?;
                let caller = Caller {
                    tenant: claims.sub.parse().ok()?,
                    token: claims.token_id.parse().ok()?,
                    scopes: claims.scopes.into(),
                    expires_s: claims.exp,
                };
                let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
                if verified.len() >= VERIFIED_MAX {
                    verified.clear();
                }
                verified.insert(hash, caller.clone());
                caller
            }
        };
        (!caller.expired()).then_some(caller)
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let refused = |detail: &str| {
            let action = "send 'Authorization: Bearer <token>' with a token from 'mainspring token create'";
            Problem::new(StatusCode::UNAUTHORIZED, "token_invalid", detail, action)
        };
        let (token, from_cookie) = match bearer(parts) {
            Some(token) => (token, false),
            None => (cookie(parts).ok_or_else(|| refused("the request carries no token"))?, true),
        };
        let caller = state
            .auth()
            .caller(token)
            .ok_or_else(|| refused("the token is not one of this server's, or has expired"))?;
        if state.engine().hub().is_revoked(caller.token) {
            return Err(refused("the token was revoked"));
        }
        // A cookie is sent by the browser whoever asked; a form or script of another site must not be able to use it.
        if from_cookie && !parts.method.is_safe() && !same_origin(parts) {
            let action = "call from the server's own pages, or send the token in the Authorization header";
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "cross_site",
                "the request comes from another site",
                action,
            ));
        }
        Ok(caller)
    }
}

pub(crate) fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

pub(crate) fn cookie(parts: &Parts) -> Option<&str> {
    let values = parts.headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, token)| token)
}

fn same_origin(parts: &Parts) -> bool {
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    match (text("sec-fetch-site"), text("origin"), text("host")) {
        (Some(site), _, _) => site == "same-origin",
        (None, Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, rest)| rest == host),
        (None, _, _) => false,
    }
}

fn new_pem(path: &Path) -> Result<String, KeysError> {
    // Nearly every 256-bit number is a valid key; the loop ends at the first draw but for one in 2^32.
    loop {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| KeysError::Random(error.to_string()))?;
        if let Ok(secret) = p256::SecretKey::from_slice(&random) {
            let pem = secret.to_pkcs8_pem(LineEnding::LF);
            let malformed = |cause: String| KeysError::Malformed { path: path.to_owned(), cause };
            return Ok(pem.map_err(|e| malformed(e.to_string()))?.to_string());
        }
    }
}

fn write_secret(path: &Path, pem: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()
}

/// Seconds since the Unix epoch.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
