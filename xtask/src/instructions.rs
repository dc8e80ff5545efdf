//! `instructions`: how many instructions of the processor our work takes, counted by callgrind, beside what it took when
//! that was last written down. Counts are the same on busy machines and idle ones, which times are not.
//!
//! They are of the test build, whose core, store and engine are optimised. A count is what twice as many take more than
//! once as many, so that starting and ending are not in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::http::Http;
use crate::server::Place;
use crate::tools::{self, VALGRIND};
use crate::workspace::Workspace;

/// Where the counts are that hold.
const BOOK: &str = "bench/instructions.json";
/// What the engine does without threads, and how often.
const ENGINE: [(&str, u64); 3] = [("run", 1_024), ("steps", 512), ("message", 1_024)];
/// Such a count is the same each time within a hundredth of this; what is left is for other processors, for which
/// libraries choose other ways.
const PERCENT_MAX: u64 = 3;
/// Requests that are counted.
const REQUESTS: u64 = 150;
/// A server that is counted is some fifty times slower.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Writes the counts down as those that hold
    #[arg(long)]
    write: bool,
    /// Also counts the way of a run from the socket of a server to a worker and back, which is only told: a server's
    /// threads do more on a busy machine, up to a seventh
    #[arg(long)]
    request: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    tools::find(&[VALGRIND])?;
    workspace.build(&["--bin", "instructions", "--bin", "mainspring", "--bin", "wire-worker"])?;
    let dir = tempfile::Builder::new().prefix("run-").tempdir_in(workspace.scratch("instructions")?)?;
    let program = workspace.target_dir.join("debug/instructions");
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (work, times) in ENGINE {
        let count = |times: u64| -> anyhow::Result<u64> {
            let out = dir.path().join(format!("{work}-{times}"));
            let mut command = counted(&out);
            command.arg(&program).args([work, "--times", &times.to_string()]).current_dir(&workspace.root);
            let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            ensure!(
                ended.success(),
                "{work}, counted, ended with {ended}; uncounted it is: {program:?} {work} --times 9"
            );
            counted_in(&out)
        };
        counts.insert(work.to_owned(), (count(2 * times)? - count(times)?) / times);
        println!("{work}: {} instructions each", counts[work]);
    }
    if args.request {
        let once = requests(workspace, dir.path(), REQUESTS)?;
        let more = requests(workspace, dir.path(), 2 * REQUESTS)?.saturating_sub(once);
        println!("request: {} instructions each", more / REQUESTS);
    }
    let book = workspace.root.join(BOOK);
    if args.write {
        fs::write(&book, serde_json::to_string_pretty(&counts)? + "\n")?;
        println!("written down in {BOOK}");
        return Ok(());
    }
    let held: BTreeMap<String, u64> = serde_json::from_slice(&fs::read(&book).with_context(|| BOOK)?)?;
    let wrong = differences(&counts, &held);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("as many instructions as written down in {BOOK}");
    Ok(())
}

/// What is further from what was written down than it may be by chance, in either direction: what became less and is not
/// written down could become more again without being noticed.
fn differences(counts: &BTreeMap<String, u64>, held: &BTreeMap<String, u64>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (work, &count) in counts {
        let Some(&held) = held.get(work) else {
            wrong.push(format!("{work} is not in {BOOK}: `cargo xtask instructions --write`"));
            continue;
        };
        let change = (count as f64 / held as f64 - 1.0) * 100.0;
        if count.abs_diff(held) * 100 > held * PERCENT_MAX {
            wrong.push(format!(
                "{work} takes {count} instructions, {change:+.1} % of the {held} in {BOOK} (more than {PERCENT_MAX} %): find \
                 out why, and if that is as it should be, `cargo xtask instructions --write`"
            ));
        }
    }
    wrong
}

fn counted(out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    command
}

/// The sum at the end of what callgrind wrote.
fn counted_in(out: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(out).with_context(|| format!("callgrind wrote no {}", out.display()))?;
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")));
    total.context("callgrind says no total")?.trim().parse().context("callgrind's total")
}

/// The instructions of a server that is started, gets so many requests one after the other, and ends. Each request starts
/// a run and waits for it; a worker in a process of its own, which is not counted, carries it out.
fn requests(workspace: &Workspace, dir: &Path, times: u64) -> anyhow::Result<u64> {
    let (dir, built) = (dir.join(times.to_string()), workspace.target_dir.join("debug"));
    fs::create_dir(&dir)?;
    let (out, script) = (dir.join("counts"), dir.join("mainspring"));
    let binary = built.join("mainspring");
    let line = format!(
        "#!/bin/sh\nexec valgrind --tool=callgrind --quiet --callgrind-out-file='{}' '{}' \"$@\"\n",
        out.display(),
        binary.display()
    );
    fs::write(&script, line)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let place = Place::new(&script, &dir, &[])?;
    let server = place.start()?;
    let token = Place { binary, ..place.clone() }.token()?;
    let tally = dir.join("tally");
    let mut worker = Command::new(built.join("wire-worker"));
    worker.args(["--url", &place.url(), "--tally"]).arg(&tally).env("WORKER_TOKEN", &token);
    let mut worker = worker.stdout(Stdio::null()).spawn()?;
    let mut http = Http::new(&place.url(), &token).patience(PATIENCE);
    let asked = (0..times).try_for_each(|_| {
        let path = "/v1/workflows/noop/runs?wait_seconds=60";
        let answer = loop {
            let answer = http.ask("POST", path, &[], b"{\"input\":{}}")?;
            // Until the worker has told what it can do.
            if answer.status != 404 {
                break answer;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        ensure!(answer.status == 200, "a run was answered with {}: {:?}", answer.status, answer.body);
        Ok(())
    });
    let _ = worker.kill();
    let _ = worker.wait();
    asked?;
    let ended = server.stop(PATIENCE)?;
    ensure!(ended.success(), "the server ended with {ended}; its last words:\n{}", place.last_words());
    counted_in(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_either_way_is_told() {
        let book = |run, steps| BTreeMap::from([("run".to_owned(), run), ("steps".to_owned(), steps)]);
        assert!(differences(&book(103, 97), &book(100, 100)).is_empty());
        assert_eq!(differences(&book(104, 96), &book(100, 100)).len(), 2);
        assert_eq!(differences(&book(96, 100), &book(100, 100)).len(), 1);
        assert_eq!(differences(&book(1, 1), &BTreeMap::new()).len(), 2);
    }
}
