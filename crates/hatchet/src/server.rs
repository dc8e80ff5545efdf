//! The server's parts, put together: what all services share, and the routes they answer on.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use mainspring_core::{Command, Reply, TaskId, TenantId};
use mainspring_engine::{Engine, EngineError};
use tokio::task::AbortHandle;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use crate::acks::Acks;
use crate::catalog::Catalog;
use crate::gate::{self, Gate};
use crate::status;
use crate::wire::opentelemetry::proto::collector::trace::v1::trace_service_server::TraceServiceServer;
use crate::wire::root::dispatcher_server::DispatcherServer;
use crate::wire::root::events_service_server::EventsServiceServer;
use crate::wire::root::workflow_service_server::WorkflowServiceServer;
use crate::wire::v1::admin_service_server::AdminServiceServer;
use crate::wire::v1::v1_dispatcher_server::V1DispatcherServer;

/// The version of Hatchet whose behaviour this is. SDKs decide by it what they may ask for.
pub const VERSION: &str = "v0.101.27";
/// Bytes of one message. More than a payload may have, so that a payload which is too large is refused in words rather
/// than by the transport.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Answers what Hatchet's SDKs ask. Cheap to clone.
#[derive(Clone)]
pub struct Hatchet {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    gate: Gate,
    catalog: Catalog,
    acks: Acks,
    /// What runs beside the calls.
    beside: Mutex<Vec<AbortHandle>>,
}

impl std::fmt::Debug for Hatchet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hatchet").finish_non_exhaustive()
    }
}

impl Hatchet {
    /// Begins to answer: the judge of conditions and the keeper of acknowledgements go to work. Call it inside a tokio
    /// runtime.
    pub fn start(engine: Engine, gate: Gate) -> Self {
        let (catalog, acks, beside) = (Catalog::default(), Acks::default(), Mutex::default());
        let hatchet = Hatchet { inner: Arc::new(Inner { engine, gate, catalog, acks, beside }) };
        let judging = hatchet.engine().hub().judge();
        let judging = judging.map(|questions| tokio::spawn(crate::judge::answer(hatchet.clone(), questions)));
        let recording = tokio::spawn(crate::acks::record(hatchet.clone()));
        let beside = judging.into_iter().chain([recording]).map(|task| task.abort_handle()).collect();
        *hatchet.inner.beside.lock().unwrap_or_else(PoisonError::into_inner) = beside;
        hatchet
    }

    /// Ends what runs beside the calls, which would keep the engine in memory for ever.
    pub fn stop(&self) {
        let beside = std::mem::take(&mut *self.inner.beside.lock().unwrap_or_else(PoisonError::into_inner));
        beside.iter().for_each(AbortHandle::abort);
    }

    /// All routes: gRPC, and the REST calls that SDKs make.
    pub fn routes(&self) -> Router {
        macro_rules! service {
            ($server:ident) => {
                $server::new(self.clone())
                    .accept_compressed(CompressionEncoding::Gzip)
                    .send_compressed(CompressionEncoding::Gzip)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX)
            };
        }
        let services = tonic::service::Routes::new(service!(DispatcherServer))
            .add_service(service!(EventsServiceServer))
            .add_service(service!(WorkflowServiceServer))
            .add_service(service!(AdminServiceServer))
            .add_service(service!(V1DispatcherServer))
            .add_service(service!(TraceServiceServer));
        // What is not found here is looked for elsewhere.
        services.into_axum_router().reset_fallback().merge(crate::rest::routes(self))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub(crate) fn acks(&self) -> &Acks {
        &self.inner.acks
    }

    /// Whose call it is.
    pub(crate) fn enter(&self, metadata: &MetadataMap) -> Result<TenantId, Status> {
        gate::enter(&self.inner.gate, metadata)
    }

    /// Who makes a REST call.
    pub(crate) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// Has a command decided, and makes a status of what goes wrong.
    pub(crate) async fn submit(&self, tenant: TenantId, command: Command) -> Result<Reply, Status> {
        self.engine().submit(tenant, command).await.map(|(reply, _)| reply).map_err(|error| status::failed(&error))
    }

    /// A task's run must be there.
    pub(crate) async fn must_exist(&self, tenant: TenantId, task: TaskId) -> Result<(), Status> {
        let found = self.engine().task(tenant, task).await;
        match found.map_err(|error| status::failed(&error))? {
            Some(_) => Ok(()),
            None => {
                Err(status::bad_field("task_run_external_id", "there is no such task: send the id it was given by"))
            }
        }
    }
}

/// An answer.
pub(crate) type Answer<T> = Result<Response<T>, Status>;

/// The error of a read.
pub(crate) fn unread(error: EngineError) -> Status {
    status::failed(&error)
}
