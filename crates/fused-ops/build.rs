//! Compiles the CUDA kernels, with the feature `cuda`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let source = Path::new("src/cuda/attention.cu");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let compiler = match std::env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/nvcc"),
        None => PathBuf::from("nvcc"),
    };
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    // PTX for the oldest card that computes with bf16; the driver makes it the card's own code.
    let compiled = Command::new(&compiler)
        .args(["--ptx", "-arch=compute_80", "-std=c++17", "-O3", "-o"])
        .arg(Path::new(&out).join("attention.ptx"))
        .arg(source)
        .output()
        .map_err(|error| {
            let compiler = compiler.display();
            format!("{compiler}: {error}; set CUDA_HOME to a CUDA toolkit, or put nvcc on the PATH")
        })?;
    if !compiled.status.success() {
        let said = String::from_utf8_lossy(&compiled.stderr);
        return Err(format!("{} {}: {said}", compiler.display(), source.display()).into());
    }
    Ok(())
}
