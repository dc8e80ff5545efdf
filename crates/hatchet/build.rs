//! Compiles `proto/` into Rust, without a `protoc` binary: protox reads the files, tonic-prost-build writes the code
//! into `OUT_DIR`. The descriptors, without their comments, are kept beside it for `wire::FILE_DESCRIPTOR_SET`.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message;

const FILES: [&str; 9] = [
    "dispatcher.proto",
    "events.proto",
    "workflows.proto",
    "v1/dispatcher.proto",
    "v1/workflows.proto",
    "v1/shared/condition.proto",
    "v1/shared/trigger.proto",
    "google/rpc/status.proto",
    "opentelemetry/proto/collector/trace/v1/trace_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        // Connections are the server's and the caller's affair: the code below knows services, not sockets.
        .build_transport(false)
        // Payloads pass from the socket to the log without copies.
        .bytes(".")
        // Maps in one order, so that equal definitions hash equal.
        .btree_map(".")
        .compile_fds(descriptors.clone())?;
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
