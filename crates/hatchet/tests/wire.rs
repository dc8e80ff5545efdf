//! What travels, held against a table: `wire.txt` says which packages, services, methods, messages, numbers and types
//! the published SDKs use. A name or number that moves by accident breaks workers that nobody here has built.
//!
//! Whether the table itself is right is what `check_against_sdk.py` asks the published package.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainspring_hatchet::wire::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use mainspring_hatchet::wire::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span};
use mainspring_hatchet::wire::{FILE_DESCRIPTOR_SET, root, v1};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

#[test]
fn every_name_and_number_is_as_the_table_says() {
    let table: BTreeSet<String> = lines_of_table(include_str!("wire.txt"));
    let ours: BTreeSet<String> = lines_of_descriptors();
    let missing: Vec<&String> = table.difference(&ours).collect();
    let extra: Vec<&String> = ours.difference(&table).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nnot in the table: {extra:#?}");
    assert!(ours.len() > 600, "the table and the descriptors are whole, not empty: {}", ours.len());
}

/// The table's lines, each with what it stands under.
fn lines_of_table(text: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut under = "";
    for line in text.lines() {
        match line.strip_prefix("  ") {
            Some(detail) => lines.insert(format!("{under}: {detail}")),
            None => {
                under = line;
                lines.insert(line.to_owned())
            }
        };
    }
    lines
}

/// The same lines, made from our descriptors.
fn lines_of_descriptors() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our own descriptors");
    let mut lines = BTreeSet::new();
    for file in set.file.iter().filter(|file| matches!(file.package(), "" | "v1")) {
        let package = if file.package().is_empty() { "-" } else { file.package() };
        lines.insert(format!("file {} package {package}", file.name()));
        let full = |name: &str| if file.package().is_empty() { name.to_owned() } else { format!("v1.{name}") };
        for service in &file.service {
            let under = format!("service {}", full(service.name()));
            lines.insert(under.clone());
            for method in &service.method {
                let stream = |streams: bool| if streams { "stream " } else { "" };
                lines.insert(format!(
                    "{under}: rpc {}({}{}) -> {}{}",
                    method.name(),
                    stream(method.client_streaming()),
                    absolute(method.input_type()),
                    stream(method.server_streaming()),
                    absolute(method.output_type())
                ));
            }
        }
        for item in &file.enum_type {
            enum_lines(&full(item.name()), item, &mut lines);
        }
        for item in &file.message_type {
            message_lines(&full(item.name()), item, &mut lines);
        }
    }
    lines
}

fn enum_lines(name: &str, item: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    lines.insert(format!("enum {name}"));
    for value in &item.value {
        lines.insert(format!("enum {name}: {} {}", value.number(), value.name()));
    }
}

fn message_lines(name: &str, item: &DescriptorProto, lines: &mut BTreeSet<String>) {
    lines.insert(format!("message {name}"));
    let entries: BTreeMap<String, &DescriptorProto> =
        item.nested_type.iter().map(|entry| (format!("{name}.{}", entry.name()), entry)).collect();
    for field in &item.field {
        let map = entries.get(absolute(field.type_name()));
        let mut kind = match map {
            Some(entry) => format!("map<{},{}>", type_name(&entry.field[0]), type_name(&entry.field[1])),
            None => type_name(field),
        };
        if map.is_none() && field.label() == Label::Repeated {
            kind.push('*');
        }
        if field.proto3_optional() {
            kind.push('?');
        }
        if let Some(index) = field.oneof_index
            && !field.proto3_optional()
        {
            kind.push_str(" in ");
            kind.push_str(item.oneof_decl[index as usize].name());
        }
        lines.insert(format!("message {name}: {} {}:{kind}", field.number(), field.name()));
    }
}

fn type_name(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => absolute(field.type_name()),
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Float => "float",
        other => panic!("the table knows no {other:?}"),
    };
    name.to_owned()
}

fn absolute(name: &str) -> &str {
    name.trim_start_matches('.')
}

#[test]
fn the_generated_services_answer_to_the_paths_the_sdks_call() {
    use tonic::server::NamedService;

    use mainspring_hatchet::wire::opentelemetry::proto::collector::trace::v1::trace_service_server as trace;

    fn name<S: NamedService>() -> &'static str {
        S::NAME
    }

    assert_eq!(name::<root::dispatcher_server::DispatcherServer<()>>(), "Dispatcher");
    assert_eq!(name::<root::events_service_server::EventsServiceServer<()>>(), "EventsService");
    assert_eq!(name::<root::workflow_service_server::WorkflowServiceServer<()>>(), "WorkflowService");
    assert_eq!(name::<v1::admin_service_server::AdminServiceServer<()>>(), "v1.AdminService");
    assert_eq!(name::<v1::v1_dispatcher_server::V1DispatcherServer<()>>(), "v1.V1Dispatcher");
    assert_eq!(name::<trace::TraceServiceServer<()>>(), "opentelemetry.proto.collector.trace.v1.TraceService");
}

/// Encodes, decodes, and expects the same.
fn round_trip<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    assert_eq!(&M::decode(bytes.as_slice()).expect("what we encoded"), message);
    bytes
}

#[test]
fn an_assigned_action_keeps_what_it_says_and_what_it_leaves_out() {
    let plain = root::AssignedAction {
        task_run_external_id: "t".into(),
        action_id: "wf:step".into(),
        action_type: root::ActionType::StartStepRun.into(),
        action_payload: r#"{"input":{}}"#.into(),
        ..Default::default()
    };
    let bytes = round_trip(&plain);
    // Field 8, a text of one byte; field 9; field 10 is the default and is not there; field 11.
    assert_eq!(&bytes[..3], b"\x42\x01t");
    assert_eq!(&bytes[3..12], b"\x4a\x07wf:step");
    assert_eq!(bytes[12], 0x5a);

    // A count of zero is not the same as none: only durable tasks have one.
    let durable = root::AssignedAction { durable_task_invocation_count: Some(0), ..plain };
    assert!(round_trip(&durable).ends_with(b"\xa8\x01\x00"));
}

#[test]
fn a_durable_request_is_one_of_its_kinds() {
    let request = v1::DurableTaskRequest {
        message: Some(v1::durable_task_request::Message::Memo(v1::DurableTaskMemoRequest {
            invocation_count: 1,
            durable_task_external_id: "d".into(),
            key: Bytes::from_static(b"k"),
            payload: None,
        })),
    };
    assert_eq!(round_trip(&request), b"\x12\x08\x08\x01\x12\x01d\x1a\x01k");
}

#[test]
fn a_registration_keeps_its_maps_in_order() {
    let label = |value: &str| root::WorkerLabels { str_value: Some(value.into()), int_value: None };
    let request = root::WorkerRegisterRequest {
        worker_name: "w".into(),
        labels: BTreeMap::from([("b".to_owned(), label("2")), ("a".to_owned(), label("1"))]),
        slot_config: BTreeMap::from([("durable".to_owned(), 5), ("default".to_owned(), 100)]),
        ..Default::default()
    };
    assert_eq!(round_trip(&request), request.clone().encode_to_vec());
}

#[test]
fn an_export_of_spans_is_understood_also_when_it_says_more_than_we_know() {
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: vec![Span { trace_id: Bytes::from_static(&[7; 16]), name: "step".into(), ..Default::default() }],
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    let mut bytes = round_trip(&request);
    // Field 100, which a later protocol may have.
    bytes.extend_from_slice(b"\xa2\x06\x01x");
    assert_eq!(ExportTraceServiceRequest::decode(bytes.as_slice()).expect("unknown fields are skipped"), request);
}
