//! Compiles the .proto files with protox, so that no protoc is needed on the build host.
#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["plugin.proto", "dashboard.proto", "dashboard_api.proto", "health.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    tonic_prost_build::configure().compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
