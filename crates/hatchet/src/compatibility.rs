//! How far each call of Hatchet's wire is served: the one place that says so.
//!
//! The page `docs/hatchet.md` is made of it, the router answers 501 by it, and tests hold it against the descriptors,
//! the list of operations, and what is really answered.

use std::fmt::Write;

use crate::server::VERSION;

/// How far a call is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As an SDK expects it.
    Works,
    /// With what the remark says.
    Partly,
    /// It is refused: gRPC `UNIMPLEMENTED`, REST 501.
    NotYet,
}

impl State {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            State::Works => "works",
            State::Partly => "partly",
            State::NotYet => "not yet",
        }
    }
}

/// An operation of the REST API.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// `GET`, `POST`, ...
    pub verb: &'static str,
    /// Its address, with names of its parts in braces.
    pub path: &'static str,
    /// Its name in the API's description.
    pub name: &'static str,
    /// How far it is served.
    pub state: State,
    /// What to know about it.
    pub remark: &'static str,
}

impl Operation {
    /// The verb, for routers.
    pub(crate) fn method(&self) -> axum::http::Method {
        axum::http::Method::from_bytes(self.verb.as_bytes()).unwrap_or_default()
    }
}

/// A method of a gRPC service.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The service, with its package.
    pub service: &'static str,
    /// The method.
    pub name: &'static str,
    /// How far it is served.
    pub state: State,
    /// What to know about it.
    pub remark: &'static str,
}

const fn works(verb: &'static str, path: &'static str, name: &'static str, remark: &'static str) -> Operation {
    Operation { verb, path, name, state: State::Works, remark }
}

const fn partly(verb: &'static str, path: &'static str, name: &'static str, remark: &'static str) -> Operation {
    Operation { verb, path, name, state: State::Partly, remark }
}

const fn not_yet(verb: &'static str, path: &'static str, name: &'static str) -> Operation {
    Operation { verb, path, name, state: State::NotYet, remark: "" }
}

/// Every method of every service in [`crate::wire::FILE_DESCRIPTOR_SET`].
pub const METHODS: &[Method] = &[
    Method { service: "Dispatcher", name: "Register", state: State::Works, remark: "" },
    Method { service: "Dispatcher", name: "Listen", state: State::Works, remark: "" },
    Method { service: "Dispatcher", name: "ListenV2", state: State::Works, remark: "" },
    Method { service: "Dispatcher", name: "Heartbeat", state: State::Works, remark: "" },
    Method {
        service: "Dispatcher",
        name: "SubscribeToWorkflowEvents",
        state: State::Partly,
        remark: "By a run's id. Asked by metadata, the stream ends at once.",
    },
    Method { service: "Dispatcher", name: "SubscribeToWorkflowRuns", state: State::Works, remark: "" },
    Method { service: "Dispatcher", name: "SendStepActionEvent", state: State::Works, remark: "" },
    Method {
        service: "Dispatcher",
        name: "SendBatchActionEvent",
        state: State::Partly,
        remark: "As so many single reports, 10000 at most. Batch tasks are not executed yet.",
    },
    Method {
        service: "Dispatcher",
        name: "SendGroupKeyActionEvent",
        state: State::NotYet,
        remark: "Of the first SDKs.",
    },
    Method { service: "Dispatcher", name: "PutOverridesData", state: State::Partly, remark: "Taken and not kept." },
    Method { service: "Dispatcher", name: "Unsubscribe", state: State::Works, remark: "" },
    Method { service: "Dispatcher", name: "RefreshTimeout", state: State::Works, remark: "" },
    Method { service: "Dispatcher", name: "ReleaseSlot", state: State::Works, remark: "" },
    Method {
        service: "Dispatcher",
        name: "RestoreEvictedTask",
        state: State::NotYet,
        remark: "Durable tasks are not executed yet.",
    },
    Method { service: "Dispatcher", name: "UpsertWorkerLabels", state: State::Works, remark: "" },
    Method { service: "Dispatcher", name: "GetVersion", state: State::Works, remark: "" },
    Method { service: "EventsService", name: "Push", state: State::Works, remark: "" },
    Method { service: "EventsService", name: "BulkPush", state: State::Works, remark: "" },
    Method {
        service: "EventsService",
        name: "ReplaySingleEvent",
        state: State::NotYet,
        remark: "Push it again, or replay the runs it started.",
    },
    Method { service: "EventsService", name: "PutLog", state: State::Works, remark: "" },
    Method { service: "EventsService", name: "PutStreamEvent", state: State::Works, remark: "" },
    Method {
        service: "WorkflowService",
        name: "PutWorkflow",
        state: State::NotYet,
        remark: "Of the first SDKs; today they call v1.AdminService/PutWorkflow.",
    },
    Method { service: "WorkflowService", name: "ScheduleWorkflow", state: State::NotYet, remark: "" },
    Method { service: "WorkflowService", name: "TriggerWorkflow", state: State::Works, remark: "" },
    Method { service: "WorkflowService", name: "BulkTriggerWorkflow", state: State::Works, remark: "" },
    Method { service: "WorkflowService", name: "PutRateLimit", state: State::Works, remark: "" },
    Method {
        service: "WorkflowService",
        name: "PauseRateLimit",
        state: State::NotYet,
        remark: "Put a limit of 0 instead.",
    },
    Method {
        service: "v1.AdminService",
        name: "PutWorkflow",
        state: State::Partly,
        remark: "What is not executed yet (durable tasks, crons, concurrency, ...) may be registered; starting a run of it is refused.",
    },
    Method { service: "v1.AdminService", name: "CancelTasks", state: State::Works, remark: "" },
    Method { service: "v1.AdminService", name: "ReplayTasks", state: State::Works, remark: "" },
    Method { service: "v1.AdminService", name: "TriggerWorkflowRun", state: State::Works, remark: "" },
    Method { service: "v1.AdminService", name: "GetRunDetails", state: State::Works, remark: "" },
    Method {
        service: "v1.AdminService",
        name: "BranchDurableTask",
        state: State::NotYet,
        remark: "Durable tasks are not executed yet.",
    },
    Method {
        service: "v1.V1Dispatcher",
        name: "DurableTask",
        state: State::NotYet,
        remark: "Durable tasks are not executed yet.",
    },
    Method {
        service: "v1.V1Dispatcher",
        name: "RegisterDurableEvent",
        state: State::NotYet,
        remark: "Durable tasks are not executed yet.",
    },
    Method {
        service: "v1.V1Dispatcher",
        name: "ListenForDurableEvent",
        state: State::NotYet,
        remark: "Durable tasks are not executed yet.",
    },
    Method {
        service: "opentelemetry.proto.collector.trace.v1.TraceService",
        name: "Export",
        state: State::Partly,
        remark: "Spans are taken and not kept.",
    },
];

/// Every operation that the description of Hatchet's REST API has.
pub const OPERATIONS: &[Operation] = &[
    works("GET", "/api/live", "liveness_get", ""),
    works("GET", "/api/ready", "readiness_get", ""),
    not_yet("DELETE", "/api/v1/alerting-email-groups/{alert-email-group}", "alert_email_group_delete"),
    not_yet("PATCH", "/api/v1/alerting-email-groups/{alert-email-group}", "alert_email_group_update"),
    not_yet("POST", "/api/v1/api-tokens/{api-token}", "api_token_update_revoke"),
    not_yet("GET", "/api/v1/cloud/metadata", "cloud_metadata_get"),
    not_yet("GET", "/api/v1/events/{event}", "event_get"),
    not_yet("GET", "/api/v1/events/{event}/data", "event_data_get"),
    not_yet("GET", "/api/v1/meta", "metadata_get"),
    not_yet("GET", "/api/v1/meta/integrations", "metadata_list_integrations"),
    not_yet("POST", "/api/v1/monitoring/{tenant}/probe", "monitoring_post_run_probe"),
    not_yet("DELETE", "/api/v1/slack/{slack}", "slack_webhook_delete"),
    not_yet("DELETE", "/api/v1/sns/{sns}", "sns_delete"),
    not_yet("POST", "/api/v1/sns/{tenant}/{event}", "sns_update"),
    not_yet("GET", "/api/v1/stable/dags/tasks", "v1_dag_list_tasks"),
    not_yet("DELETE", "/api/v1/stable/operators/http/{v1-http-operator}", "v1_http_operator_delete"),
    not_yet("GET", "/api/v1/stable/operators/http/{v1-http-operator}", "v1_http_operator_get"),
    not_yet("PATCH", "/api/v1/stable/operators/http/{v1-http-operator}", "v1_http_operator_update"),
    works("GET", "/api/v1/stable/tasks/{task}", "v1_task_get", ""),
    works("GET", "/api/v1/stable/tasks/{task}/logs", "v1_log_line_list", ""),
    not_yet("POST", "/api/v1/stable/tasks/{task}/restore", "v1_task_restore"),
    partly(
        "GET",
        "/api/v1/stable/tasks/{task}/task-events",
        "v1_task_event_list",
        "The last event of each kind that the task still tells of.",
    ),
    not_yet("POST", "/api/v1/stable/tenants/{tenant}/cel/debug", "v1_cel_debug"),
    not_yet("POST", "/api/v1/stable/tenants/{tenant}/durable-tasks/branch", "v1_durable_task_branch"),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/durable-tasks/{durable-task}", "v1_durable_task_event_log_list"),
    partly(
        "GET",
        "/api/v1/stable/tenants/{tenant}/events",
        "v1_event_list",
        "Searches the latest 5,000 events. Payloads that are no objects are shown as `{}`.",
    ),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/events/keys", "v1_event_key_list"),
    partly(
        "GET",
        "/api/v1/stable/tenants/{tenant}/events/{v1-event}",
        "v1_event_get",
        "A payload that is no object is shown as `{}`.",
    ),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/filters", "v1_filter_list"),
    not_yet("POST", "/api/v1/stable/tenants/{tenant}/filters", "v1_filter_create"),
    not_yet("DELETE", "/api/v1/stable/tenants/{tenant}/filters/{v1-filter}", "v1_filter_delete"),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/filters/{v1-filter}", "v1_filter_get"),
    not_yet("PATCH", "/api/v1/stable/tenants/{tenant}/filters/{v1-filter}", "v1_filter_update"),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/log-point-metrics", "v1_tenant_log_line_get_point_metrics"),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/logs", "v1_tenant_log_line_list"),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/operators/http", "v1_http_operator_list"),
    not_yet("POST", "/api/v1/stable/tenants/{tenant}/operators/http", "v1_http_operator_create"),
    partly(
        "GET",
        "/api/v1/stable/tenants/{tenant}/task-metrics",
        "v1_task_list_status_metrics",
        "Counts the latest 50,000 runs.",
    ),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/task-point-metrics", "v1_task_get_point_metrics"),
    works("POST", "/api/v1/stable/tenants/{tenant}/tasks/cancel", "v1_task_cancel", ""),
    works("POST", "/api/v1/stable/tenants/{tenant}/tasks/replay", "v1_task_replay", ""),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/traces", "v1_observability_get_trace"),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/webhooks", "v1_webhook_list"),
    not_yet("POST", "/api/v1/stable/tenants/{tenant}/webhooks", "v1_webhook_create"),
    not_yet("DELETE", "/api/v1/stable/tenants/{tenant}/webhooks/{v1-webhook}", "v1_webhook_delete"),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/webhooks/{v1-webhook}", "v1_webhook_get"),
    not_yet("PATCH", "/api/v1/stable/tenants/{tenant}/webhooks/{v1-webhook}", "v1_webhook_update"),
    not_yet("POST", "/api/v1/stable/tenants/{tenant}/webhooks/{v1-webhook}", "v1_webhook_receive"),
    partly(
        "GET",
        "/api/v1/stable/tenants/{tenant}/workflow-runs",
        "v1_workflow_run_list",
        "Searches the latest 50,000 runs; how many pages there are is only told as far as the next.",
    ),
    not_yet("GET", "/api/v1/stable/tenants/{tenant}/workflow-runs/display-names", "v1_workflow_run_display_names_list"),
    works(
        "GET",
        "/api/v1/stable/tenants/{tenant}/workflow-runs/external-ids",
        "v1_workflow_run_external_ids_list",
        "At most 20,000 ids.",
    ),
    works("POST", "/api/v1/stable/tenants/{tenant}/workflow-runs/trigger", "v1_workflow_run_create", ""),
    partly(
        "GET",
        "/api/v1/stable/workflow-runs/{v1-workflow-run}",
        "v1_workflow_run_get",
        "Without `workflowConfig`; `taskEvents` has the last event of each kind.",
    ),
    works("GET", "/api/v1/stable/workflow-runs/{v1-workflow-run}/status", "v1_workflow_run_get_status", ""),
    partly(
        "GET",
        "/api/v1/stable/workflow-runs/{v1-workflow-run}/task-events",
        "v1_workflow_run_task_events_list",
        "The last event of each kind that each task still tells of.",
    ),
    not_yet("GET", "/api/v1/stable/workflow-runs/{v1-workflow-run}/task-timings", "v1_workflow_run_get_timings"),
    not_yet("GET", "/api/v1/step-runs/{step-run}/archives", "step_run_list_archives"),
    not_yet("GET", "/api/v1/step-runs/{step-run}/events", "step_run_list_events"),
    not_yet("POST", "/api/v1/tenants", "tenant_create"),
    works("GET", "/api/v1/tenants/{tenant}", "tenant_get", ""),
    not_yet("PATCH", "/api/v1/tenants/{tenant}", "tenant_update"),
    not_yet("GET", "/api/v1/tenants/{tenant}/alerting-email-groups", "alert_email_group_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/alerting-email-groups", "alert_email_group_create"),
    not_yet("GET", "/api/v1/tenants/{tenant}/alerting/settings", "tenant_alerting_settings_get"),
    not_yet("GET", "/api/v1/tenants/{tenant}/api-tokens", "api_token_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/api-tokens", "api_token_create"),
    not_yet("GET", "/api/v1/tenants/{tenant}/events", "event_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/events", "event_create"),
    not_yet("POST", "/api/v1/tenants/{tenant}/events/bulk", "event_create_bulk"),
    not_yet("POST", "/api/v1/tenants/{tenant}/events/cancel", "event_update_cancel"),
    not_yet("GET", "/api/v1/tenants/{tenant}/events/keys", "event_key_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/events/replay", "event_update_replay"),
    not_yet("GET", "/api/v1/tenants/{tenant}/events/{event-with-tenant}/data", "event_data_get_with_tenant"),
    not_yet("GET", "/api/v1/tenants/{tenant}/feature-flags", "tenant_feature_flag_evaluate"),
    not_yet("GET", "/api/v1/tenants/{tenant}/invites", "tenant_invite_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/invites", "tenant_invite_create"),
    not_yet("DELETE", "/api/v1/tenants/{tenant}/invites/{tenant-invite}", "tenant_invite_delete"),
    not_yet("PATCH", "/api/v1/tenants/{tenant}/invites/{tenant-invite}", "tenant_invite_update"),
    not_yet("GET", "/api/v1/tenants/{tenant}/members", "tenant_member_list"),
    not_yet("DELETE", "/api/v1/tenants/{tenant}/members/{member}", "tenant_member_delete"),
    not_yet("PATCH", "/api/v1/tenants/{tenant}/members/{member}", "tenant_member_update"),
    not_yet("GET", "/api/v1/tenants/{tenant}/prometheus-metrics", "tenant_get_prometheus_metrics"),
    not_yet("GET", "/api/v1/tenants/{tenant}/queue-metrics", "tenant_get_queue_metrics"),
    not_yet("DELETE", "/api/v1/tenants/{tenant}/rate-limits", "rate_limit_delete"),
    works("GET", "/api/v1/tenants/{tenant}/rate-limits", "rate_limit_list", ""),
    not_yet("GET", "/api/v1/tenants/{tenant}/resource-policy", "tenant_resource_policy_get"),
    not_yet("GET", "/api/v1/tenants/{tenant}/slack", "slack_webhook_list"),
    not_yet("GET", "/api/v1/tenants/{tenant}/slack/start", "user_update_slack_oauth_start"),
    not_yet("GET", "/api/v1/tenants/{tenant}/sns", "sns_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/sns", "sns_create"),
    partly(
        "GET",
        "/api/v1/tenants/{tenant}/step-run-queue-metrics",
        "tenant_get_step_run_queue_metrics",
        "Counts the latest 50,000 runs.",
    ),
    not_yet("GET", "/api/v1/tenants/{tenant}/step-runs/{step-run}", "step_run_get"),
    not_yet("POST", "/api/v1/tenants/{tenant}/step-runs/{step-run}/cancel", "step_run_update_cancel"),
    not_yet("POST", "/api/v1/tenants/{tenant}/step-runs/{step-run}/rerun", "step_run_update_rerun"),
    not_yet("GET", "/api/v1/tenants/{tenant}/step-runs/{step-run}/schema", "step_run_get_schema"),
    partly(
        "GET",
        "/api/v1/tenants/{tenant}/task-stats",
        "tenant_get_task_stats",
        "Counts the latest 50,000 runs; without concurrency and ages.",
    ),
    not_yet("GET", "/api/v1/tenants/{tenant}/webhook-workers", "webhook_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/webhook-workers", "webhook_create"),
    partly("GET", "/api/v1/tenants/{tenant}/worker", "worker_list", "Without recent runs and the slots' tasks."),
    not_yet("POST", "/api/v1/tenants/{tenant}/workflow-runs/replay", "workflow_run_update_replay"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflow-runs/{workflow-run}", "workflow_run_get"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflow-runs/{workflow-run}/input", "workflow_run_get_input"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflow-runs/{workflow-run}/shape", "workflow_run_get_shape"),
    not_yet(
        "GET",
        "/api/v1/tenants/{tenant}/workflow-runs/{workflow-run}/step-run-events",
        "workflow_run_list_step_run_events",
    ),
    partly("GET", "/api/v1/tenants/{tenant}/workflows", "workflow_list", "Without tags and triggers."),
    not_yet("POST", "/api/v1/tenants/{tenant}/workflows/cancel", "workflow_run_cancel"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflows/crons", "cron_workflow_list"),
    not_yet("DELETE", "/api/v1/tenants/{tenant}/workflows/crons/{cron-workflow}", "workflow_cron_delete"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflows/crons/{cron-workflow}", "workflow_cron_get"),
    not_yet("PATCH", "/api/v1/tenants/{tenant}/workflows/crons/{cron-workflow}", "workflow_cron_update"),
    not_yet("POST", "/api/v1/tenants/{tenant}/workflows/crons/{cron-workflow}", "workflow_cron_trigger"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflows/runs", "workflow_run_list"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflows/runs/metrics", "workflow_run_get_metrics"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflows/scheduled", "workflow_scheduled_list"),
    not_yet("POST", "/api/v1/tenants/{tenant}/workflows/scheduled/bulk-delete", "workflow_scheduled_bulk_delete"),
    not_yet("POST", "/api/v1/tenants/{tenant}/workflows/scheduled/bulk-update", "workflow_scheduled_bulk_update"),
    not_yet(
        "DELETE",
        "/api/v1/tenants/{tenant}/workflows/scheduled/{scheduled-workflow-run}",
        "workflow_scheduled_delete",
    ),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflows/scheduled/{scheduled-workflow-run}", "workflow_scheduled_get"),
    not_yet(
        "PATCH",
        "/api/v1/tenants/{tenant}/workflows/scheduled/{scheduled-workflow-run}",
        "workflow_scheduled_update",
    ),
    not_yet(
        "POST",
        "/api/v1/tenants/{tenant}/workflows/scheduled/{scheduled-workflow-run}",
        "workflow_scheduled_trigger",
    ),
    not_yet("POST", "/api/v1/tenants/{tenant}/workflows/{workflow}/crons", "cron_workflow_trigger_create"),
    not_yet("POST", "/api/v1/tenants/{tenant}/workflows/{workflow}/scheduled", "scheduled_workflow_run_create"),
    not_yet("GET", "/api/v1/tenants/{tenant}/workflows/{workflow}/worker-count", "workflow_get_workers_count"),
    not_yet("GET", "/api/v1/users/current", "user_get_current"),
    not_yet("GET", "/api/v1/users/github/callback", "user_update_github_oauth_callback"),
    not_yet("GET", "/api/v1/users/github/start", "user_update_github_oauth_start"),
    not_yet("GET", "/api/v1/users/google/callback", "user_update_google_oauth_callback"),
    not_yet("GET", "/api/v1/users/google/start", "user_update_google_oauth_start"),
    not_yet("GET", "/api/v1/users/invites", "user_list_tenant_invites"),
    not_yet("POST", "/api/v1/users/invites/accept", "tenant_invite_accept"),
    not_yet("POST", "/api/v1/users/invites/reject", "tenant_invite_reject"),
    not_yet("POST", "/api/v1/users/login", "user_update_login"),
    not_yet("POST", "/api/v1/users/logout", "user_update_logout"),
    not_yet("GET", "/api/v1/users/memberships", "tenant_memberships_list"),
    not_yet("POST", "/api/v1/users/password", "user_update_password"),
    not_yet("POST", "/api/v1/users/register", "user_create"),
    not_yet("GET", "/api/v1/users/slack/callback", "user_update_slack_oauth_callback"),
    works("GET", "/api/v1/version", "info_get_version", ""),
    not_yet("DELETE", "/api/v1/webhook-workers/{webhook}", "webhook_delete"),
    not_yet("GET", "/api/v1/webhook-workers/{webhook}/requests", "webhook_requests_list"),
    partly("GET", "/api/v1/workers/{worker}", "worker_get", "Without recent runs and the slots' tasks."),
    works("PATCH", "/api/v1/workers/{worker}", "worker_update", ""),
    not_yet("DELETE", "/api/v1/workflows/{workflow}", "workflow_delete"),
    partly("GET", "/api/v1/workflows/{workflow}", "workflow_get", "Without tags and triggers."),
    not_yet("PATCH", "/api/v1/workflows/{workflow}", "workflow_update"),
    not_yet("GET", "/api/v1/workflows/{workflow}/metrics", "workflow_get_metrics"),
    not_yet("POST", "/api/v1/workflows/{workflow}/trigger", "workflow_run_create"),
    partly("GET", "/api/v1/workflows/{workflow}/versions", "workflow_version_get", "Without concurrency and triggers."),
];

/// The page for people, in Markdown.
pub fn page() -> String {
    let mut page = format!(
        "# What of Hatchet's API is served\n\n\
         Workers and clients written with Hatchet's SDKs connect as they are. Mainspring answers as {VERSION} does. This \
         page is made of the table by which the server answers; a call that is *not yet* served is refused and says so \
         (gRPC `UNIMPLEMENTED`, REST 501).\n\n## gRPC\n\n| Method | State | Remark |\n|---|---|---|\n"
    );
    for method in METHODS {
        let Method { service, name, state, remark } = method;
        // Writing to a text does not fail.
        let _ = writeln!(page, "| `{service}/{name}` | {} | {remark} |", state.word());
    }
    page.push_str("\n## REST\n\n| Operation | Call | State | Remark |\n|---|---|---|---|\n");
    for operation in OPERATIONS {
        let Operation { verb, path, name, state, remark } = operation;
        let _ = writeln!(page, "| {name} | `{verb} {path}` | {} | {remark} |", state.word());
    }
    page
}
