//! What the calls answer: the fields that SDKs insist on, and what they do.

use std::collections::{BTreeMap, HashMap};

use mainspring_hatchet::wire::root::dispatcher_server::Dispatcher;
use mainspring_hatchet::wire::root::events_service_server::EventsService;
use mainspring_hatchet::wire::root::workflow_service_server::WorkflowService;
use mainspring_hatchet::wire::root::{PushEventRequest, PutRateLimitRequest, WorkerLabels, WorkerRegisterRequest};
use serde_json::{Value, json};

use crate::harness::{Served, TENANT, call, register};

fn tenant_path(rest: &str) -> String {
    format!("/api/v1/stable/tenants/{TENANT}/{rest}")
}

/// The fields that the Python client refuses an answer without, with the kind of each.
fn must_have(object: &Value, fields: &[(&str, &str)]) {
    for (field, kind) in fields {
        let value = object.get(field).unwrap_or_else(|| panic!("{field} is missing in {object}"));
        let fits = match *kind {
            "text" => value.is_string(),
            "number" => value.is_u64() || value.is_i64(),
            "object" => value.is_object(),
            "list" => value.is_array(),
            "id" => value.as_str().is_some_and(|text| text.len() == 36),
            "time" => value.as_str().is_some_and(|text| text.len() == 24 && text.ends_with('Z')),
            other => panic!("no kind {other}"),
        };
        assert!(fits, "{field} is no {kind}: {value}");
    }
}

fn must_be_meta(value: &Value) {
    must_have(&value["metadata"], &[("id", "id"), ("createdAt", "time"), ("updatedAt", "time")]);
}

fn must_be_task(task: &Value) {
    must_be_meta(task);
    must_have(
        task,
        &[
            ("createdAt", "time"),
            ("displayName", "text"),
            ("input", "object"),
            ("numSpawnedChildren", "number"),
            ("output", "object"),
            ("status", "text"),
            ("taskExternalId", "id"),
            ("taskId", "number"),
            ("taskInsertedAt", "time"),
            ("tenantId", "id"),
            ("type", "text"),
            ("workflowId", "id"),
            ("workflowRunExternalId", "id"),
        ],
    );
}

fn must_be_details(details: &Value) {
    must_be_meta(&details["run"]);
    must_have(
        &details["run"],
        &[
            ("status", "text"),
            ("tenantId", "id"),
            ("displayName", "text"),
            ("workflowId", "id"),
            ("output", "object"),
            ("input", "object"),
        ],
    );
    must_have(details, &[("taskEvents", "list"), ("shape", "list"), ("tasks", "list")]);
    let each = |what: &str| details[what].as_array().cloned().unwrap_or_default();
    each("tasks").iter().for_each(must_be_task);
    for event in each("taskEvents") {
        let fields = [("id", "number"), ("taskId", "id"), ("timestamp", "time"), ("eventType", "text")];
        must_have(&event, &fields);
        must_have(&event, &[("message", "text")]);
    }
    for item in each("shape") {
        let fields = [("taskExternalId", "id"), ("stepId", "id"), ("childrenStepIds", "list"), ("taskName", "text")];
        must_have(&item, &fields);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_seen_cancelled_and_replayed() {
    let served = Served::start().await;
    register(&served, "Simple", &[("step", &[])]).await;
    let body = json!({"workflowName": "Simple", "input": {"a": 1}, "additionalMetadata": {"who": "me"}}).to_string();
    let (status, details) = served.rest("write", "POST", &tenant_path("workflow-runs/trigger"), &body).await;
    assert_eq!(status, 200, "{details}");
    must_be_details(&details);
    let id = details["run"]["metadata"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(details["run"]["input"], json!({"a": 1}));
    assert_eq!(details["run"]["additionalMetadata"], json!({"who": "me"}));
    assert!(details["run"]["displayName"].as_str().is_some_and(|name| name.starts_with("Simple-")));
    assert_eq!(details["tasks"][0]["actionId"], "simple:step");
    assert_eq!(served.get(&format!("/api/v1/stable/workflow-runs/{id}/status")).await, "QUEUED");
    must_be_task(&served.get(&format!("/api/v1/stable/tasks/{id}")).await);

    let since = "since=2020-01-01T00:00:00.123456Z";
    for query in ["only_tasks=false", "only_tasks=true", "additional_metadata=who%3Ame&statuses=QUEUED&statuses=FAILED"]
    {
        let list = served.get(&tenant_path(&format!("workflow-runs?{since}&{query}"))).await;
        assert_eq!(list["rows"].as_array().map(Vec::len), Some(1), "{query}: {list}");
        assert_eq!(list["rows"][0]["workflowName"], "Simple");
        must_be_task(&list["rows"][0]);
    }
    let none = served.get(&tenant_path(&format!("workflow-runs?{since}&statuses=FAILED"))).await;
    assert_eq!(none["rows"], json!([]));
    assert_eq!(served.get(&tenant_path(&format!("workflow-runs/external-ids?{since}"))).await, json!([id]));

    let chosen = json!({ "externalIds": [id] }).to_string();
    let (status, ids) = served.rest("write", "POST", &tenant_path("tasks/cancel"), &chosen).await;
    assert_eq!((status, ids), (200, json!({ "ids": [id] })));
    let details = served.get(&format!("/api/v1/stable/workflow-runs/{id}")).await;
    must_be_details(&details);
    assert_eq!(details["run"]["status"], "CANCELLED");
    let kinds: Vec<&str> = details["taskEvents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["eventType"].as_str())
        .collect();
    assert_eq!(kinds, ["CREATED", "QUEUED", "CANCELLED"]);

    let filter = json!({"filter": {"since": "2020-01-01T00:00:00.000Z", "statuses": ["CANCELLED"], "workflowIds": []}});
    let (status, ids) = served.rest("write", "POST", &tenant_path("tasks/replay"), &filter.to_string()).await;
    assert_eq!((status, ids), (200, json!({ "ids": [id] })));
    assert_eq!(served.get(&format!("/api/v1/stable/workflow-runs/{id}/status")).await, "QUEUED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_several_tasks_has_a_shape() {
    let served = Served::start().await;
    register(&served, "Diamond", &[("top", &[]), ("left", &["top"]), ("right", &["top"])]).await;
    let body = json!({"workflowName": "Diamond", "input": {}}).to_string();
    let (_, details) = served.rest("write", "POST", &tenant_path("workflow-runs/trigger"), &body).await;
    must_be_details(&details);
    let shape = details["shape"].as_array().expect("a shape");
    assert_eq!(
        shape.iter().map(|item| item["taskName"].as_str()).collect::<Vec<_>>(),
        [Some("top"), Some("left"), Some("right")]
    );
    assert_eq!(shape[0]["childrenStepIds"], json!([shape[1]["stepId"], shape[2]["stepId"]]));
    let list = served.get(&tenant_path("workflow-runs?only_tasks=false&include_payloads=false")).await;
    assert_eq!(list["rows"][0]["type"], "DAG");
    assert_eq!(list["rows"][0]["children"].as_array().map(Vec::len), Some(3));
    let page = served.get(&tenant_path("workflow-runs?only_tasks=true&limit=2&offset=1")).await;
    assert_eq!(page["rows"].as_array().map(Vec::len), Some(2));
    let right = shape[2]["taskExternalId"].as_str().expect("an id");
    let task = served.get(&format!("/api/v1/stable/tasks/{right}")).await;
    assert!(task["displayName"].as_str().is_some_and(|name| name.starts_with("right-")), "{task}");
    let logs = served.get(&format!("/api/v1/stable/tasks/{right}/logs?limit=1000")).await;
    assert_eq!(logs["rows"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_workflows_events_limits_and_the_tenant_are_seen() {
    let served = Served::start().await;
    register(&served, "Simple", &[("step", &[])]).await;
    let label = WorkerLabels { str_value: None, int_value: Some(7) };
    let request = WorkerRegisterRequest {
        worker_name: "w1".to_owned(),
        actions: vec!["simple:step".to_owned()],
        slot_config: HashMap::from([("default".to_owned(), 10)]).into_iter().collect(),
        labels: BTreeMap::from([("size".to_owned(), label)]).into_iter().collect(),
        ..WorkerRegisterRequest::default()
    };
    let registered = Dispatcher::register(&served.hatchet, call(request)).await.expect("a worker").into_inner();
    let path = format!("/api/v1/workers/{}", registered.worker_id);
    let worker = served.get(&path).await;
    must_be_meta(&worker);
    must_have(&worker, &[("name", "text"), ("type", "text"), ("labels", "list")]);
    must_be_meta(&worker["labels"][0]);
    assert_eq!((&worker["status"], &worker["labels"][0]["value"]), (&json!("INACTIVE"), &json!("7")));
    assert_eq!(worker["slotConfig"], json!({"default": {"limit": 10, "available": 10}}));
    let listen = mainspring_hatchet::wire::root::WorkerListenRequest { worker_id: registered.worker_id.clone() };
    let stream = Dispatcher::listen_v2(&served.hatchet, call(listen)).await.expect("a stream");
    assert_eq!(served.get(&path).await["status"], "ACTIVE");
    let (status, worker) = served.rest("write", "PATCH", &path, "{\"isPaused\": true}").await;
    assert_eq!((status, &worker["status"]), (200, &json!("PAUSED")));
    let (_, worker) = served.rest("write", "PATCH", &path, "{\"isPaused\": false}").await;
    assert_eq!(worker["status"], "ACTIVE");
    let list = served.get(&format!("/api/v1/tenants/{TENANT}/worker")).await;
    assert_eq!(list["rows"].as_array().map(Vec::len), Some(1));
    drop(stream);

    let list = served.get(&format!("/api/v1/tenants/{TENANT}/workflows?name=Simple")).await;
    let workflow = &list["rows"][0];
    must_be_meta(workflow);
    assert_eq!((&workflow["name"], &workflow["tenantId"]), (&json!("Simple"), &json!(TENANT.to_string())));
    let id = workflow["metadata"]["id"].as_str().expect("an id");
    assert_eq!(served.get(&format!("/api/v1/workflows/{id}")).await["name"], "Simple");
    let version = served.get(&format!("/api/v1/workflows/{id}/versions")).await;
    must_be_meta(&version);
    must_have(&version, &[("version", "text"), ("order", "number"), ("workflowId", "id"), ("jobs", "list")]);

    for (key, scope) in [("simple:happened", None), ("other", Some("a")), ("other", Some("b"))] {
        let request = PushEventRequest {
            key: key.to_owned(),
            payload: "{\"n\":1}".to_owned(),
            scope: scope.map(str::to_owned),
            additional_metadata: Some("{\"k\":\"v\"}".to_owned()),
            ..PushEventRequest::default()
        };
        EventsService::push(&served.hatchet, call(request)).await.expect("an event");
    }
    let list = served.get(&tenant_path("events")).await;
    let scopes: Vec<&Value> = list["rows"].as_array().into_iter().flatten().map(|row| &row["scope"]).collect();
    assert_eq!(scopes, [&json!("b"), &json!("a"), &Value::Null], "newest first");
    let list = served.get(&tenant_path("events?keys=simple%3Ahappened&additionalMetadata=k%3Av")).await;
    let event = &list["rows"][0];
    must_be_meta(event);
    must_have(event, &[("key", "text"), ("tenantId", "id"), ("workflowRunSummary", "object"), ("payload", "object")]);
    assert_eq!(event["triggeredRuns"].as_array().map(Vec::len), Some(1), "{event}");
    let id = event["metadata"]["id"].as_str().expect("an id");
    assert_eq!(&served.get(&tenant_path(&format!("events/{id}"))).await, event);
    let runs = served.get(&tenant_path(&format!("workflow-runs?triggering_event_external_id={id}"))).await;
    assert_eq!(runs["rows"].as_array().map(Vec::len), Some(1));

    let request = PutRateLimitRequest { key: "api".to_owned(), limit: 5, duration: 1 };
    WorkflowService::put_rate_limit(&served.hatchet, call(request)).await.expect("a limit");
    let limits = served.get(&format!("/api/v1/tenants/{TENANT}/rate-limits?search=ap")).await;
    let limit = &limits["rows"][0];
    must_have(limit, &[("key", "text"), ("tenantId", "id"), ("window", "text"), ("lastRefill", "time")]);
    assert_eq!((&limit["limitValue"], &limit["value"]), (&json!(5), &json!(5)));

    let tenant = served.get(&format!("/api/v1/tenants/{TENANT}")).await;
    must_be_meta(&tenant);
    assert_eq!((&tenant["version"], &tenant["slug"]), (&json!("V1"), &json!("test-tenant")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_refused_in_words() {
    let served = Served::start().await;
    let tenant = format!("/api/v1/tenants/{TENANT}");
    let elsewhere = "/api/v1/tenants/0191e0c5-7a2b-7c3d-8e4f-a1b2c3d50000";
    for (token, verb, path, body, wanted) in [
        ("none", "GET", tenant.as_str(), "", 401),
        ("write", "GET", elsewhere, "", 403),
        ("read", "POST", &tenant_path("tasks/cancel"), "{}", 403),
        ("write", "POST", &tenant_path("tasks/cancel"), "{}", 400),
        ("write", "POST", &tenant_path("tasks/cancel"), "no json", 400),
        ("write", "POST", &tenant_path("workflow-runs/trigger"), "{\"workflowName\":\"no\",\"input\":{}}", 404),
        ("write", "GET", &tenant_path("workflow-runs?since=yesterday"), "", 400),
        ("write", "GET", &tenant_path("workflow-runs?statuses=ILL"), "", 400),
        ("write", "GET", "/api/v1/stable/workflow-runs/none", "", 400),
        ("write", "GET", "/api/v1/stable/workflow-runs/0191e0c5-7a2b-7c3d-8e4f-a1b2c3d50000", "", 404),
        ("write", "PATCH", "/api/v1/workers/0191e0c5-7a2b-7c3d-8e4f-a1b2c3d50000", "{\"isPaused\":true}", 404),
        ("write", "GET", "/api/v1/nothing", "", 404),
        ("write", "DELETE", &tenant_path("workflow-runs"), "", 405),
    ] {
        let (status, answer) = served.rest(token, verb, path, body).await;
        assert_eq!(status, wanted, "{verb} {path}: {answer}");
        assert!(answer["errors"][0]["description"].as_str().is_some_and(|text| text.len() > 10), "{answer}");
    }
    let large = format!("{{\"workflowName\":\"w\",\"input\":{{\"a\":\"{}\"}}}}", "x".repeat(5 << 20));
    let (status, _) = served.rest("write", "POST", &tenant_path("workflow-runs/trigger"), &large).await;
    assert_eq!(status, 413);
    assert_eq!(served.rest("none", "GET", "/api/ready", "").await.0, 200);
}

#[tokio::test]
async fn events_of_many_scopes_are_listed_newest_first() {
    let served = Served::start().await;
    for number in 0..45 {
        let event = PushEventRequest {
            key: format!("many:{number}"),
            payload: "{}".to_owned(),
            scope: Some(format!("scope {}", number % 3)),
            ..PushEventRequest::default()
        };
        EventsService::push(&served.hatchet, call(event)).await.expect("an event");
    }
    let list = served.get(&tenant_path("events?limit=40")).await;
    let keys: Vec<&str> = list["rows"].as_array().expect("rows").iter().filter_map(|row| row["key"].as_str()).collect();
    let expected: Vec<String> = (5..45).rev().map(|number| format!("many:{number}")).collect();
    assert_eq!(keys, expected, "more of each scope than are read at once");
    let rest = served.get(&tenant_path("events?limit=40&offset=40")).await;
    assert_eq!(rest["rows"].as_array().map(Vec::len), Some(5));
}
