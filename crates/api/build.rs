//! Compiles the .proto files with protox, so that no protoc is needed on the build host.
#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os("CARGO_FEATURE_CNI").is_some() {
        let file = "proto/cni/v1beta1/cni.proto";
        println!("cargo:rerun-if-changed={file}");
        let descriptors = protox::compile([file], ["proto"])?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
