//! `cargo xtask tidy`: what the compiler does not hold about the house.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Which crate of the workspace may depend on which. Arrows point down only.
const ALLOWED: [(&str, &[&str]); 17] = [
    ("mainspring-core", &[]),
    ("mainspring-store", &["mainspring-core"]),
    ("mainspring-postgres", &["mainspring-core", "mainspring-store"]),
    ("mainspring-cluster", &["mainspring-postgres"]),
    ("mainspring-engine", &["mainspring-core", "mainspring-store"]),
    ("mainspring-client", &["mainspring-core", "mainspring-engine"]),
    ("mainspring-mcp", &[]),
    ("mainspring-flows", &["mainspring-client", "mainspring-mcp"]),
    ("mainspring-bus", &["mainspring-core", "mainspring-engine", "mainspring-client", "mainspring-flows"]),
    (
        "mainspring-server",
        &["mainspring-core", "mainspring-engine", "mainspring-client", "mainspring-flows", "mainspring-mcp"],
    ),
    ("mainspring-hatchet", &["mainspring-core", "mainspring-engine"]),
    ("orders-agent", &["mainspring-client", "mainspring-flows"]),
    ("trip", &["mainspring-client"]),
    (
        "mainspring-cli",
        &[
            "mainspring-bus",
            "mainspring-cluster",
            "mainspring-core",
            "mainspring-engine",
            "mainspring-client",
            "mainspring-flows",
            "mainspring-hatchet",
            "mainspring-mcp",
            "mainspring-postgres",
            "mainspring-server",
            "mainspring-store",
            "orders-agent",
        ],
    ),
    (
        "mainspring-sim",
        &[
            "mainspring-core",
            "mainspring-store",
            "mainspring-postgres",
            "mainspring-engine",
            "mainspring-client",
            "mainspring-flows",
        ],
    ),
    (
        "mainspring-bench",
        &[
            "mainspring-bus",
            "mainspring-core",
            "mainspring-store",
            "mainspring-engine",
            "mainspring-client",
            "mainspring-flows",
            "mainspring-hatchet",
            "mainspring-postgres",
        ],
    ),
    ("xtask", &[]),
];
/// What core may use: nothing that could read a clock, do I/O or draw a random number.
const CORE_MAY_USE: [&str; 4] = ["bytes", "postcard", "serde", "thiserror"];
/// Lines of one Rust file. At more, ask which noun is hiding.
const LINES_MAX: usize = 800;

/// Checks the house; every finding is one line that says what to change.
///
/// # Errors
/// When there is a finding, after all of them are printed.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    check_edges(root, &mut findings)?;
    check_core(root, &mut findings)?;
    check_files(root, &mut findings)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} finding(s)", findings.len()) }
}

fn check_edges(root: &Path, findings: &mut Vec<String>) -> anyhow::Result<()> {
    let output =
        Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]).current_dir(root).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
    let map = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let packages = metadata["packages"].as_array().context("no packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let folder = Path::new(manifest).parent().and_then(|dir| dir.strip_prefix(root).ok()).unwrap_or(Path::new(""));
        if !map.contains(&format!("`{}`", folder.display())) {
            findings.push(format!("ARCHITECTURE.md does not mention `{}`: add it to the table", folder.display()));
        }
        let Some(may) = allowed.get(name) else {
            findings
                .push(format!("{name} has no line in the table of allowed dependencies: add one in xtask/src/tidy.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let normal = dependency["kind"].is_null();
            if normal && names.contains(&on) && !may.contains(&on) {
                findings
                    .push(format!("{name} depends on {on}: arrows point down only; pass what it needs the other way"));
            }
            if normal && name == "mainspring-core" && !CORE_MAY_USE.contains(&on) {
                findings.push(format!("core depends on {on}: it may use {} only", CORE_MAY_USE.join(", ")));
            }
        }
    }
    Ok(())
}

fn check_core(root: &Path, findings: &mut Vec<String>) -> anyhow::Result<()> {
    let lib = std::fs::read_to_string(root.join("crates/core/src/lib.rs"))?;
    if !lib.contains("#![no_std]") || lib.contains("extern crate std") {
        findings
            .push("crates/core/src/lib.rs: core is no_std, so that the compiler keeps clocks and I/O out".to_owned());
    }
    Ok(())
}

fn check_files(root: &Path, findings: &mut Vec<String>) -> anyhow::Result<()> {
    // Put together from pieces, so that this file does not find itself.
    let unwanted = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["/wo", "rk/"].concat()];
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    let listed = String::from_utf8(output.stdout).context("file names")?;
    for name in listed.lines() {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { continue };
        for word in &unwanted {
            if text.contains(word.as_str()) {
                findings.push(format!("{name} contains {word:?}: finish it, or say it in an issue"));
            }
        }
        if !name.ends_with(".rs") {
            continue;
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{name} has {lines} lines, at most {LINES_MAX}: ask which noun is hiding in it"));
        }
        if !text.starts_with("//!") {
            findings.push(format!("{name} does not begin with what it is for (//!)"));
        }
    }
    Ok(())
}
