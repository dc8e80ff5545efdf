//! A type for each id, so that no two kinds can be mixed up.
//!
//! Ids are 128 bits in UUID version 7 form (RFC 9562): the first 48 bits are milliseconds since the Unix epoch, so rows
//! keyed by them are inserted in time order, which is what keeps large tables fast.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
pub type Ms = u64;

/// The text given is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected 32 hexadecimal digits with or without hyphens, like 0191e0c5-7a2b-7c3d-8e4f-a1b2c3d4e5f6")]
pub struct NotAnId;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                parse_uuid(text).map($name)
            }
        }

        impl $name {
            /// The 16 bytes of this id, most significant first, so that byte order is id order.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }
        }
    };
}

id_type!(
    /// A tenant: the unit of isolation, and of placement on a partition.
    TenantId
);
id_type!(
    /// One execution of a workflow version.
    RunId
);
id_type!(
    /// One message accepted into an inbox.
    MessageId
);
id_type!(
    /// One stored input, output or result.
    PayloadId
);
id_type!(
    /// One connected worker process.
    WorkerId
);
id_type!(
    /// One API token.
    TokenId
);
id_type!(
    /// One immutable version of a workflow definition, derived from its content.
    VersionId
);

/// One task of a run: the run and the task's place in the workflow version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The run this task belongs to.
    pub run: RunId,
    /// The task's index in the workflow version's list, counted from 0.
    pub index: u16,
}

impl TaskId {
    /// The task as one id, for wires that know nothing of a pair: the run's id with the task's index, counted from 1, in
    /// its last 16 bits. `None` for a task of a run whose id was minted before that room was left, or of the last index.
    pub fn to_id(self) -> Option<u128> {
        (self.run.0 & 0xffff == 0 && self.index < u16::MAX).then(|| self.run.0 | (u128::from(self.index) + 1))
    }

    /// The task an id of [`TaskId::to_id`] stands for; `None` for the id of a run.
    pub fn from_id(id: u128) -> Option<TaskId> {
        let index = (id & 0xffff) as u16;
        Some(TaskId { run: RunId(id & !0xffff), index: index.checked_sub(1)? })
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.run, self.index)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Mints ids from a command's moment. The same moment always gives the same ids.
///
/// Ids minted by one partition are in the order they were minted in, also within one millisecond (RFC 9562, section
/// 6.2, method 1): queues are ordered by time and then by id, and a caller who got one answer and asks again in the
/// same millisecond expects to be second.
#[derive(Debug, Clone)]
pub struct Ids {
    now: Ms,
    nth: u16,
    seed: u128,
    minted: u64,
}

impl Ids {
    /// As many decisions can be put in order within one millisecond.
    pub const NTH_MAX: u16 = 0xfff;

    /// Starts minting for the `nth` command decided at `now`, with this `seed`, which no other command may share.
    pub fn new(now: Ms, nth: u16, seed: u128) -> Self {
        assert!(nth <= Ids::NTH_MAX, "an id has 12 bits for the order within a millisecond");
        Ids { now, nth, seed, minted: 0 }
    }

    /// The next id, in UUID version 7 form.
    pub fn mint(&mut self) -> u128 {
        self.minted += 1;
        let low = mix((self.seed as u64).wrapping_add(self.minted.wrapping_mul(0xd134_2543_de82_ef95)));
        let random = mix(((self.seed >> 64) as u64) ^ self.minted.rotate_left(32) ^ low);
        // The order within a command is kept for its first 4095 ids: a thousand runs of one request stay in order.
        let order = u128::from(self.minted.min(0xfff)) << 50;
        let time = u128::from(self.now & 0xffff_ffff_ffff) << 80;
        let version = 0x7_u128 << 76;
        let a = u128::from(self.nth) << 64;
        let variant = 0b10_u128 << 62;
        time | version | a | variant | order | u128::from(random >> 14)
    }

    /// The id of a new run. Its last 16 bits are zero, which leaves room to name each of its tasks by an id of the
    /// same form: see [`TaskId::to_id`].
    pub fn mint_run(&mut self) -> RunId {
        RunId(self.mint() & !0xffff)
    }
}

/// The finaliser of SplitMix64: a bijection, so distinct inputs never collide in its 64 bits.
/// Distinct inputs give distinct outputs.
pub fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 64-bit FNV-1a hash: stable across releases and machines, for fingerprints that are stored.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |byte: u8| {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    };
    for part in parts {
        // The length goes in first, so that ("ab", "c") and ("a", "bc") differ.
        (part.len() as u64).to_le_bytes().into_iter().for_each(&mut eat);
        part.iter().copied().for_each(&mut eat);
    }
    hash
}

/// Places in a UUID's text where there is no digit.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// By hand: a run over a wire is written as text eight times, and the formatter's numbers were a twelfth of all it took.
fn write_uuid(value: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [b'-'; 36];
    let mut left = value;
    for (place, byte) in text.iter_mut().enumerate().rev() {
        if !DASHES.contains(&place) {
            *byte = b"0123456789abcdef"[(left & 0xf) as usize];
            left >>= 4;
        }
    }
    f.write_str(core::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

/// Takes 32 hexadecimal digits, and dashes between them.
fn parse_uuid(text: &str) -> Result<u128, NotAnId> {
    if text.len() > 36 {
        return Err(NotAnId);
    }
    let (mut value, mut digits) = (0_u128, 0);
    for byte in text.bytes().filter(|byte| *byte != b'-') {
        let digit = char::from(byte).to_digit(16).ok_or(NotAnId)?;
        value = value << 4 | u128::from(digit);
        digits += 1;
    }
    if digits == 32 { Ok(value) } else { Err(NotAnId) }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn ids_are_uuids_as_text() {
        let text = "0192f3a4-5b6c-7d8e-9f00-00000000abcd";
        let id: RunId = text.parse().expect("a UUID");
        assert_eq!(id.0, 0x0192_f3a4_5b6c_7d8e_9f00_0000_0000_abcd);
        assert_eq!((format!("{id}"), format!("{id:?}")), (text.into(), text.into()));
        assert_eq!(format!("{}", RunId(0)), "00000000-0000-0000-0000-000000000000");
        assert_eq!(format!("{}", RunId(u128::MAX)), "ffffffff-ffff-ffff-ffff-ffffffffffff");
        for same in ["0192F3A45B6C7D8E9F0000000000ABCD", "0192f3a4-5b6c7d8e9f000000-0000abcd"] {
            assert_eq!(same.parse(), Ok(id), "{same}");
        }
    }

    #[test]
    fn what_is_no_uuid_is_no_id() {
        let long = "0".repeat(33);
        let wrong = ["", "-", "+192f3a45b6c7d8e9f0000000000abcd", "0192f3a4-5b6c-7d8e-9f00-00000000abc", &long];
        for text in
            wrong.into_iter().chain(["0192f3a4-5b6c-7d8e-9f00-00000000abcg", "é192f3a45b6c7d8e9f0000000000abcd"])
        {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }
}
