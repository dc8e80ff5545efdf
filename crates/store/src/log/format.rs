//! The bytes of a segment: one header block, then records, each beginning on a 4 KiB boundary.
//!
//! All numbers are little-endian. What is not named is zero.
//!
//! | segment header, at byte | size | |
//! |---|---|---|
//! | 0 | 8 | `MSPRGLOG` |
//! | 8 | 1 | format version, 1 |
//! | 10 | 2 | partition |
//! | 16 | 8 | position of the first record |
//! | 24 | 8 | size of the file in bytes, so that a shortened file is noticed |
//! | 32 | 8 | salt |
//! | 40 | 4 | crc32c of bytes 0 to 39 |
//!
//! | record, at byte | size | |
//! |---|---|---|
//! | 0 | 4 | crc32c of salt, length, position, payload |
//! | 4 | 4 | length of the payload in bytes |
//! | 8 | 8 | position |
//! | 16 | length | payload, then zeros up to the next 4 KiB boundary |
//!
//! These 44 header bytes keep their place in every later version, so that an old program can tell "newer" from
//! "damaged". The salt of a segment follows from the salt and the last record of the one before it: a record of
//! another log, or a segment file put in the wrong place, never passes the check.

use super::Position;

/// The unit of every write: no block that holds an acknowledged record is ever written again.
pub(super) const BLOCK: u64 = 4096;
pub(super) const VERSION: u8 = 1;
pub(super) const RECORD_HEAD_BYTES: usize = 16;

const MAGIC: &[u8; 8] = b"MSPRGLOG";
const HEADER_BYTES: usize = 44;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) partition: u16,
    pub(super) first: Position,
    pub(super) capacity_bytes: u64,
    pub(super) salt: u64,
}

/// What the first bytes of a segment turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    Valid(SegmentHeader),
    OtherVersion(u8),
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = VERSION;
        bytes[10..12].copy_from_slice(&self.partition.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.capacity_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(block: &[u8]) -> HeaderRead {
        // The checksum is looked at before the version: a flipped bit in the version byte is damage, not progress.
        if block.len() < HEADER_BYTES || &block[..8] != MAGIC || crc32c::crc32c(&block[..40]) != u32_at(block, 40) {
            return HeaderRead::Damaged;
        }
        if block[8] != VERSION {
            return HeaderRead::OtherVersion(block[8]);
        }
        HeaderRead::Valid(SegmentHeader {
            partition: u16::from_le_bytes([block[10], block[11]]),
            first: Position(u64_at(block, 16)),
            capacity_bytes: u64_at(block, 24),
            salt: u64_at(block, 32),
        })
    }

    /// Returns the salt of the segment that follows this one, given the checksum of this one's last record.
    pub(super) fn salt_after(&self, last_crc: u32, next_first: Position) -> u64 {
        mix(self.salt ^ mix(next_first.0 ^ (u64::from(last_crc) << 32)))
    }
}

/// Returns the salt of the first segment of a new log.
pub(super) fn first_salt(seed: u64, partition: u16) -> u64 {
    mix(seed ^ mix(u64::from(partition) + 1))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) crc: u32,
    pub(super) length: u32,
    pub(super) position: Position,
}

impl RecordHead {
    /// Makes the head of the record that holds `parts`, one after the other. Their sum fits a `u32`.
    pub(super) fn of(salt: u64, position: Position, length: u32, parts: &[&[u8]]) -> RecordHead {
        let crc = parts.iter().fold(seed_crc(salt, length, position), |crc, part| crc32c::crc32c_append(crc, part));
        RecordHead { crc, length, position }
    }

    pub(super) fn encode(&self) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.crc.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.position.0.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> RecordHead {
        RecordHead { crc: u32_at(bytes, 0), length: u32_at(bytes, 4), position: Position(u64_at(bytes, 8)) }
    }

    pub(super) fn matches(&self, salt: u64, payload: &[u8]) -> bool {
        crc32c::crc32c_append(seed_crc(salt, self.length, self.position), payload) == self.crc
    }

    /// Returns the bytes from the beginning of this record to the beginning of the next.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(u64::from(self.length))
    }
}

/// Returns the bytes a record with a payload of `length` bytes takes in the file.
pub(super) fn record_bytes(length: u64) -> u64 {
    (RECORD_HEAD_BYTES as u64 + length).next_multiple_of(BLOCK)
}

/// Returns the file name of the segment whose first record has this position. Names sort as positions do.
pub(super) fn segment_name(first: Position) -> String {
    format!("{:020}.seg", first.0)
}

/// Returns the position in a segment's file name, or `None` if this is not the name of a segment.
pub(super) fn parse_segment_name(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok().map(Position) } else { None }
}

fn seed_crc(salt: u64, length: u32, position: Position) -> u32 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..].copy_from_slice(&position.0.to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// Spreads every input bit over the whole word: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}
