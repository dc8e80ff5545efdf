//! Turn tokens: what entitles an agent to act on behalf of one attempt at a turn.
//!
//! A token is signed, not stored: it names the attempt's fence, and whether that still stands is asked of the core with
//! every call. It is worth nothing when the attempt is over.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use mainspring_client::{RunId, TenantId};
use sha2::Sha256;

use crate::calls::Grant;
use crate::settings::millis;

/// What tokens begin with, so that people and scanners know one when they see it.
const PREFIX: &str = "mst_";
const MAC_BYTES: usize = 32;
/// Tenant, turn, group, position, expiry, two times to live, whether words commit.
const FIXED_BYTES: usize = 16 + 16 + 16 + 4 + 8 + 8 + 8 + 1;

/// What callback tokens begin with.
const CALLBACK_PREFIX: &str = "msc_";
/// Tenant, run, expiry.
const CALLBACK_FIXED_BYTES: usize = 16 + 16 + 8;

/// Whose outcome a callback token entitles to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackGrant {
    /// The tenant.
    pub tenant: TenantId,
    /// The execution's run.
    pub run: RunId,
    /// The step of it.
    pub step: String,
}

/// Makes and checks turn tokens. Cheap to clone.
#[derive(Clone)]
pub struct TurnTokens {
    key: [u8; 32],
}

/// A token that entitles to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Not one of ours.
    #[error("this is not a turn token of this server")]
    Unknown,
    /// Its time is over.
    #[error("this turn token has expired")]
    Expired,
}

impl TurnTokens {
    /// With a secret that stays the same over restarts, so that an agent at work is still known after one.
    pub fn new(key: [u8; 32]) -> Self {
        TurnTokens { key }
    }

    /// A token for a grant, until a time (milliseconds since the Unix epoch).
    pub fn sign(&self, grant: &Grant, expires_at: u64) -> String {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + grant.session.len() + MAC_BYTES);
        bytes.extend_from_slice(&grant.tenant.to_bytes());
        bytes.extend_from_slice(&grant.turn.to_bytes());
        bytes.extend_from_slice(&grant.group.to_bytes());
        bytes.extend_from_slice(&grant.position.to_be_bytes());
        bytes.extend_from_slice(&expires_at.to_be_bytes());
        bytes.extend_from_slice(&millis(grant.artifact_ttl).to_be_bytes());
        bytes.extend_from_slice(&millis(grant.effect_ttl).to_be_bytes());
        bytes.push(u8::from(grant.streaming_commits));
        bytes.extend_from_slice(grant.session.as_bytes());
        let mac = self.mac(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The grant of a token.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn check(&self, token: &str, now: u64) -> Result<Grant, BadToken> {
        let text = token.strip_prefix(PREFIX).ok_or(BadToken::Unknown)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken::Unknown)?;
        let at = bytes.len().checked_sub(MAC_BYTES).ok_or(BadToken::Unknown)?;
        let (body, mac) = bytes.split_at(at);
        self.mac(body).verify_slice(mac).map_err(|_| BadToken::Unknown)?;
        read(body, now).ok_or(BadToken::Unknown)?
    }

    /// A token with which whoever carries out a tool may say what came of one step of one execution.
    pub fn sign_callback(&self, callback: &CallbackGrant, expires_at: u64) -> String {
        let mut bytes = Vec::with_capacity(CALLBACK_FIXED_BYTES + callback.step.len() + MAC_BYTES);
        bytes.extend_from_slice(&callback.tenant.to_bytes());
        bytes.extend_from_slice(&callback.run.to_bytes());
        bytes.extend_from_slice(&expires_at.to_be_bytes());
        bytes.extend_from_slice(callback.step.as_bytes());
        let mac = self.mac(&[CALLBACK_PREFIX.as_bytes(), &bytes].concat()).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        format!("{CALLBACK_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a callback token entitles to.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn check_callback(&self, token: &str, now: u64) -> Result<CallbackGrant, BadToken> {
        let text = token.strip_prefix(CALLBACK_PREFIX).ok_or(BadToken::Unknown)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken::Unknown)?;
        let at = bytes.len().checked_sub(MAC_BYTES).ok_or(BadToken::Unknown)?;
        let (body, mac) = bytes.split_at(at);
        self.mac(&[CALLBACK_PREFIX.as_bytes(), body].concat()).verify_slice(mac).map_err(|_| BadToken::Unknown)?;
        let wide = |at: usize| Some(u128::from_be_bytes(body.get(at..at + 16)?.try_into().ok()?));
        let read = || {
            let expires_at = u64::from_be_bytes(body.get(32..40)?.try_into().ok()?);
            let step = String::from_utf8(body.get(CALLBACK_FIXED_BYTES..)?.to_vec()).ok()?;
            Some((CallbackGrant { tenant: TenantId(wide(0)?), run: RunId(wide(16)?), step }, expires_at))
        };
        let (grant, expires_at) = read().ok_or(BadToken::Unknown)?;
        if expires_at <= now { Err(BadToken::Expired) } else { Ok(grant) }
    }

    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            unreachable!("an HMAC takes keys of any length")
        };
        mac.update(bytes);
        mac
    }
}

impl Grant {
    /// What a token says, taken at its word. For functions in this process, which could act without one as well: whether
    /// the attempt still stands is checked with every call all the same.
    pub fn of_token(token: &str) -> Option<Grant> {
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
        read(bytes.get(..bytes.len().checked_sub(MAC_BYTES)?)?, 0)?.ok()
    }
}

/// A text without the turn tokens in it, for whoever may look and not act.
pub fn without_tokens(text: &str) -> String {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PREFIX) {
        let behind = &rest[at + PREFIX.len()..];
        let length = behind.find(|c| !is_of_token(c)).unwrap_or(behind.len());
        shown.push_str(&rest[..at]);
        shown.push_str(PREFIX);
        shown.push('…');
        rest = &behind[length..];
    }
    shown.push_str(rest);
    shown
}

fn read(body: &[u8], now: u64) -> Option<Result<Grant, BadToken>> {
    let wide = |at: usize| Some(u128::from_be_bytes(body.get(at..at + 16)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let grant = Grant {
        tenant: TenantId(wide(0)?),
        turn: RunId(wide(16)?),
        group: RunId(wide(32)?),
        position: u32::from_be_bytes(body.get(48..52)?.try_into().ok()?),
        artifact_ttl: Duration::from_millis(long(60)?),
        effect_ttl: Duration::from_millis(long(68)?),
        streaming_commits: *body.get(76)? != 0,
        session: std::str::from_utf8(body.get(FIXED_BYTES..)?).ok()?.to_owned(),
    };
    let expires_at = long(52)?;
    Some(if now >= expires_at { Err(BadToken::Expired) } else { Ok(grant) })
}

impl std::fmt::Debug for TurnTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TurnTokens(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            tenant: TenantId(5),
            turn: RunId(7),
            position: 9,
            group: RunId(6),
            session: "5:orders:anna:web".to_owned(),
            artifact_ttl: Duration::from_secs(60),
            effect_ttl: Duration::from_secs(90),
            streaming_commits: true,
        }
    }

    #[test]
    fn a_token_says_what_it_was_made_for_until_its_time_is_over() {
        let tokens = TurnTokens::new([3; 32]);
        let token = tokens.sign(&grant(), 1_000);
        assert_eq!(tokens.check(&token, 999), Ok(grant()));
        assert_eq!(Grant::of_token(&token), Some(grant()));
        let other = Grant { streaming_commits: false, ..grant() };
        assert_eq!(tokens.check(&tokens.sign(&other, 1_000), 999), Ok(other));
        assert_eq!(tokens.check(&token, 1_000), Err(BadToken::Expired));
    }

    #[test]
    fn a_text_is_shown_without_the_tokens_in_it() {
        let token = TurnTokens::new([3; 32]).sign(&grant(), 1_000);
        let shown = without_tokens(&format!("{{\"token\":\"{token}\",\"x\":\"{token}\"}} and mst_"));
        assert_eq!(shown, "{\"token\":\"mst_…\",\"x\":\"mst_…\"} and mst_…");
        assert_eq!(without_tokens("nothing of that kind"), "nothing of that kind");
    }

    #[test]
    fn whoever_changes_a_token_or_has_another_secret_has_nothing() {
        let tokens = TurnTokens::new([3; 32]);
        let token = tokens.sign(&grant(), 1_000);
        assert_eq!(TurnTokens::new([4; 32]).check(&token, 0), Err(BadToken::Unknown));
        for at in PREFIX.len()..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            // The last character of base64 may carry bits that mean nothing; such a change is none.
            if URL_SAFE_NO_PAD.decode(&changed[PREFIX.len()..]).is_ok() {
                assert_eq!(tokens.check(&changed, 0), Err(BadToken::Unknown), "changed at {at}");
            }
        }
        for nonsense in ["", "mst_", "mst_AAAA", "Bearer x"] {
            assert_eq!(tokens.check(nonsense, 0), Err(BadToken::Unknown));
        }
    }
}
