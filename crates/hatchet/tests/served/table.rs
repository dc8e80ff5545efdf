//! The table of compatibility: whole, and true.

use std::collections::BTreeSet;
use std::path::Path;

use mainspring_hatchet::compatibility::{METHODS, OPERATIONS, State, page};
use mainspring_hatchet::wire::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::harness::{Served, TENANT};

/// gRPC's code for what is not implemented.
const UNIMPLEMENTED: i32 = 12;

#[test]
fn every_operation_is_in_the_table_once() {
    // As the client generated for hatchet-sdk 1.43.1 has them: verb, address, name.
    let wanted: BTreeSet<&str> = include_str!("../operations.txt").lines().collect();
    let lines: Vec<String> = OPERATIONS.iter().map(|one| format!("{} {} {}", one.verb, one.path, one.name)).collect();
    let found: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(found, wanted);
    assert_eq!(lines.len(), found.len(), "each stands there once");
}

#[test]
fn every_method_is_in_the_table_once() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut wanted = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            let dot = if file.package().is_empty() { "" } else { "." };
            let methods = service.method.iter();
            wanted.extend(methods.map(|one| format!("{}{dot}{}/{}", file.package(), service.name(), one.name())));
        }
    }
    let lines: Vec<String> = METHODS.iter().map(|one| format!("{}/{}", one.service, one.name)).collect();
    let found: BTreeSet<String> = lines.iter().cloned().collect();
    assert_eq!(found, wanted);
    assert_eq!(lines.len(), found.len(), "each stands there once");
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/hatchet.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, page()).expect("the page is written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page(), "docs/hatchet.md is not the table: run this test with UPDATE_EXPECT=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_served_as_the_table_says() {
    let served = Served::start().await;
    for operation in OPERATIONS {
        let path = filled(operation.path);
        let (status, body) = served.rest("write", operation.verb, &path, "{}").await;
        let errors = body.get("errors").and_then(|errors| errors.get(0)).and_then(|error| error.get("description"));
        let what = format!("{} ({} {path}) answers {status} {body}", operation.name, operation.verb);
        assert!(status < 400 || errors.is_some_and(serde_json::Value::is_string), "{what}");
        assert_eq!(status == 501, operation.state == State::NotYet, "{what}");
        assert!(status < 500 || status == 501, "{what}");
        assert_ne!(status, 405, "{what}");
        if status == 404 {
            assert!(!body.to_string().contains("has no operation"), "{what}");
        }
        if status == 501 {
            assert!(body.to_string().contains(operation.name), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_served_as_the_table_says() {
    let served = Served::start().await;
    for method in METHODS {
        let path = format!("/{}/{}", method.service, method.name);
        let status = served.grpc(&path).await;
        assert_eq!(status == Some(UNIMPLEMENTED), method.state == State::NotYet, "{path} answers {status:?}");
    }
}

/// An address with something in place of its braces.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{tenant}" => TENANT.to_string(),
        part if part.starts_with('{') => "0191e0c5-7a2b-7c3d-8e4f-a1b2c3d50000".to_owned(),
        part => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}
