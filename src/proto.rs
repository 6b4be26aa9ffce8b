//! The generated wire types of `proto/`: `streamer.v1`, and `peer` for what nodes ask each other.
//!
//! Owns nothing; everything here is made at build time.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

tonic::include_proto!("streamer.v1");

/// `streamer.peer.v1`.
pub mod peer {
    tonic::include_proto!("streamer.peer.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/streamer_descriptor.bin"));
