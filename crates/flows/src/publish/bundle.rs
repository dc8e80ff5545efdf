//! Content by its digest: the sources and the compiled bundles of configurations, each stored once per tenant, compressed,
//! never changed.
//!
//! A document holds 256 KiB at most, so a bundle is a *head* that says how long it is and *parts* with its compressed
//! bytes. The head is written last and removed together with its parts, in one decision: whoever finds a head finds all of
//! it. Each use of content that is there already *touches* its head, which is what a removal that was decided before then
//! stumbles over.
//!
//! What this module does not know: what content says, and who refers to it.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use mainspring_client::{Client, ClientError, DocumentKey, EngineError, PutDocument, Refusal};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Documents: the head of a bundle, by its digest in hexadecimal.
pub const HEAD: &str = "bundle";
/// Documents: a part of a bundle, by digest and place.
pub const PART: &str = "bundle-part";
/// Bytes of one bundle, uncompressed. A configuration beyond that belongs into files its agent reads.
pub const BUNDLE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one part, below what a document holds.
const PART_BYTES: usize = 240 * 1024;
/// Parts written in one decision, well below what one may carry.
const PARTS_AT_ONCE: usize = 24;
/// Times a write is begun anew because somebody else wrote or removed the same content.
const TRIES_MAX: u32 = 8;
/// Heads looked at in one listing.
const PAGE: usize = 500;

/// Content by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRef {
    /// `sha256:` and the digest of the uncompressed bytes, in hexadecimal.
    pub digest: String,
    /// Uncompressed bytes.
    pub bytes: u64,
    /// Compressed bytes.
    pub stored_bytes: u64,
}

/// Content that can't be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is too large.
    #[error("it has {bytes} bytes, and a bundle at most {BUNDLE_BYTES_MAX}: split it into several kinds")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// What is stored is not what its digest says.
    #[error("what is stored as {digest} is damaged: {cause}; put the same content again")]
    Damaged {
        /// The digest.
        digest: String,
        /// What does not fit.
        cause: String,
    },
    /// Others wrote and removed it all the time.
    #[error("{digest} was written and removed by others each time: try again")]
    Contended {
        /// The digest.
        digest: String,
    },
    /// The engine.
    #[error(transparent)]
    Client(#[from] ClientError),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    bytes: u64,
    stored_bytes: u64,
    parts: u32,
    touched_at: u64,
}

/// The digest of content, as it is written everywhere.
pub fn digest_of(content: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest's part in names of documents; `None` if it is no digest.
fn name_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))).then_some(hex)
}

fn part_name(hex: &str, place: usize) -> String {
    format!("{hex}/{place:04}")
}

/// Whether a call was refused because a document is not what it was taken to be.
pub(crate) fn is_conflict(error: &ClientError) -> bool {
    matches!(error, ClientError::Engine(EngineError::Refused(Refusal::VersionConflict { .. })))
}

/// The bundles of one tenant. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bundles {
    client: Client,
}

impl Bundles {
    /// The bundles of a client's tenant.
    pub fn new(client: Client) -> Self {
        Bundles { client }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Stores content, if it is not there yet. Durable when it returns. The same content twice is stored once.
    ///
    /// # Errors
    /// [`BundleError::TooLarge`] says how much is taken; [`BundleError::Client`].
    pub async fn put(&self, content: Bytes) -> Result<BundleRef, BundleError> {
        let bytes = content.len();
        if bytes > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge { bytes });
        }
        let (digest, packed) = apart(move || (digest_of(&content), pack(&content))).await;
        let Some(hex) = name_of(&digest) else { unreachable!("a digest has the form of one") };
        let parts: Vec<Bytes> = (0..packed.len())
            .step_by(PART_BYTES)
            .map(|at| packed.slice(at..packed.len().min(at + PART_BYTES)))
            .collect();
        let found = BundleRef { digest: digest.clone(), bytes: bytes as u64, stored_bytes: packed.len() as u64 };
        for _ in 0..TRIES_MAX {
            let head = Head {
                bytes: found.bytes,
                stored_bytes: found.stored_bytes,
                parts: parts.len() as u32,
                touched_at: self.client.engine().world().now_ms(),
            };
            let there = self.client.document(DocumentKey::new(HEAD, hex)).await?;
            let version = there.map_or(0, |row| row.version);
            // What is there and whole is only touched. What is there and damaged is written again.
            if version == 0 || self.get(&digest).await.is_err() {
                self.put_parts(hex, &parts).await?;
            }
            let head = PutDocument {
                key: DocumentKey::new(HEAD, hex),
                expect: Some(version),
                body: json_of(&head)?,
                ttl_ms: None,
                history: 0,
            };
            match self.client.advance(vec![head], Vec::new()).await {
                Ok(_) => return Ok(found),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(BundleError::Contended { digest })
    }

    async fn put_parts(&self, hex: &str, parts: &[Bytes]) -> Result<(), ClientError> {
        for (nth, batch) in parts.chunks(PARTS_AT_ONCE).enumerate() {
            let puts = batch.iter().enumerate().map(|(place, body)| PutDocument {
                key: DocumentKey::new(PART, part_name(hex, nth * PARTS_AT_ONCE + place)),
                // Whoever writes a part of this name writes these bytes.
                expect: None,
                body: body.clone(),
                ttl_ms: None,
                history: 0,
            });
            self.client.advance(puts.collect(), Vec::new()).await?;
        }
        Ok(())
    }

    /// The content of a digest, checked against it. `None` if there is none.
    ///
    /// # Errors
    /// [`BundleError::Damaged`], [`BundleError::Client`].
    pub async fn get(&self, digest: &str) -> Result<Option<Bytes>, BundleError> {
        let Some(packed) = self.packed(digest).await? else { return Ok(None) };
        let wanted = digest.to_owned();
        apart(move || unpack(&packed, &wanted)).await.map(Some)
    }

    /// The content of a digest as it is stored, which is gzip. `None` if there is none.
    ///
    /// # Errors
    /// [`BundleError::Damaged`] if parts are missing, [`BundleError::Client`].
    pub async fn packed(&self, digest: &str) -> Result<Option<Bytes>, BundleError> {
        let Some(hex) = name_of(digest) else { return Ok(None) };
        let Some(row) = self.client.document(DocumentKey::new(HEAD, hex)).await? else { return Ok(None) };
        let head: Head = from_json(&row.body)?;
        let rows = self.client.documents(PART, &format!("{hex}/")).await?;
        let parts: Vec<&[u8]> = rows.iter().take(head.parts as usize).map(|(_, row)| row.body.as_ref()).collect();
        let packed = parts.concat();
        if packed.len() as u64 != head.stored_bytes {
            let cause = format!("{} of {} compressed bytes are there", packed.len(), head.stored_bytes);
            return Err(BundleError::Damaged { digest: digest.to_owned(), cause });
        }
        Ok(Some(packed.into()))
    }

    /// Removes what nobody refers to and nobody has used for a time. Answers how many bundles went.
    ///
    /// # Errors
    /// [`BundleError::Client`].
    pub async fn remove_unused(&self, used: &BTreeSet<String>, unused_ms: u64) -> Result<usize, BundleError> {
        let (now, mut after, mut removed) = (self.client.engine().world().now_ms(), None::<String>, 0);
        loop {
            let page = self.client.documents_after(HEAD, "", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(removed) };
            after = Some(last.name.clone());
            for (key, row) in page {
                let Ok(head) = serde_json::from_slice::<Head>(&row.body) else { continue };
                let young = now.saturating_sub(head.touched_at) < unused_ms;
                if young || used.contains(&format!("sha256:{}", key.name)) {
                    continue;
                }
                let parts = (0..head.parts as usize).map(|place| gone(PART, part_name(&key.name, place), None));
                let mut puts: Vec<PutDocument> = parts.collect();
                puts.push(gone(HEAD, key.name, Some(row.version)));
                match self.client.advance(puts, Vec::new()).await {
                    Ok(_) => removed += 1,
                    // It was used in this moment.
                    Err(error) if is_conflict(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// A document that is removed.
pub(crate) fn gone(kind: &str, name: String, expect: Option<u64>) -> PutDocument {
    PutDocument { key: DocumentKey::new(kind, name), expect, body: Bytes::new(), ttl_ms: Some(0), history: 0 }
}

pub(crate) fn json_of(value: &impl Serialize) -> Result<Bytes, ClientError> {
    let cause = |error: serde_json::Error| ClientError::Json { what: "a document", cause: error.to_string() };
    serde_json::to_vec(value).map(Bytes::from).map_err(cause)
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    let cause = |error: serde_json::Error| ClientError::Json { what: "a document", cause: error.to_string() };
    serde_json::from_slice(body).map_err(cause)
}

/// Does what takes a processor for a while where it holds nobody up.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // Only a runtime that ends leaves it out: then nobody waits for this any more.
        Err(_) => std::future::pending().await,
    }
}

fn pack(content: &[u8]) -> Bytes {
    // The same bytes each time: the header says no time and no name.
    let mut encoder = GzEncoder::new(Vec::with_capacity(content.len() / 4), Compression::default());
    match encoder.write_all(content).and_then(|()| encoder.finish()) {
        Ok(packed) => packed.into(),
        Err(error) => unreachable!("memory takes all that is written: {error}"),
    }
}

fn unpack(packed: &[u8], digest: &str) -> Result<Bytes, BundleError> {
    let damaged = |cause: String| BundleError::Damaged { digest: digest.to_owned(), cause };
    let mut content = Vec::new();
    // Never more than may be stored, whatever the bytes claim.
    let mut reader = GzDecoder::new(packed).take(BUNDLE_BYTES_MAX as u64 + 1);
    reader.read_to_end(&mut content).map_err(|error| damaged(error.to_string()))?;
    let found = digest_of(&content);
    if found == digest { Ok(content.into()) } else { Err(damaged(format!("its digest is {found}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_back_and_damage_is_seen() {
        let content = "rules and templates ".repeat(10_000);
        let digest = digest_of(content.as_bytes());
        let packed = pack(content.as_bytes());
        assert!(packed.len() * 10 < content.len());
        assert_eq!(pack(content.as_bytes()), packed, "the same bytes each time");
        assert_eq!(unpack(&packed, &digest).expect("whole"), content.as_bytes());
        let mut damaged = packed.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        assert!(matches!(unpack(&damaged, &digest), Err(BundleError::Damaged { .. })));
        assert!(matches!(unpack(&packed, &digest_of(b"other")), Err(BundleError::Damaged { .. })));
    }

    #[test]
    fn only_digests_are_names() {
        let hex = "0".repeat(64);
        assert_eq!(name_of(&format!("sha256:{hex}")), Some(hex.as_str()));
        for bad in ["", "sha256:", "sha256:00", &format!("sha256:{}", "G".repeat(64)), &hex] {
            assert_eq!(name_of(bad), None, "{bad}");
        }
    }
}
