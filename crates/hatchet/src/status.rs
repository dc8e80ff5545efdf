//! The one map from what went wrong to a gRPC status.
//!
//! What an SDK does with a status is decided by its code. The Python client tries a call twenty times, for every code
//! except `UNIMPLEMENTED`, `INVALID_ARGUMENT`, `ALREADY_EXISTS`, `UNAUTHENTICATED`, `PERMISSION_DENIED` and
//! `NOT_FOUND`. Hence the rule here: what a repetition cannot mend has one of those codes, and what it can mend has
//! none of them. So a payload over the limit is `INVALID_ARGUMENT`, although `RESOURCE_EXHAUSTED` reads nicer.
//!
//! What this module does not know: which call it was. A call that has its own word for a refusal (a heartbeat without
//! a stream, a stale completion that is ignored) says so before it comes here.

use bytes::Bytes;
use mainspring_core::Refusal;
use mainspring_engine::EngineError;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::definition::BadDefinition;
use crate::duration::BadDuration;
use crate::wire::{google, v1};

/// Trailer by which gRPC clients with a retry policy are told when to try again, in milliseconds.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The status for what the rules refuse.
pub fn refused(refusal: &Refusal) -> Status {
    let code = match refusal {
        // The tenant comes from the token, so it's the token that is wrong.
        Refusal::NoTenant => Code::Unauthenticated,
        Refusal::NoWorkflow { .. }
        | Refusal::NoRun { .. }
        | Refusal::NoTask { .. }
        | Refusal::NoWorker
        | Refusal::NoStream { .. }
        | Refusal::NoStreamGroup { .. }
        | Refusal::NoEntry { .. }
        | Refusal::NoToken => Code::NotFound,
        Refusal::NotYet { .. } => Code::Unimplemented,
        Refusal::WorkerNotConnected => Code::FailedPrecondition,
        Refusal::IdempotencyConflict { .. } => Code::AlreadyExists,
        Refusal::BadDefinition(_)
        | Refusal::RunEnded { .. }
        | Refusal::NotParked { .. }
        | Refusal::NotRunning { .. }
        | Refusal::NotEnded { .. }
        | Refusal::NotReplayable { .. }
        | Refusal::StaleClaim { .. }
        | Refusal::StaleFence { .. }
        | Refusal::MessageWaits { .. }
        | Refusal::Committed { .. }
        | Refusal::VersionConflict { .. }
        | Refusal::StartedByMessages { .. }
        | Refusal::NoInbox { .. }
        | Refusal::KeyMissing { .. }
        | Refusal::TooLarge { .. }
        | Refusal::Empty { .. }
        | Refusal::JournalMismatch { .. }
        | Refusal::JournalGap { .. }
        | Refusal::NotBefore { .. }
        | Refusal::NotDurable { .. } => Code::InvalidArgument,
        // Room comes back when something ends: this one is worth another try.
        Refusal::Full { .. } | Refusal::TooFast { .. } | Refusal::Crowded { .. } | Refusal::StreamFull { .. } => {
            Code::ResourceExhausted
        }
    };
    Status::new(code, refusal.to_string())
}

/// The status for a submission that was not decided, or was refused.
pub fn failed(error: &EngineError) -> Status {
    match error {
        EngineError::Refused(refusal) => refused(refusal),
        EngineError::Busy { retry_after_ms, .. } => {
            let mut metadata = MetadataMap::new();
            metadata.insert(RETRY_PUSHBACK, MetadataValue::from(*retry_after_ms));
            Status::with_metadata(Code::Unavailable, error.to_string(), metadata)
        }
        EngineError::Stopped { .. } | EngineError::ShuttingDown | EngineError::Unreadable { .. } => {
            Status::unavailable(error.to_string())
        }
        EngineError::Missing { .. } => Status::data_loss(error.to_string()),
    }
}

/// The status for a definition that can't be accepted: it names the field and says what to change.
pub fn bad_definition(bad: &BadDefinition) -> Status {
    Status::invalid_argument(bad.to_string())
}

/// The status for a field that holds no duration.
pub fn bad_duration(field: &str, bad: &BadDuration) -> Status {
    Status::invalid_argument(format!("{field}: {bad}"))
}

/// The status for a field that holds something else than it should. `what` says what to change.
pub fn bad_field(field: &str, what: &str) -> Status {
    Status::invalid_argument(format!("{field}: {what}"))
}

/// The status for a call without a token, or with one that is not good (any more).
pub fn unauthenticated() -> Status {
    Status::unauthenticated("invalid auth token")
}

/// The status for a heartbeat of a worker whose stream is gone. The SDK opens it again.
pub fn stream_not_active() -> Status {
    Status::failed_precondition("worker stream is not active")
}

/// The status for what may be registered but is not executed yet.
pub fn not_yet(what: &str) -> Status {
    Status::unimplemented(format!("{what} is registered but not executed yet by this version of Mainspring"))
}

/// The text SDKs expect with a collision of idempotency keys.
const COLLISION: &str = "idempotency key collision";

/// The status for a run that was not started because another holds its idempotency key. Ids are runs' ids.
pub fn idempotency_collision(existing: String, colliding: String) -> Status {
    let collision =
        v1::IdempotencyCollisionError { existing_run_external_id: existing, colliding_run_external_id: colliding };
    collided(any("v1.IdempotencyCollisionError", &collision))
}

/// The status for a bulk in which some runs were started and others collided.
pub fn bulk_idempotency_collision(started: Vec<String>, collisions: Vec<v1::IdempotencyCollisionError>) -> Status {
    let error = v1::BulkTriggerIdempotencyCollisionError { successful_workflow_run_external_ids: started, collisions };
    collided(any("v1.BulkTriggerIdempotencyCollisionError", &error))
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

fn collided(detail: prost_types::Any) -> Status {
    let details =
        google::rpc::Status { code: Code::AlreadyExists.into(), message: COLLISION.to_owned(), details: vec![detail] };
    Status::with_details(Code::AlreadyExists, COLLISION, Bytes::from(details.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use mainspring_core::id::TaskId;
    use mainspring_core::{RunId, workflow};

    use super::*;

    /// Codes the SDKs take as the last word.
    const FINAL: [Code; 6] = [
        Code::Unimplemented,
        Code::InvalidArgument,
        Code::AlreadyExists,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::NotFound,
    ];

    #[test]
    fn refusals_have_the_codes_the_sdks_expect() {
        let run = RunId(7);
        let task = TaskId { run, index: 0 };
        let name = || "orders".to_owned();
        for (refusal, code) in [
            (Refusal::NoTenant, Code::Unauthenticated),
            (Refusal::NoWorkflow { name: name() }, Code::NotFound),
            (Refusal::NoRun { run }, Code::NotFound),
            (Refusal::NoWorker, Code::NotFound),
            (Refusal::RunEnded { run }, Code::InvalidArgument),
            (Refusal::StaleClaim { task, attempt: 2 }, Code::InvalidArgument),
            (Refusal::BadDefinition(workflow::BadDefinition::NoTask), Code::InvalidArgument),
            (Refusal::IdempotencyConflict { key: name() }, Code::AlreadyExists),
            (Refusal::TooLarge { what: "the input", found: 5, max: 4 }, Code::InvalidArgument),
            (Refusal::NotDurable { task }, Code::InvalidArgument),
        ] {
            let status = refused(&refusal);
            assert_eq!(status.code(), code, "{refusal}");
            assert_eq!(status.message(), refusal.to_string());
            assert!(FINAL.contains(&status.code()), "no repetition mends: {refusal}");
        }
        let full = refused(&Refusal::Full { what: "workers", max: 3, action: "stop some" });
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert!(!FINAL.contains(&full.code()));
    }

    #[test]
    fn what_passes_is_tried_again() {
        for error in [
            EngineError::Busy { what: "the inbox", retry_after_ms: 250 },
            EngineError::Stopped { cause: "no space".into() },
            EngineError::ShuttingDown,
            EngineError::Unreadable { cause: "locked".into() },
        ] {
            assert_eq!(failed(&error).code(), Code::Unavailable, "{error}");
        }
        let busy = failed(&EngineError::Busy { what: "the inbox", retry_after_ms: 250 });
        assert_eq!(busy.metadata().get(RETRY_PUSHBACK).expect("told when"), "250");
        assert_eq!(failed(&EngineError::Missing { what: "payload 1".into() }).code(), Code::DataLoss);
        assert_eq!(failed(&EngineError::Refused(Refusal::NoWorker)).code(), Code::NotFound);
    }

    #[test]
    fn a_collision_carries_what_the_sdk_unpacks() {
        let status = idempotency_collision("run-1".into(), "run-2".into());
        assert_eq!((status.code(), status.message()), (Code::AlreadyExists, "idempotency key collision"));
        let details = google::rpc::Status::decode(status.details()).expect("google.rpc.Status");
        assert_eq!((details.code, details.message.as_str()), (6, "idempotency key collision"));
        assert_eq!(details.details[0].type_url, "type.googleapis.com/v1.IdempotencyCollisionError");
        let error = v1::IdempotencyCollisionError::decode(details.details[0].value.as_slice()).expect("the error");
        assert_eq!(error.existing_run_external_id, "run-1");
        assert_eq!(error.colliding_run_external_id, "run-2");

        let status = bulk_idempotency_collision(vec!["run-3".into()], vec![error]);
        let details = google::rpc::Status::decode(status.details()).expect("google.rpc.Status");
        assert_eq!(details.details[0].type_url, "type.googleapis.com/v1.BulkTriggerIdempotencyCollisionError");
        let bulk = v1::BulkTriggerIdempotencyCollisionError::decode(details.details[0].value.as_slice());
        let bulk = bulk.expect("the error");
        assert_eq!(bulk.successful_workflow_run_external_ids, ["run-3"]);
        assert_eq!(bulk.collisions.len(), 1);
    }

    #[test]
    fn fixed_texts_are_what_the_sdks_look_for() {
        assert_eq!(
            (unauthenticated().code(), unauthenticated().message()),
            (Code::Unauthenticated, "invalid auth token")
        );
        let gone = stream_not_active();
        assert_eq!((gone.code(), gone.message()), (Code::FailedPrecondition, "worker stream is not active"));
        let bad = bad_duration("increment_timeout_by", &BadDuration::Empty);
        assert_eq!(bad.code(), Code::InvalidArgument);
        assert!(bad.message().starts_with("increment_timeout_by: the duration is empty"));
        assert_eq!(bad_field("priority", "1 to 3 are allowed").message(), "priority: 1 to 3 are allowed");
        assert_eq!(not_yet("a batch task").code(), Code::Unimplemented);
    }
}
