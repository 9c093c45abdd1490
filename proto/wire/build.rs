//! Compiles the `.proto` files with `protox`, so that no `protoc` is needed on the user's machine.

use std::io::Result;

const FILES: [&str; 5] =
    ["proto/identity.proto", "proto/link.proto", "proto/log.proto", "proto/discovery.proto", "proto/store.proto"];

fn main() -> Result<()> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"]).map_err(std::io::Error::other)?;
    prost_build::Config::new()
        // Payloads are sliced out of the received frame instead of copied.
        .bytes(["."])
        .compile_fds(descriptors)
}
