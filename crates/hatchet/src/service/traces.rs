//! OTLP `TraceService/Export`: spans are taken, so that instrumented workers go on, and not kept yet.

use tonic::{Request, Response};

use crate::server::{Answer, Hatchet};
use crate::wire::opentelemetry::proto::collector::trace::v1::trace_service_server::TraceService;
use crate::wire::opentelemetry::proto::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};

#[tonic::async_trait]
impl TraceService for Hatchet {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Answer<ExportTraceServiceResponse> {
        self.enter(request.metadata())?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
