//! Which version a turn goes by: the one its session began with, as long as the rules let it. A pure function.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::job::Share;
use super::register::Register;

/// Which version a session is with, as the session remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The version.
    pub version: u64,
    /// The register's epoch when the session took it.
    pub epoch: u64,
}

/// Why a session moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its version is not there any more.
    VersionGone,
    /// Its version was left because it is bad.
    Withdrawn,
    /// Somebody asked that all move on.
    Forced,
    /// It was silent for long enough.
    Idle,
    /// The agent's sessions follow each publish.
    Follows,
    /// It is listed for the canary.
    Listed,
    /// The agent said with the last turn that this is a good moment.
    Released,
}

/// What a turn goes by, for its agent and for the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnConfig {
    /// The version.
    pub version: u64,
    /// The register's epoch when it was chosen.
    pub epoch: u64,
    /// The digest of its bundles together.
    pub digest: String,
    /// The digests of its bundles by kind.
    pub bundles: BTreeMap<String, String>,
    /// Whether it is the canary.
    #[serde(default)]
    pub canary: bool,
    /// The version the session was with before, and why it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<MovedFrom>,
}

/// A session that moved on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedFrom {
    /// The version it was with.
    pub version: u64,
    /// Why it moved.
    pub reason: Reason,
}

/// What is known of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Of<'a> {
    /// Its key.
    pub session: &'a str,
    /// What it is pinned to.
    pub pin: Option<&'a Pin>,
    /// Whether its version is there.
    pub there: bool,
    /// When its last turn ended, in milliseconds since the Unix epoch.
    pub last_active_at: u64,
    /// Whether the last turn let go of the pin.
    pub released: bool,
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The version.
    pub version: u64,
    /// Whether it is the canary.
    pub canary: bool,
    /// Why it is another than the pin's. `None` also for a session without one.
    pub moved: Option<Reason>,
}

/// The version a session's turn goes by. `None` while nothing is published.
pub fn choose(register: &Register, of: Of<'_>, now: u64) -> Option<Chosen> {
    let current = register.current()?;
    let canary = register.canary.as_ref();
    let listed = canary.is_some_and(|canary| canary.share.sessions.iter().any(|listed| listed == of.session));
    let newest = match canary {
        Some(canary) if listed || in_share(&canary.share, of.session) => canary.version,
        _ => current,
    };
    let chosen = |version, moved| {
        Some(Chosen { version, canary: canary.is_some_and(|canary| canary.version == version), moved })
    };
    let Some(pin) = of.pin else { return chosen(newest, None) };
    let reason = match register_reason(register, pin, of, now) {
        None if listed => Some(Reason::Listed),
        other => other,
    };
    match reason {
        None => chosen(pin.version, None),
        // It may well be the same again.
        Some(reason) => chosen(newest, Some(reason).filter(|_| newest != pin.version)),
    }
}

fn register_reason(register: &Register, pin: &Pin, of: Of<'_>, now: u64) -> Option<Reason> {
    let rules = &register.rules;
    if !of.there {
        Some(Reason::VersionGone)
    } else if register.withdrawn.contains(&pin.version) {
        Some(Reason::Withdrawn)
    } else if pin.epoch < register.forced_epoch {
        Some(Reason::Forced)
    } else if !rules.soft_pin {
        Some(Reason::Follows)
    } else if of.released {
        Some(Reason::Released)
    } else if now.saturating_sub(of.last_active_at) >= rules.idle_move_ms {
        Some(Reason::Idle)
    } else {
        None
    }
}

/// Whether a pin would still hold if a turn came now: then its version must not be given up.
pub fn holds(register: &Register, of: Of<'_>, now: u64) -> bool {
    of.pin.is_some_and(|pin| register_reason(register, pin, of, now).is_none())
}

/// Whether a session belongs to the part that gets a canary: the first eight bytes of its key's SHA-256, as a number, by
/// 10,000, below a hundred times the percentage. The same session stays in it when the part grows.
pub fn in_share(share: &Share, session: &str) -> bool {
    let digest = Sha256::digest(session.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first) % 10_000 < u64::from(share.percent) * 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::register::{Canary, Pointer, Rules};

    fn register() -> Register {
        let pointer =
            Pointer { version: 7, digest: "d7".to_owned(), epoch: 9, at: 0, publish_id: "p".to_owned(), reason: None };
        Register { latest: 7, epoch: 9, pointer: Some(pointer), ..Register::default() }
    }

    fn canary(percent: u32, sessions: &[&str]) -> Option<Canary> {
        let sessions = sessions.iter().map(|one| (*one).to_owned()).collect();
        Some(Canary { version: 8, digest: "d8".to_owned(), share: Share { percent, sessions }, at: 0 })
    }

    const PIN: Pin = Pin { version: 5, epoch: 6 };
    const OF: Of<'static> =
        Of { session: "t:orders:anna:web", pin: Some(&PIN), there: true, last_active_at: 1_000, released: false };

    fn chosen(register: &Register, of: Of<'_>) -> (u64, Option<Reason>) {
        let chosen = choose(register, of, 2_000).expect("something is published");
        (chosen.version, chosen.moved)
    }

    #[test]
    fn a_session_stays_with_its_version_until_a_rule_lets_it_go() {
        let plain = register();
        assert_eq!(chosen(&plain, OF), (5, None));
        assert_eq!(chosen(&plain, Of { pin: None, ..OF }), (7, None), "a new one takes the newest");
        assert_eq!(chosen(&plain, Of { there: false, ..OF }), (7, Some(Reason::VersionGone)));
        assert_eq!(chosen(&plain, Of { released: true, ..OF }), (7, Some(Reason::Released)));
        let rules = |rules| Register { rules, ..register() };
        assert_eq!(chosen(&rules(Rules { soft_pin: false, ..Rules::default() }), OF), (7, Some(Reason::Follows)));
        assert_eq!(chosen(&rules(Rules { idle_move_ms: 1_000, ..Rules::default() }), OF), (7, Some(Reason::Idle)));
        assert_eq!(chosen(&rules(Rules { idle_move_ms: 1_001, ..Rules::default() }), OF), (5, None));
        assert_eq!(chosen(&Register { forced_epoch: 7, ..register() }, OF), (7, Some(Reason::Forced)));
        assert_eq!(chosen(&Register { forced_epoch: 6, ..register() }, OF), (5, None));
        assert_eq!(chosen(&Register { withdrawn: [5].into(), ..register() }, OF), (7, Some(Reason::Withdrawn)));
        assert_eq!(choose(&Register::default(), OF, 2_000), None);
        let same = Pin { version: 7, epoch: 9 };
        assert_eq!(chosen(&plain, Of { pin: Some(&same), released: true, ..OF }), (7, None));
    }

    #[test]
    fn a_canary_goes_to_its_share_and_to_those_listed() {
        let none = Register { canary: canary(0, &[]), ..register() };
        let all = Register { canary: canary(100, &[]), ..register() };
        let listed = Register { canary: canary(0, &[OF.session]), ..register() };
        assert_eq!(chosen(&none, Of { pin: None, ..OF }), (7, None));
        assert_eq!(chosen(&all, Of { pin: None, ..OF }), (8, None));
        assert_eq!(chosen(&all, OF), (5, None), "a pinned one stays");
        assert_eq!(chosen(&listed, OF), (8, Some(Reason::Listed)));
        let some = Share { percent: 20, sessions: Vec::new() };
        let more = Share { percent: 40, sessions: Vec::new() };
        let keys: Vec<String> = (0..10_000).map(|nth| format!("t:orders:p{nth}:web")).collect();
        let part = keys.iter().filter(|key| in_share(&some, key)).count();
        assert!((1_800..2_200).contains(&part), "{part} of 10000");
        assert!(
            keys.iter().all(|key| !in_share(&some, key) || in_share(&more, key)),
            "a part that grows keeps its own"
        );
    }
}
