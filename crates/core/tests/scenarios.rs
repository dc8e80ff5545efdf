//! Scenarios: text in, decisions out. Each file of `tests/scenarios/` is a script with what was decided below each
//! command. `UPDATE_EXPECT=1 cargo test -p mainspring-core` rewrites them; read the difference, it is the change in
//! behaviour.
//!
//! Each script is run two more times, with every command sent twice and with a restart after every command, and must
//! end in the same state.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::scenario::{Mode, Scenario};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = fs::read_dir(folder).expect("the scenarios are there").map(|entry| entry.expect("readable").path());
    let mut scripts: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ext| ext == "txt")).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "there are scenarios");
    scripts
}

/// Runs a script. Gives back the script with its decisions, and the end state of each of its parts.
fn play(text: &str, mode: Mode) -> (String, Vec<Vec<String>>) {
    let mut written = String::new();
    let mut ends = Vec::new();
    let mut scenario = Scenario::new(mode);
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            written += &format!("{line}\n");
            for decided in scenario.run(command) {
                written += &format!("    {decided}\n");
            }
        } else if line.starts_with("== ") {
            // A new part begins with an empty world.
            ends.push(scenario.dump());
            scenario = Scenario::new(mode);
            written += &format!("{line}\n");
        } else if line.is_empty() || line.starts_with('#') {
            written += &format!("{line}\n");
        }
    }
    ends.push(scenario.dump());
    (written, ends)
}

fn first_difference(found: &str, expected: &str) -> String {
    let mut command = "";
    for (nth, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        if found.starts_with("> ") {
            command = found;
        }
        if found != expected {
            return format!("line {}, after {command:?}\n  expected {expected}\n  found    {found}", nth + 1);
        }
    }
    "one is longer than the other".to_owned()
}

#[test]
fn decisions_are_as_written_down() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut failures = Vec::new();
    for path in scripts() {
        let expected = fs::read_to_string(&path).expect("a script is readable");
        let (found, _) = play(&expected, Mode::Plain);
        if update {
            fs::write(&path, &found).expect("a script is writable");
        } else if found != expected {
            failures.push(format!("{}: {}", path.display(), first_difference(&found, &expected)));
        }
    }
    assert!(failures.is_empty(), "{}\nUPDATE_EXPECT=1 writes down what is decided now", failures.join("\n"));
}

fn ends_alike(mode: Mode) {
    // While the files are rewritten they can't be read; the run after it compares.
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return;
    }
    for path in scripts() {
        let text = fs::read_to_string(&path).expect("a script is readable");
        let (shown, plain) = play(&text, Mode::Plain);
        let (shown_otherwise, other) = play(&text, mode);
        let difference = || first_difference(&shown_otherwise, &shown);
        for (nth, (plain, other)) in plain.iter().zip(&other).enumerate() {
            let differing = plain.iter().zip(other).find(|(a, b)| a != b);
            assert!(plain == other, "{} part {nth}, {mode:?}: {differing:#?}\n{}", path.display(), difference());
        }
    }
}

#[test]
fn every_command_twice_ends_in_the_same_state() {
    ends_alike(Mode::Twice);
}

#[test]
fn a_restart_after_every_command_ends_in_the_same_state() {
    ends_alike(Mode::Crash);
}
