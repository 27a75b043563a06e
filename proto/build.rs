//! Compiles the .proto files with protox: no protoc needed, nothing generated in git.

use std::{env, fs, path::PathBuf};

const FILES: [&str; 10] = [
    // What errors carry: JSON answers name what is in them.
    "google/rpc/error_details.proto",
    "shopkeeper/policy/v1/policy.proto",
    "shopkeeper/model/v1/model.proto",
    "shopkeeper/segmentation/v1/segmentation.proto",
    "shopkeeper/forecast/v1/forecast.proto",
    "shopkeeper/recommendation/v1/recommendation.proto",
    "shopkeeper/churn/v1/churn.proto",
    "shopkeeper/anomaly/v1/anomaly.proto",
    "shopkeeper/insights/v1/insights.proto",
    // For clients of Triton and KServe.
    "inference/open_inference.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=shopkeeper");
    println!("cargo::rerun-if-changed=google");
    println!("cargo::rerun-if-changed=inference");

    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;

    // protox's own bytes: a descriptor set that went through prost's types has lost our method
    // options.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .build_transport(true)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
