//! The messages and services of the wire, generated from `proto/`. Nothing else in here is decided by us: names and
//! numbers are what the published SDKs send.
//!
//! Hatchet's files of its first time have no package, so their messages stand directly in [`root`]; the others are in
//! [`root::v1`]. What this module does not know: what any of it means.

// Written by a machine from the files in `proto/`, which carry the comments.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all)]
/// Messages without a package, and Hatchet's `v1`.
pub mod root {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));

    /// Package `v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/v1.rs"));
    }
}

#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all)]
/// What gRPC itself carries.
pub mod google {
    /// Package `google.rpc`.
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}

#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all)]
/// Spans, as tracers send them.
pub mod opentelemetry {
    /// The protocol's packages.
    pub mod proto {
        /// What is sent to a collector.
        pub mod collector {
            /// Spans.
            pub mod trace {
                /// Package `opentelemetry.proto.collector.trace.v1`.
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/opentelemetry.proto.collector.trace.v1.rs"));
                }
            }
        }
        /// Spans.
        pub mod trace {
            /// Package `opentelemetry.proto.trace.v1`.
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/opentelemetry.proto.trace.v1.rs"));
            }
        }
        /// Attributes.
        pub mod common {
            /// Package `opentelemetry.proto.common.v1`.
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/opentelemetry.proto.common.v1.rs"));
            }
        }
        /// Resources.
        pub mod resource {
            /// Package `opentelemetry.proto.resource.v1`.
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/opentelemetry.proto.resource.v1.rs"));
            }
        }
    }
}

pub use root::v1;

/// The descriptors of everything above, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
