//! The session key: `{tenant}:{agent}:{interlocutor}:{channel}`. Built and taken apart here and nowhere else.

use std::fmt;

use mainspring_client::TenantId;

/// Bytes of one part. Four parts and the tenant stay well below the limit of a key.
const PART_BYTES_MAX: usize = 200;

/// What one conversation is serialised by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Whose.
    pub tenant: TenantId,
    /// Which agent answers.
    pub agent: String,
    /// Who talks to it.
    pub interlocutor: String,
    /// Over which channel.
    pub channel: String,
}

/// A part that can't be used in a session key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part} {value:?} can't be part of a session key: use 1 to {PART_BYTES_MAX} bytes without ':', '/' and control characters"
)]
pub struct BadSessionKey {
    /// Which part.
    pub part: &'static str,
    /// What was given.
    pub value: String,
}

impl SessionKey {
    /// Builds a key.
    ///
    /// # Errors
    /// [`BadSessionKey`] names the part to change.
    pub fn new(tenant: TenantId, agent: &str, interlocutor: &str, channel: &str) -> Result<Self, BadSessionKey> {
        let part = |part: &'static str, value: &str| {
            let fits = !value.is_empty() && value.len() <= PART_BYTES_MAX;
            if fits && !value.chars().any(|c| c == ':' || c == '/' || c.is_control()) {
                Ok(value.to_owned())
            } else {
                Err(BadSessionKey { part, value: value.chars().take(40).collect() })
            }
        };
        Ok(SessionKey {
            tenant,
            agent: part("agent", agent)?,
            interlocutor: part("interlocutor", interlocutor)?,
            channel: part("channel", channel)?,
        })
    }

    /// Takes a key apart that [`SessionKey`]'s `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let tenant = parts.next()?.parse().ok()?;
        let (agent, interlocutor, channel) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        SessionKey::new(tenant, agent, interlocutor, channel).ok()
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.tenant, self.agent, self.interlocutor, self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_as_it_went() {
        let key = SessionKey::new(TenantId(5), "orders", "anna@example", "web").expect("valid");
        assert_eq!(SessionKey::parse(&key.to_string()), Some(key));
    }

    #[test]
    fn a_part_that_would_forge_another_key_is_refused() {
        for bad in ["", "a:b", "a/b", "a\nb", &"x".repeat(PART_BYTES_MAX + 1)] {
            let refused = SessionKey::new(TenantId(5), "orders", bad, "web").expect_err("refused");
            assert_eq!(refused.part, "interlocutor");
        }
    }
}
