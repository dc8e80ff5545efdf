//! Definitions of versions in use, made of their stored requests again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mainspring_core::row::{self, WorkflowRow};
use mainspring_core::{Table, TenantId, VersionId};
use mainspring_engine::{Engine, EngineError};
use prost::Message;

use crate::definition::Definition;
use crate::wire::v1::CreateWorkflowVersionRequest;

/// Versions kept ready. Beyond that all are forgotten and read again as they are needed.
const KEPT_MAX: usize = 4_096;

/// A version: as the core has it, and as its author wrote it where that was on this wire.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// As stored.
    pub row: Arc<WorkflowRow>,
    /// As registered. `None` for workflows of the engine's own kind.
    pub definition: Option<Arc<Definition>>,
}

impl Version {
    fn of(row: WorkflowRow) -> Self {
        let request = row.def.source.as_ref().map(|source| CreateWorkflowVersionRequest::decode(source.bytes.clone()));
        let definition = request.and_then(Result::ok).and_then(|request| Definition::from_request(&request).ok());
        Version { row: Arc::new(row), definition: definition.map(Arc::new) }
    }
}

/// The versions that were looked at of late.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    known: Mutex<HashMap<(TenantId, VersionId), Version>>,
}

impl Catalog {
    /// A version, read if it is not known. Versions never change, but for which one is current.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`]; [`EngineError::Missing`] for one that is not there.
    pub(crate) async fn version(
        &self,
        engine: &Engine,
        tenant: TenantId,
        id: VersionId,
    ) -> Result<Version, EngineError> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&(tenant, id)) {
            return Ok(known.clone());
        }
        let found = engine.read(tenant, move |reader| reader.get(Table::Workflow, &row::key::workflow(tenant, id)));
        let body = found.await?.ok_or_else(|| EngineError::Missing { what: format!("workflow version {id}") })?;
        let row: WorkflowRow = row::decode(&body).map_err(|bad| EngineError::Unreadable { cause: bad.to_string() })?;
        let version = Version::of(row);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT_MAX {
            known.clear();
        }
        known.insert((tenant, id), version.clone());
        Ok(version)
    }
}
