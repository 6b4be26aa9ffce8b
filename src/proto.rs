//! The generated wire types of `proto/streamer/v1/streamer.proto`.
//!
//! Owns nothing; everything here is made at build time.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

tonic::include_proto!("streamer.v1");

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/streamer_descriptor.bin"));
