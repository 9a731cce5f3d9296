//! Builds the arm that is a crate of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::shared::Fault;

/// Builds tonic-iroh-transport's arm unless it is up to date, with cargo's progress shown, and returns its program.
///
/// The first time takes minutes: it is another iroh, in a target directory of its own so that it disturbs no other build.
pub fn build(target: &Path) -> Result<PathBuf, Fault> {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/tonic-iroh-transport/Cargo.toml");
    let directory = target.join("tonic-iroh-transport");
    let program = directory
        .join("release/bench-tonic-iroh-transport")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        eprintln!("building tonic-iroh-transport's arm, once; about 4 minutes on two cores");
    }
    let mut cargo = Command::new(env!("CARGO"));
    for (key, _) in std::env::vars_os() {
        // What `cargo bench` says of this package is not for that one: ring's build script would run again each time.
        let ours = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_BIN_",
        ];
        if ours
            .iter()
            .any(|prefix| key.to_string_lossy().starts_with(prefix))
        {
            cargo.env_remove(key);
        }
    }
    let status = cargo
        .args(["build", "--release", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&directory)
        .status()?;
    if !status.success() {
        return Err(format!(
            "{} did not build; --arms or --quick leave it out",
            manifest.display()
        )
        .into());
    }
    Ok(program)
}
