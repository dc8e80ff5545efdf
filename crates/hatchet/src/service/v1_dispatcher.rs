//! `v1.V1Dispatcher`: durable tasks, which are registered but not executed yet.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::server::{Answer, Hatchet};
use crate::status;
use crate::wire::v1::v1_dispatcher_server::V1Dispatcher;
use crate::wire::v1::{
    DurableEvent, DurableTaskRequest, DurableTaskResponse, ListenForDurableEventRequest, RegisterDurableEventRequest,
    RegisterDurableEventResponse,
};

#[tonic::async_trait]
impl V1Dispatcher for Hatchet {
    type DurableTaskStream = ReceiverStream<Result<DurableTaskResponse, Status>>;

    async fn durable_task(&self, request: Request<Streaming<DurableTaskRequest>>) -> Answer<Self::DurableTaskStream> {
        self.enter(request.metadata())?;
        Err(status::not_yet("a durable task"))
    }

    async fn register_durable_event(
        &self,
        request: Request<RegisterDurableEventRequest>,
    ) -> Answer<RegisterDurableEventResponse> {
        self.enter(request.metadata())?;
        Err(status::not_yet("a durable task"))
    }

    type ListenForDurableEventStream = ReceiverStream<Result<DurableEvent, Status>>;

    async fn listen_for_durable_event(
        &self,
        request: Request<Streaming<ListenForDurableEventRequest>>,
    ) -> Answer<Self::ListenForDurableEventStream> {
        self.enter(request.metadata())?;
        Err(status::not_yet("a durable task"))
    }
}
