//! Secrets at rest: what tenants give into our keeping is stored sealed, and opened where it is used.
//!
//! Sealed with XChaCha20-Poly1305 under a key that lies beside the data, not in it; what it belongs to is part of the
//! seal, so that one tenant's can't be put in another's place.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};

use crate::settings::Secret;

const NONCE_BYTES: usize = 24;

/// A secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

/// Seals and opens.
#[derive(Clone)]
pub struct Sealer(XChaCha20Poly1305);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// One with this key.
    pub fn new(key: [u8; 32]) -> Self {
        Sealer(XChaCha20Poly1305::new(&key.into()))
    }

    /// Seals a secret for what it belongs to. `chance` is drawn anew each time.
    pub fn seal(&self, secret: &Secret, belongs_to: &str, chance: [u128; 2]) -> Sealed {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..16].copy_from_slice(&chance[0].to_le_bytes());
        nonce[16..].copy_from_slice(&chance[1].to_le_bytes()[..NONCE_BYTES - 16]);
        let payload = Payload { msg: secret.0.as_bytes(), aad: belongs_to.as_bytes() };
        let Ok(sealed) = self.0.encrypt(&XNonce::from(nonce), payload) else {
            unreachable!("what fits into memory can be sealed")
        };
        Sealed(STANDARD.encode([&nonce[..], &sealed].concat()))
    }

    /// Opens what was sealed for the same. `None` if it was not, or under another key.
    pub fn open(&self, sealed: &Sealed, belongs_to: &str) -> Option<Secret> {
        let bytes = STANDARD.decode(&sealed.0).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
        let opened = self.0.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: belongs_to.as_bytes() }).ok()?;
        String::from_utf8(opened).ok().map(Secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_for_its_owner_only() {
        let sealer = Sealer::new([7; 32]);
        let secret = Secret("whsec_abc".to_owned());
        let sealed = sealer.seal(&secret, "one", [1, 2]);
        assert!(!serde_json::to_string(&sealed).unwrap().contains("abc"));
        assert_eq!(sealer.open(&sealed, "one"), Some(secret.clone()));
        assert_eq!(sealer.open(&sealed, "two"), None, "it belongs to another");
        assert_eq!(Sealer::new([8; 32]).open(&sealed, "one"), None, "another key");
        assert_ne!(sealer.seal(&secret, "one", [3, 4]), sealed, "the same secret looks different each time");
        assert_eq!(sealer.open(&Sealed("AAAA".to_owned()), "one"), None);
    }
}
