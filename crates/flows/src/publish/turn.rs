//! What a turn goes by, read when it begins, from the tables and what is not applied yet: a turn that begins after a pointer
//! moved sees it, whoever was told.

use std::collections::BTreeMap;

use mainspring_client::{Client, ClientError, DocumentKey, DocumentRow};

use super::door::version_name;
use super::job::Manifest;
use super::pin::{Chosen, MovedFrom, Of, Pin, TurnConfig, choose};
use super::register::Register;
use super::{REGISTER, VERSION};
use crate::records::{self, SessionRecord};

/// What is remembered of a session with its version, and what a turn that begins now goes by, if anything is published.
/// Waits while the store can't be read.
///
/// # Errors
/// [`ClientError`].
pub async fn begin(
    client: &Client,
    agent: &str,
    session: &str,
) -> Result<(u64, SessionRecord, Option<TurnConfig>), ClientError> {
    let row = client.document(records::of_session(records::SESSION, session)).await?;
    // What an older release wrote and this one does not understand is a session nobody remembers, not an error.
    let record: SessionRecord = read_as(row.as_ref()).unwrap_or_default();
    let (last_active_at, version) = row.map_or((0, 0), |row| (row.updated_at, row.version));
    loop {
        let Some((epoch, register)) = register_of(client, agent).await? else { return Ok((version, record, None)) };
        let pin = record.config.as_ref();
        let pinned = match pin {
            Some(pin) => manifest(client, agent, pin.version).await?,
            None => None,
        };
        let released = record.config_released;
        let of = Of { session, pin, there: pinned.is_some(), last_active_at, released };
        let now = client.engine().world().now_ms();
        let Some(chosen) = choose(&register, of, now) else { return Ok((version, record, None)) };
        let found = match pinned {
            Some(found) if found.version == chosen.version => Some(found),
            Some(_) | None => manifest(client, agent, chosen.version).await?,
        };
        // A version that was current may have been left and given up between two of these reads.
        if found.is_none() && register_of(client, agent).await?.is_none_or(|(now, _)| now != epoch) {
            continue;
        }
        let config = turn_config(&register, pin, chosen, found);
        return Ok((version, record, Some(config)));
    }
}

/// An agent's register, and which version of the document that is.
async fn register_of(client: &Client, agent: &str) -> Result<Option<(u64, Register)>, ClientError> {
    let row = client.document(DocumentKey::new(REGISTER, agent)).await?;
    Ok(row.and_then(|row| Some((row.version, read_as(Some(&row))?))))
}

/// What a version consists of, if it is not given up.
async fn manifest(client: &Client, agent: &str, version: u64) -> Result<Option<Manifest>, ClientError> {
    let row = client.document(DocumentKey::new(VERSION, version_name(agent, version))).await?;
    Ok(read_as::<Manifest>(row.as_ref()).filter(|found| found.collected_at.is_none()))
}

fn turn_config(register: &Register, pin: Option<&Pin>, chosen: Chosen, manifest: Option<Manifest>) -> TurnConfig {
    let moved = chosen.moved.zip(pin).map(|(reason, pin)| MovedFrom { version: pin.version, reason });
    let (digest, bundles) = match manifest {
        Some(Manifest { digest, bundles, .. }) => {
            (digest, bundles.into_iter().map(|(kind, one)| (kind, one.digest)).collect())
        }
        // Nobody gives up a version that is current. Should it be gone all the same, the turn goes on without bundles
        // rather than not at all, and its agent sees that there are none.
        None => (String::new(), BTreeMap::new()),
    };
    TurnConfig { version: chosen.version, epoch: register.epoch, digest, bundles, canary: chosen.canary, moved }
}

fn read_as<T: serde::de::DeserializeOwned>(row: Option<&DocumentRow>) -> Option<T> {
    serde_json::from_slice(&row?.body).ok()
}
