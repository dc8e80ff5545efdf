//! Registrations as SDKs send them: what becomes of them, which are refused and how, and when two are the same version.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainspring_hatchet::definition::{
    Backoff, BadDefinition, Batch, Comparator, Concurrency, Condition, ConditionAction, ConditionOn, Definition,
    Filter, Idempotency, IdempotencyMethod, LabelValue, LabelWish, RateLimit, RateLimitKey, Sticky, Strategy, Units,
    Window, Wrong,
};
use mainspring_hatchet::duration::BadDuration;
use mainspring_hatchet::wire::v1;
use prost_types::Timestamp;

type Request = v1::CreateWorkflowVersionRequest;

fn task(name: &str, parents: &[&str]) -> v1::CreateTaskOpts {
    v1::CreateTaskOpts {
        readable_id: name.into(),
        action: format!("orders:{name}"),
        timeout: "60s".into(),
        inputs: "{}".into(),
        parents: parents.iter().map(|parent| (*parent).into()).collect(),
        schedule_timeout: Some("5m".into()),
        slot_requests: BTreeMap::from([("default".into(), 1)]),
        ..Default::default()
    }
}

fn workflow(tasks: Vec<v1::CreateTaskOpts>) -> Request {
    Request { name: "orders".into(), tasks, ..Default::default() }
}

fn read(request: &Request) -> Definition {
    Definition::from_request(request).unwrap_or_else(|bad| panic!("{bad}"))
}

fn base(action: v1::Action, group: &str, key: &str, cel: &str) -> Option<v1::BaseMatchCondition> {
    Some(v1::BaseMatchCondition {
        readable_data_key: key.into(),
        action: action.into(),
        or_group_id: group.into(),
        expression: cel.into(),
    })
}

fn on_parent(parent: &str, base: Option<v1::BaseMatchCondition>) -> v1::ParentOverrideMatchCondition {
    v1::ParentOverrideMatchCondition { base, parent_readable_id: parent.into() }
}

/// A request that uses everything, with the group ids and the time that SDKs make up at a start.
fn everything(group_a: &str, group_b: &str, group_c: &str, time: &str) -> Request {
    let skip_key = format!("check:output.skip == true:{time}");
    let charge = v1::CreateTaskOpts {
        action: "Orders:Charge".into(),
        retries: 3,
        rate_limits: vec![
            v1::CreateTaskRateLimit {
                key: "bank".into(),
                units: Some(2),
                limit_values_expr: Some("-1".into()),
                duration: Some(v1::RateLimitDuration::Second.into()),
                ..Default::default()
            },
            v1::CreateTaskRateLimit {
                key: "input.user".into(),
                key_expr: Some("input.user".into()),
                units_expr: Some("input.units".into()),
                limit_values_expr: Some("10".into()),
                duration: Some(v1::RateLimitDuration::Year.into()),
                ..Default::default()
            },
        ],
        worker_labels: BTreeMap::from([
            ("model".into(), v1::DesiredWorkerLabels { str_value: Some("big".into()), ..Default::default() }),
            (
                "memory".into(),
                v1::DesiredWorkerLabels {
                    int_value: Some(256),
                    required: Some(true),
                    comparator: Some(v1::WorkerLabelComparator::GreaterThanOrEqual.into()),
                    weight: Some(-5),
                    ..Default::default()
                },
            ),
            ("odd".into(), v1::DesiredWorkerLabels::default()),
        ]),
        backoff_factor: Some(2.5),
        backoff_max_seconds: Some(60),
        concurrency: vec![v1::Concurrency {
            expression: "input.user".into(),
            max_runs: Some(1),
            max_runs_expression: Some("input.vip ? 10 : 1".into()),
            limit_strategy: Some(v1::ConcurrencyLimitStrategy::GroupRoundRobin.into()),
            name: Some("bank-wide".into()),
            is_tenant_scoped: Some(true),
        }],
        conditions: Some(v1::TaskConditions {
            parent_override_conditions: vec![on_parent(
                "check",
                base(v1::Action::Skip, group_a, &skip_key, "output.skip == true"),
            )],
            sleep_conditions: vec![v1::SleepMatchCondition {
                base: base(v1::Action::Queue, group_b, "sleep:10s", ""),
                sleep_for: "10s".into(),
            }],
            user_event_conditions: vec![
                v1::UserEventMatchCondition {
                    base: base(v1::Action::Queue, group_b, "paid", "input.ok"),
                    user_event_key: "paid".into(),
                    event_scope: Some("order-1".into()),
                    consider_events_since: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_900_000 }),
                },
                v1::UserEventMatchCondition {
                    base: base(v1::Action::Cancel, group_c, "stop", ""),
                    user_event_key: "stop".into(),
                    ..Default::default()
                },
            ],
        }),
        slot_requests: BTreeMap::from([("default".into(), 2), ("gpu".into(), 1)]),
        batch: Some(v1::TaskBatchConfig {
            batch_max_size: 10,
            batch_max_interval_ms: Some(250),
            batch_group_key: Some("input.bank".into()),
            batch_group_max_runs: Some(4),
            broadcast_output: Some(true),
        }),
        ..task("charge", &["check"])
    };
    let check = v1::CreateTaskOpts {
        is_durable: true,
        slot_requests: BTreeMap::new(),
        timeout: String::new(),
        schedule_timeout: None,
        inputs: String::new(),
        ..task("check", &[])
    };
    Request {
        description: "takes the money".into(),
        version: "7".into(),
        event_triggers: vec!["order:*".into(), "order:*".into(), "retry".into()],
        cron_triggers: vec!["0 * * * *".into(), "*/5 0 * * * *".into()],
        cron_input: Some(r#"{"a":1}"#.into()),
        on_failure_task: Some(v1::CreateTaskOpts {
            conditions: Some(v1::TaskConditions {
                parent_override_conditions: vec![on_parent("charge", base(v1::Action::Skip, group_a, "late", ""))],
                ..Default::default()
            }),
            ..task("on-failure", &[])
        }),
        sticky: Some(v1::StickyStrategy::Hard.into()),
        default_priority: Some(3),
        concurrency: Some(v1::Concurrency { expression: "'constant'".into(), ..Default::default() }),
        concurrency_arr: vec![v1::Concurrency {
            expression: "input.tenant".into(),
            max_runs: Some(5),
            limit_strategy: Some(v1::ConcurrencyLimitStrategy::CancelQueuedExceptOldest.into()),
            ..Default::default()
        }],
        default_filters: vec![v1::DefaultFilter {
            expression: "input.n > payload.n".into(),
            scope: "s".into(),
            payload: Some(Bytes::from_static(br#"{"n":1}"#)),
        }],
        input_json_schema: Some(Bytes::from_static(br#"{"type":"object"}"#)),
        idempotency: Some(v1::IdempotencyConfig {
            expression: "input.id".into(),
            ttl_ms: 60_000,
            method: Some(v1::IdempotencyMethod::Status.into()),
        }),
        // The child is declared first.
        ..workflow(vec![charge, check])
    }
}

#[test]
fn no_feature_is_lost() {
    let definition = read(&everything("g1", "g2", "g3", "2026-01-31T12:00:00+00:00"));
    assert_eq!((definition.name.as_str(), definition.version.as_str()), ("orders", "7"));
    assert_eq!(definition.description, "takes the money");
    assert_eq!(definition.event_triggers, ["order:*", "retry"]);
    assert_eq!(definition.crons, ["0 * * * *", "*/5 0 * * * *"]);
    assert_eq!(definition.cron_input.as_deref(), Some(r#"{"a":1}"#));
    assert_eq!((definition.sticky, definition.default_priority), (Some(Sticky::Hard), Some(3)));
    assert_eq!(definition.input_schema.as_deref(), Some(br#"{"type":"object"}"#.as_slice()));
    let filter =
        Filter { scope: "s".into(), expression: "input.n > payload.n".into(), payload: Some(r#"{"n":1}"#.into()) };
    assert_eq!(definition.filters, [filter]);
    let idempotency = Idempotency { expression: "input.id".into(), ttl_ms: 60_000, method: IdempotencyMethod::Status };
    assert_eq!(definition.idempotency, Some(idempotency));
    // What is not said: one at a time, and the newest wins.
    let constant = Concurrency {
        expression: "'constant'".into(),
        runs_max: 1,
        runs_max_expression: None,
        strategy: Strategy::CancelInProgress,
        name: None,
        tenant_scoped: false,
    };
    let by_tenant = Concurrency {
        expression: "input.tenant".into(),
        runs_max: 5,
        strategy: Strategy::CancelQueuedExceptOldest,
        ..constant.clone()
    };
    assert_eq!(definition.concurrency, [constant, by_tenant]);
    let on_failure = definition.on_failure.expect("kept");
    assert_eq!(on_failure.name, "on-failure");
    assert_eq!(on_failure.conditions[0].on, ConditionOn::Parent(1), "charge, at its new place");

    let [check, charge] = definition.tasks.as_slice() else { panic!("two tasks") };
    assert_eq!((check.name.as_str(), check.durable, check.parents.as_slice()), ("check", true, [].as_slice()));
    assert_eq!((check.execution_timeout.ms(), check.schedule_timeout.ms()), (60_000, 300_000));
    assert_eq!(check.slots, BTreeMap::from([("durable".to_owned(), 1)]));
    assert_eq!(check.inputs, "{}");

    assert_eq!((charge.name.as_str(), charge.action.as_str()), ("charge", "orders:charge"));
    assert_eq!((charge.parents.as_slice(), charge.retries, charge.durable), ([0].as_slice(), 3, false));
    assert_eq!(charge.backoff, Some(Backoff { factor: 2.5, max_seconds: 60 }));
    assert_eq!(charge.slots, BTreeMap::from([("default".to_owned(), 2), ("gpu".to_owned(), 1)]));
    let bank = RateLimit {
        key: RateLimitKey::Static("bank".into()),
        units: Units::Fixed(2),
        limit: None,
        window: Window::Second,
    };
    let user = RateLimit {
        key: RateLimitKey::Dynamic("input.user".into()),
        units: Units::Expression("input.units".into()),
        limit: Some("10".into()),
        window: Window::Year,
    };
    assert_eq!(charge.rate_limits, [bank, user]);
    let plain = LabelWish {
        value: Some(LabelValue::Text("big".into())),
        required: false,
        comparator: Comparator::Equal,
        weight: 100,
    };
    let memory = LabelWish {
        value: Some(LabelValue::Number(256)),
        required: true,
        comparator: Comparator::GreaterThanOrEqual,
        weight: -5,
    };
    assert_eq!((&charge.labels["model"], &charge.labels["memory"]), (&plain, &memory));
    assert_eq!(charge.labels["odd"].value, None);
    let shared = Concurrency {
        expression: "input.user".into(),
        runs_max: 1,
        runs_max_expression: Some("input.vip ? 10 : 1".into()),
        strategy: Strategy::GroupRoundRobin,
        name: Some("bank-wide".into()),
        tenant_scoped: true,
    };
    assert_eq!(charge.concurrency, [shared]);
    let batch = Batch {
        size_max: 10,
        interval_ms: Some(250),
        group_key: Some("input.bank".into()),
        group_runs_max: Some(4),
        broadcast_output: true,
    };
    assert_eq!(charge.batch, Some(batch));
    let [skip, sleep, paid, stop] = charge.conditions.as_slice() else { panic!("four conditions") };
    let expected = Condition {
        on: ConditionOn::Parent(0),
        action: ConditionAction::Skip,
        group: 0,
        data_key: "check:output.skip == true:2026-01-31T12:00:00+00:00".into(),
        expression: Some("output.skip == true".into()),
    };
    assert_eq!(skip, &expected);
    let ConditionOn::Sleep(ten_seconds) = &sleep.on else { panic!("a sleep") };
    assert_eq!((ten_seconds.ms(), sleep.action, sleep.group), (10_000, ConditionAction::Queue, 1));
    let event =
        ConditionOn::Event { key: "paid".into(), scope: Some("order-1".into()), since_ms: Some(1_700_000_000_005) };
    assert_eq!((&paid.on, paid.group, paid.expression.as_deref()), (&event, 1, Some("input.ok")));
    assert_eq!((stop.action, stop.group, stop.data_key.as_str()), (ConditionAction::Cancel, 2, "stop"));
}

#[test]
fn a_condition_without_a_group_is_a_group_by_itself() {
    let sleep = || v1::SleepMatchCondition { base: base(v1::Action::Queue, "", "s", ""), sleep_for: "1s".into() };
    let conditions = v1::TaskConditions { sleep_conditions: vec![sleep(), sleep()], ..Default::default() };
    let definition = read(&workflow(vec![v1::CreateTaskOpts { conditions: Some(conditions), ..task("a", &[]) }]));
    let groups: Vec<u32> = definition.tasks[0].conditions.iter().map(|condition| condition.group).collect();
    assert_eq!(groups, [0, 1]);
}

#[test]
fn parents_come_first_whatever_the_order_of_declaration() {
    let definition = read(&workflow(vec![
        task("end", &["left", "right"]),
        task("left", &["start"]),
        task("right", &["start"]),
        task("start", &[]),
    ]));
    let names: Vec<&str> = definition.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["start", "left", "right", "end"]);
    assert_eq!(definition.tasks[3].parents, [1, 2]);
}

/// Changes a good request, and expects it to be refused at the field with the words.
#[track_caller]
fn refused(field: &str, words: &str, change: impl FnOnce(&mut Request)) -> BadDefinition {
    let mut request = everything("g1", "g2", "g3", "2026-01-31T12:00:00+00:00");
    change(&mut request);
    let bad = Definition::from_request(&request).expect_err("it must be refused");
    assert_eq!(bad.field, field, "{bad}");
    assert!(bad.to_string().contains(words), "{bad}");
    bad
}

#[test]
fn names_and_parents() {
    refused("name", "empty", |r| r.name.clear());
    refused("name", "at most 256", |r| r.name = "n".repeat(257));
    refused("tasks", "empty", |r| r.tasks.clear());
    refused("tasks", "at most 1000", |r| r.tasks = (0..1_001).map(|n| task(&n.to_string(), &[])).collect());
    refused("tasks[1].readable_id", "empty", |r| r.tasks[1].readable_id.clear());
    refused("tasks[1].readable_id", "\"charge\" is used before", |r| r.tasks[1].readable_id = "charge".into());
    refused("on_failure_task.readable_id", "used before", |r| {
        r.on_failure_task.as_mut().expect("one").readable_id = "check".into();
    });
    refused("on_failure_task.parents", "no parents", |r| {
        r.on_failure_task.as_mut().expect("one").parents = vec!["check".into()];
    });
    refused("tasks[0].parents[0]", "no task \"cheque\"", |r| r.tasks[0].parents = vec!["cheque".into()]);
    refused("tasks[0].action", "empty", |r| r.tasks[0].action.clear());
    let bad = refused("tasks[0].parents", "circle", |r| r.tasks[1].parents = vec!["charge".into()]);
    assert_eq!(bad.wrong, Wrong::Cycle { path: vec!["charge".into(), "check".into(), "charge".into()] });
}

#[test]
fn a_cycle_is_told_as_a_way() {
    let request = workflow(vec![task("a", &["b"]), task("b", &["c"]), task("c", &["b"])]);
    let bad = Definition::from_request(&request).expect_err("a cycle");
    assert_eq!(
        bad.to_string(),
        "tasks[1].parents: tasks wait for each other in a circle: b waits for c waits for b; remove one of these parents"
    );
    let bad = Definition::from_request(&workflow(vec![task("a", &["a"])])).expect_err("a cycle of one");
    assert!(bad.to_string().contains("a waits for a"), "{bad}");
}

#[test]
fn durations() {
    let bad = refused("tasks[0].timeout", "without a unit", |r| r.tasks[0].timeout = "5".into());
    assert_eq!(bad.wrong, Wrong::Duration(BadDuration::NoUnit { text: "5".into() }));
    refused("tasks[0].schedule_timeout", "sign", |r| r.tasks[0].schedule_timeout = Some("-1s".into()));
    refused("on_failure_task.timeout", "unknown unit", |r| {
        r.on_failure_task.as_mut().expect("one").timeout = "1 hour".into();
    });
    refused("tasks[0].conditions.sleep_conditions[0].sleep_for", "empty", |r| {
        r.tasks[0].conditions.as_mut().expect("some").sleep_conditions[0].sleep_for.clear();
    });
}

#[test]
fn numbers() {
    refused("default_priority", "4: 1 to 3", |r| r.default_priority = Some(4));
    refused("sticky", "7: StickyStrategy", |r| r.sticky = Some(7));
    refused("tasks[0].retries", "-1: 0 to", |r| r.tasks[0].retries = -1);
    refused("tasks[0].backoff_factor", "NaN", |r| r.tasks[0].backoff_factor = Some(f32::NAN));
    refused("tasks[0].backoff_max_seconds", "-1", |r| r.tasks[0].backoff_max_seconds = Some(-1));
    refused("tasks[0].slot_requests[\"gpu\"]", "0: 1 to", |r| {
        r.tasks[0].slot_requests.insert("gpu".into(), 0);
    });
    refused("tasks[0].batch.batch_max_size", "0: 1 to", |r| r.tasks[0].batch.as_mut().expect("one").batch_max_size = 0);
    refused("tasks[0].batch", "durable", |r| r.tasks[0].is_durable = true);
    refused("idempotency.ttl_ms", "0: 1 to", |r| r.idempotency.as_mut().expect("one").ttl_ms = 0);
    refused("concurrency_arr[0].max_runs", "0: 1 to", |r| r.concurrency_arr[0].max_runs = Some(0));
    refused("concurrency_arr[0].limit_strategy", "99", |r| r.concurrency_arr[0].limit_strategy = Some(99));
    refused("concurrency.expression", "empty", |r| r.concurrency.as_mut().expect("one").expression = " ".into());
    refused("concurrency_arr[0].name", "by its name", |r| r.concurrency_arr[0].is_tenant_scoped = Some(true));
    refused("tasks[0].worker_labels[\"model\"]", "both", |r| {
        r.tasks[0].worker_labels.get_mut("model").expect("one").int_value = Some(1);
    });
    refused("tasks[0].rate_limits[1].limit_values_expr", "missing", |r| {
        r.tasks[0].rate_limits[1].limit_values_expr = Some("-1".into());
    });
    refused("tasks[0].rate_limits[0].units", "one of them", |r| {
        r.tasks[0].rate_limits[0].units_expr = Some("1".into())
    });
    refused("tasks[0].rate_limits[0].duration", "RateLimitDuration", |r| r.tasks[0].rate_limits[0].duration = Some(-1));
}

#[test]
fn texts() {
    refused("cron_input", "not JSON", |r| r.cron_input = Some("{".into()));
    refused("tasks[0].inputs", "not JSON", |r| r.tasks[0].inputs = "{} {}".into());
    refused("input_json_schema", "not JSON", |r| r.input_json_schema = Some(Bytes::from_static(b"\xff")));
    refused("default_filters[0].payload", "not JSON", |r| {
        r.default_filters[0].payload = Some(Bytes::from_static(b"nope"));
    });
    refused("default_filters[0].expression", "empty", |r| r.default_filters[0].expression.clear());
    refused("event_triggers[1]", "empty", |r| r.event_triggers[1].clear());
    refused("event_triggers", "1001 entries, at most 1000", |r| r.event_triggers = vec!["e".into(); 1_001]);
    refused("description", "at most 16384", |r| r.description = "d".repeat(16_385));
    for cron in ["", "* * * *", "* * * * * * *", "@every 5m now"] {
        refused("cron_triggers[0]", "no cron expression", |r| r.cron_triggers[0] = cron.into());
    }
    for cron in ["* * * * *", "0 * * * * *", "@daily", "@every 5m", "TZ=Europe/Berlin 0 5 * * *"] {
        let request = Request { cron_triggers: vec![cron.into()], ..workflow(vec![task("a", &[])]) };
        assert_eq!(read(&request).crons, [cron]);
    }
    refused("tasks[0].conditions.parent_override_conditions[0].parent_readable_id", "no task \"\"", |r| {
        let conditions = r.tasks[0].conditions.as_mut().expect("some");
        conditions.parent_override_conditions[0].parent_readable_id.clear();
    });
    refused("tasks[0].conditions.user_event_conditions[1].base.action", "12: Action", |r| {
        let conditions = r.tasks[0].conditions.as_mut().expect("some");
        conditions.user_event_conditions[1].base.as_mut().expect("one").action = 12;
    });
    refused("tasks[0].conditions.user_event_conditions[0].base", "empty", |r| {
        r.tasks[0].conditions.as_mut().expect("some").user_event_conditions[0].base = None;
    });
}

#[test]
fn expressions() {
    let bad = refused("idempotency.expression", "line 1, column 7: ", |r| {
        r.idempotency.as_mut().expect("one").expression = "input.".into();
    });
    assert!(matches!(bad.wrong, Wrong::NotCel { .. }), "{bad}");
    let words = "is not a CEL expression (";
    refused("concurrency.expression", words, |r| r.concurrency.as_mut().expect("one").expression = "a b".into());
    refused("concurrency_arr[0].expression", words, |r| r.concurrency_arr[0].expression = "'".into());
    refused("default_filters[0].expression", words, |r| r.default_filters[0].expression = "input.n >".into());
    refused("tasks[0].rate_limits[1].key_expr", words, |r| r.tasks[0].rate_limits[1].key_expr = Some("(".into()));
    refused("tasks[0].rate_limits[1].units_expr", words, |r| r.tasks[0].rate_limits[1].units_expr = Some(")".into()));
    refused("tasks[0].rate_limits[0].limit_values_expr", words, |r| {
        r.tasks[0].rate_limits[0].limit_values_expr = Some("one".repeat(2) + " 2");
    });
    refused("tasks[0].concurrency[0].max_runs_expression", words, |r| {
        r.tasks[0].concurrency[0].max_runs_expression = Some("a ? b".into());
    });
    refused("tasks[0].batch.batch_group_key", words, |r| {
        r.tasks[0].batch.as_mut().expect("one").batch_group_key = Some("has(1)".into());
    });
    refused("tasks[0].conditions.parent_override_conditions[0].base.expression", "nested too deeply", |r| {
        let conditions = r.tasks[0].conditions.as_mut().expect("some");
        conditions.parent_override_conditions[0].base.as_mut().expect("one").expression = "(".repeat(100);
    });
    // The name of a limit that was put there is a name, whatever it looks like.
    let mut request = everything("g1", "g2", "g3", "2026-01-31T12:00:00+00:00");
    request.tasks[0].rate_limits[0].key = "bank (Berlin)".into();
    assert_eq!(read(&request).tasks[1].rate_limits[0].key, RateLimitKey::Static("bank (Berlin)".into()));
}

#[test]
fn every_start_of_a_worker_gives_the_same_version() {
    let first = read(&everything("0b6f", "77aa", "c001", "2026-01-31T12:00:00.123456+00:00")).content_hash();
    let second = read(&everything("f00d", "1234", "beef", "2026-02-01T08:30:59+00:00")).content_hash();
    assert_eq!(first, second);

    // A key that somebody chose counts, also one that looks a little like a made-up one.
    for key in ["check:output.skip == true:later", "check:output.skip == true", "skip"] {
        let mut request = everything("g1", "g2", "g3", "2026-01-31T12:00:00+00:00");
        let conditions = request.tasks[0].conditions.as_mut().expect("some");
        conditions.parent_override_conditions[0].base.as_mut().expect("one").readable_data_key = key.into();
        let same = key == "check:output.skip == true";
        assert_eq!(read(&request).content_hash() == first, same, "{key}");
    }
}

#[test]
fn hashes_are_the_same_in_every_release() {
    // If one of these changes, every worker's next start makes a new version of every workflow. Find out why.
    let small = read(&workflow(vec![task("a", &[]), task("b", &["a"])])).content_hash();
    assert_eq!(small.to_string(), "c9a7811aed6d6cd2ebdb273687c6397fe0ba92168f3960952907b6b74fa55e38");
    let large = read(&everything("g1", "g2", "g3", "2026-01-31T12:00:00+00:00")).content_hash();
    assert_eq!(large.to_string(), "b77cc5153a83ae1630a2f3bfdace8e297cbfc4b61552d89f5f6f470b0bda0aea");
}

#[test]
fn the_way_of_saying_it_does_not_matter() {
    let one = workflow(vec![v1::CreateTaskOpts { slot_requests: BTreeMap::new(), ..task("a", &[]) }]);
    let mut other = workflow(vec![task("a", &[])]);
    other.tasks[0].timeout = "1m".into();
    other.tasks[0].schedule_timeout = None;
    other.tasks[0].action = "ORDERS:a".into();
    assert_eq!(read(&one).content_hash(), read(&other).content_hash());
}

#[test]
fn every_change_is_a_new_version() {
    type Change = fn(&mut Request);
    fn conditions(request: &mut Request) -> &mut v1::TaskConditions {
        request.tasks[0].conditions.as_mut().expect("the request has some")
    }
    fn event(request: &mut Request, index: usize) -> &mut v1::BaseMatchCondition {
        conditions(request).user_event_conditions[index].base.as_mut().expect("it has one")
    }
    let changes: Vec<Change> = vec![
        |_| {},
        |r| r.name = "others".into(),
        |r| r.description.clear(),
        |r| r.version = "8".into(),
        |r| r.event_triggers.truncate(2),
        |r| r.cron_triggers.truncate(1),
        |r| r.cron_input = None,
        |r| r.on_failure_task = None,
        |r| r.sticky = None,
        |r| r.sticky = Some(v1::StickyStrategy::Soft.into()),
        |r| r.default_priority = None,
        |r| r.default_priority = Some(1),
        |r| r.concurrency = None,
        |r| r.concurrency_arr[0].max_runs = Some(6),
        |r| r.concurrency_arr[0].limit_strategy = Some(v1::ConcurrencyLimitStrategy::DropNewest.into()),
        |r| r.concurrency_arr[0].name = Some("n".into()),
        |r| r.default_filters[0].payload = None,
        |r| r.default_filters[0].scope.clear(),
        |r| r.input_json_schema = None,
        |r| r.idempotency = None,
        |r| r.idempotency.as_mut().expect("one").ttl_ms += 1,
        |r| r.idempotency.as_mut().expect("one").method = None,
        |r| {
            r.tasks[0].readable_id = "charge2".into();
            r.on_failure_task = None;
        },
        |r| r.tasks[0].action = "orders:other".into(),
        |r| r.tasks[0].timeout = "61s".into(),
        |r| r.tasks[0].schedule_timeout = Some("6m".into()),
        |r| r.tasks[0].inputs = "{ }".into(),
        |r| r.tasks[0].parents.clear(),
        |r| r.tasks[0].retries = 4,
        |r| r.tasks[0].backoff_factor = None,
        |r| r.tasks[0].backoff_factor = Some(2.0),
        |r| r.tasks[0].backoff_max_seconds = None,
        |r| r.tasks[0].rate_limits.truncate(1),
        |r| r.tasks[0].rate_limits[0].units = Some(3),
        |r| r.tasks[0].rate_limits[0].duration = Some(v1::RateLimitDuration::Hour.into()),
        |r| r.tasks[0].rate_limits[0].limit_values_expr = Some("4".into()),
        |r| r.tasks[0].rate_limits[1].units_expr = None,
        |r| {
            r.tasks[0].worker_labels.remove("odd");
        },
        |r| r.tasks[0].worker_labels.get_mut("memory").expect("one").required = None,
        |r| r.tasks[0].worker_labels.get_mut("memory").expect("one").comparator = None,
        |r| r.tasks[0].worker_labels.get_mut("memory").expect("one").weight = None,
        |r| r.tasks[0].worker_labels.get_mut("memory").expect("one").int_value = Some(257),
        |r| r.tasks[0].concurrency[0].max_runs_expression = None,
        |r| r.tasks[0].concurrency[0].is_tenant_scoped = None,
        |r| r.tasks[0].conditions = None,
        |r| conditions(r).sleep_conditions[0].sleep_for = "11s".into(),
        |r| conditions(r).user_event_conditions[0].event_scope = None,
        |r| conditions(r).user_event_conditions[0].consider_events_since = None,
        |r| event(r, 0).or_group_id = "g3".into(),
        |r| event(r, 1).action = 3,
        |r| r.tasks[1].is_durable = false,
        |r| {
            r.tasks[0].slot_requests.insert("gpu".into(), 2);
        },
        |r| r.tasks[0].batch = None,
        |r| r.tasks[0].batch.as_mut().expect("one").broadcast_output = None,
        |r| r.tasks[0].batch.as_mut().expect("one").batch_max_interval_ms = None,
        |r| r.tasks.push(task("more", &[])),
    ];
    let mut seen = BTreeMap::new();
    for (index, change) in changes.iter().enumerate() {
        let mut request = everything("g1", "g2", "g3", "2026-01-31T12:00:00+00:00");
        change(&mut request);
        if let Some(before) = seen.insert(read(&request).content_hash(), index) {
            panic!("changes {before} and {index} hash the same");
        }
    }
}
