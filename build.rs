//! Compiles the wire contracts without needing `protoc` of our own.

use std::error::Error;
use std::path::PathBuf;

/// What clients may ask for by reflection.
const PUBLIC: &str = "proto/streamer/v1/streamer.proto";
const PEER: &str = "proto/streamer/peer/v1/peer.proto";

fn main() -> Result<(), Box<dyn Error>> {
    for file in [PUBLIC, PEER] {
        println!("cargo:rerun-if-changed={file}");
    }
    let public = protox::compile([PUBLIC], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("streamer_descriptor.bin");
    std::fs::write(out, prost::Message::encode_to_vec(&public))?;
    tonic_prost_build::configure().bytes(".").compile_fds(protox::compile([PUBLIC, PEER], ["proto"])?)?;
    Ok(())
}
