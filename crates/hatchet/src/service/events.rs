//! `EventsService`: events are told of, and what tasks write down and say is taken.

use bytes::Bytes;
use mainspring_core::row::LogRow;
use mainspring_core::{Command, Reply, TenantId};
use tonic::{Request, Response, Status};

use crate::definition::milliseconds;
use crate::names::{self, Named};
use crate::payload;
use crate::server::{Answer, Hatchet};
use crate::service::workflows::{metadata_of, priority_of};
use crate::status::bad_field;
use crate::stream::timestamp;
use crate::wire::root::events_service_server::EventsService;
use crate::wire::root::{
    BulkPushEventRequest, Event, Events, PushEventRequest, PutLogRequest, PutLogResponse, PutStreamEventRequest,
    PutStreamEventResponse, ReplayEventRequest,
};

/// Events of one request.
const BULK_MAX: usize = 1_000;
/// Bytes of a message that a task sends to those listening now.
const SAID_BYTES_MAX: usize = 256 * 1024;

#[tonic::async_trait]
impl EventsService for Hatchet {
    async fn push(&self, request: Request<PushEventRequest>) -> Answer<Event> {
        let tenant = self.enter(request.metadata())?;
        let event = request.into_inner();
        let command = command_of("", &event)?;
        Ok(Response::new(self.emit(tenant, command, event).await?))
    }

    async fn bulk_push(&self, request: Request<BulkPushEventRequest>) -> Answer<Events> {
        let tenant = self.enter(request.metadata())?;
        let pushed = request.into_inner().events;
        if pushed.len() > BULK_MAX {
            let text = format!("has {} entries, at most {BULK_MAX} are allowed: send several requests", pushed.len());
            return Err(bad_field("events", &text));
        }
        // All are looked at before any is taken.
        let commands = pushed.iter().enumerate().map(|(index, event)| command_of(&format!("events[{index}]."), event));
        let commands = commands.collect::<Result<Vec<Command>, Status>>()?;
        let emitted = pushed.into_iter().zip(commands).map(|(event, command)| self.emit(tenant, command, event));
        let events = futures_util::future::try_join_all(emitted).await?;
        Ok(Response::new(Events { events }))
    }

    async fn replay_single_event(&self, request: Request<ReplayEventRequest>) -> Answer<Event> {
        self.enter(request.metadata())?;
        Err(Status::unimplemented("events are not replayed: push it again, or replay the runs it started"))
    }

    async fn put_log(&self, request: Request<PutLogRequest>) -> Answer<PutLogResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let task = Named::parse(&request.task_run_external_id)
            .ok_or_else(|| bad_field("task_run_external_id", "is no id: send the id the task was given by"))?
            .task();
        let line = LogRow {
            attempt: u32::try_from(request.task_retry_count.unwrap_or(0)).unwrap_or(0).saturating_add(1),
            at: request.created_at.as_ref().map_or_else(|| self.engine().world().now_ms(), milliseconds),
            level: request.level.unwrap_or_else(|| "INFO".to_owned()),
            message: request.message.replace('\0', "\u{fffd}"),
            metadata: request.metadata.into(),
        };
        self.submit(tenant, Command::PutLog { task, line }).await?;
        Ok(Response::new(PutLogResponse {}))
    }

    async fn put_stream_event(&self, request: Request<PutStreamEventRequest>) -> Answer<PutStreamEventResponse> {
        let tenant = self.enter(request.metadata())?;
        let request = request.into_inner();
        let named = Named::parse(&request.task_run_external_id)
            .ok_or_else(|| bad_field("task_run_external_id", "is no id: send the id the task was given by"))?;
        if request.message.len() > SAID_BYTES_MAX {
            let text = format!("has {} bytes, at most {SAID_BYTES_MAX} are allowed", request.message.len());
            return Err(bad_field("message", &text));
        }
        self.engine().hub().say(tenant, named.task(), request.event_index, request.message);
        Ok(Response::new(PutStreamEventResponse {}))
    }
}

impl Hatchet {
    async fn emit(&self, tenant: TenantId, command: Command, event: PushEventRequest) -> Result<Event, Status> {
        match self.submit(tenant, command).await? {
            Reply::Emitted { seq, at } => Ok(Event {
                tenant_id: tenant.to_string(),
                event_id: names::event_id(at, seq),
                key: event.key,
                payload: event.payload,
                event_timestamp: Some(event.event_timestamp.unwrap_or_else(|| timestamp(at))),
                additional_metadata: event.additional_metadata,
                scope: event.scope,
            }),
            other => unreachable!("an event is answered with its number, not {other:?}"),
        }
    }
}

fn command_of(at: &str, event: &PushEventRequest) -> Result<Command, Status> {
    let on = |field: &str| format!("{at}{field}");
    if event.key.is_empty() {
        return Err(bad_field(&on("key"), "is empty: name what happened"));
    }
    let data = if event.payload.is_empty() { "{}" } else { event.payload.as_str() };
    payload::check(data).map_err(|why| bad_field(&on("payload"), &why))?;
    Ok(Command::EmitEvent {
        name: event.key.clone(),
        scope: event.scope.clone().filter(|scope| !scope.is_empty()),
        data: Bytes::copy_from_slice(data.as_bytes()),
        metadata: metadata_of(&on("additional_metadata"), event.additional_metadata.clone())?,
        priority: priority_of(&on("priority"), event.priority.filter(|priority| *priority != 0))?,
        fence: None,
    })
}
