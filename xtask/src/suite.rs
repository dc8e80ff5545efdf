//! `test`: everything that must pass, one step after the other, with a table at the end. Steps that mostly wait go side by
//! side.
//!
//! A failed step does not stop the others: whoever waited for minutes wants to know all of it. What a step says goes to a
//! file, and is shown when the step fails.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::browser;
use crate::tools::{self, POSTGRES, REDIS, VALGRIND};
use crate::workspace::{SERVER_BINARY, Workspace};

/// While a step runs, how often that is said.
const STILL_RUNNING_EVERY: Duration = Duration::from_secs(30);
/// Fresh seeds on PostgreSQL, after the saved ones: each takes seconds.
const SEEDS_ON_POSTGRES: &str = "8";
/// Lines shown of a step that failed.
const LINES_SHOWN: usize = 120;
/// Lines of it shown once more at the very end, where whoever looks into a long output looks first.
const LAST_WORDS: usize = 15;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what needs no server of its own.
    #[arg(long)]
    quick: bool,
    /// Test the server as it is shipped, which takes minutes to build, and not the one that is built with the tests.
    #[arg(long)]
    release: bool,
    /// Leave the pages untested.
    #[arg(long)]
    no_browser: bool,
    /// Leave the SDKs of Hatchet and of MCP for Python and TypeScript out.
    #[arg(long)]
    no_sdk: bool,
    /// Minutes for which fresh seeds are simulated, after the saved ones.
    #[arg(long, default_value_t = 3.0)]
    sim_minutes: f64,
    /// Rounds of each chaos-kill.
    #[arg(long, default_value_t = 20)]
    chaos_rounds: u32,
}

struct Step {
    name: &'static str,
    command: Command,
    /// Whether it is carried out beside the one before.
    beside: bool,
}

struct Outcome {
    name: &'static str,
    took: Duration,
    failure: Option<Failure>,
}

struct Failure {
    how: String,
    /// What the step said last.
    last_words: String,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let logs = workspace.scratch("xtask-logs")?;
    let begun = Instant::now();
    let mut outcomes = Vec::new();
    // First, so that an answer that takes a person comes before the long steps and not after them.
    outcomes.push(prepare("Redis", || tools::find(&[REDIS]).map(drop)));
    outcomes.push(prepare("PostgreSQL", || tools::find(&[POSTGRES]).map(drop)));
    if !args.quick {
        outcomes.push(prepare("valgrind", || tools::find(&[VALGRIND]).map(drop)));
    }
    if !args.quick && !args.no_browser {
        outcomes.push(prepare("browser tools", || browser::tools().map(drop)));
    }
    let mut steps = steps(workspace, args)?;
    let (count, mut nth) = (steps.len(), 0);
    for group in steps.chunk_by_mut(|_, next| next.beside) {
        for step in group.iter() {
            nth += 1;
            println!("[{nth}/{count}] {} ({} since the start)", step.name, seconds(begun.elapsed()));
        }
        let carried_out = std::thread::scope(|scope| {
            let running: Vec<_> = group.iter_mut().map(|step| scope.spawn(|| carry_out(step, &logs))).collect();
            running.into_iter().map(|step| step.join().expect("a step does not panic")).collect::<Vec<_>>()
        });
        for outcome in carried_out {
            outcomes.push(outcome?);
        }
    }
    summarise(&outcomes, begun.elapsed(), args)
}

/// Finds what a step needs, or installs it.
fn prepare(name: &'static str, find: impl FnOnce() -> anyhow::Result<()>) -> Outcome {
    let begun = Instant::now();
    let failure = find().err().map(|error| Failure { how: format!("{error:#}"), last_words: String::new() });
    if let Some(Failure { how, .. }) = &failure {
        println!("FAILED {name}: {how}");
    }
    Outcome { name, took: begun.elapsed(), failure }
}

fn steps(workspace: &Workspace, args: &Args) -> anyhow::Result<Vec<Step>> {
    let cargo = |name, args: &[&str]| Step { name, command: workspace.cargo(args), beside: false };
    let release = args.release;
    let own = |name, args: &[&str]| -> anyhow::Result<Step> {
        let mut command = Command::new(own_binary()?);
        command.args(args).current_dir(&workspace.root);
        if release {
            command.env(SERVER_BINARY, workspace.target_dir.join("release").join("mainspring"));
        }
        Ok(Step { name, command, beside: false })
    };
    let mut steps = vec![
        own("tidy", &["tidy"])?,
        cargo("format", &["fmt", "--all", "--check"]),
        cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        cargo("tests", &["test", "--workspace", "--no-fail-fast"]),
    ];
    if args.quick {
        return Ok(steps);
    }
    let minutes = args.sim_minutes.to_string();
    steps.push(own("simulator", &["sim", "--", "--minutes", &minutes])?);
    let few = ["sim", "--postgres", "--", "--seeds", SEEDS_ON_POSTGRES];
    steps.push(own("simulator on PostgreSQL", &few)?);
    let rounds = args.chaos_rounds.to_string();
    let chaos = |policy| ["chaos-kill", "--rounds", rounds.as_str(), "--on-message", policy];
    if args.release {
        steps.push(cargo("release build", &["build", "--release", "--package", "mainspring-cli"]));
    }
    steps.push(own("smoke", &["smoke"])?);
    steps.push(own("trip", &["trip"])?);
    if !args.no_browser {
        steps.push(own("browser", &["browser"])?);
    }
    if !args.no_sdk {
        // Both wait most of the time: for pages, and for what workers do by the clock.
        steps.push(Step { beside: !args.no_browser, ..own("Hatchet SDKs", &["sdk"])? });
    }
    // Counts are the same on a busy machine.
    steps.push(Step { beside: !args.no_browser || !args.no_sdk, ..own("instructions", &["instructions"])? });
    if !args.no_sdk {
        steps.push(own("MCP SDKs", &["mcp"])?);
        steps.push(own("redis-py", &["redis-py"])?);
        steps.push(own("manifests", &["manifests"])?);
    }
    steps.push(own("chaos-kill (queue)", &chaos("queue"))?);
    steps.push(own("chaos-kill (supersede)", &chaos("supersede"))?);
    if !args.no_sdk {
        // The libraries that check its signatures are Python's and npm's.
        steps.push(own("chaos-webhooks", &["chaos-webhooks", "--seconds", "60"])?);
    }
    if !args.no_sdk {
        // Its workers are Python's.
        steps.push(own("chaos-cluster", &["chaos-cluster", "--seconds", "60"])?);
    }
    steps.push(own("chaos-bus", &["chaos-bus", "--seconds", "45"])?);
    steps.push(own("chaos-tools", &["chaos-tools", "--rounds", rounds.as_str()])?);
    Ok(steps)
}

/// This program, also after one of the steps has built it anew under the same name.
fn own_binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where this program is")?;
    // Linux tells a replaced program's old name with this at its end.
    let text = own.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| own.clone(), PathBuf::from))
}

fn carry_out(step: &mut Step, logs: &Path) -> anyhow::Result<Outcome> {
    let file_name: String = step.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = logs.join(format!("{file_name}.log"));
    let log = File::create(&path)?;
    let begun = Instant::now();
    let started = step.command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    let how = match started {
        Err(error) => Some(format!("could not be started: {error}")),
        Ok(mut child) => {
            let mut said = Instant::now();
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if said.elapsed() > STILL_RUNNING_EVERY {
                    said = Instant::now();
                    println!(
                        "      {} still running after {}: {}",
                        step.name,
                        seconds(begun.elapsed()),
                        last_line(&path)
                    );
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            (!status.success()).then(|| status.to_string())
        }
    };
    let took = begun.elapsed();
    match &how {
        None => println!("      {} ok after {}: {}", step.name, seconds(took), last_line(&path)),
        Some(how) => {
            println!("      {} FAILED after {} ({how}); the end of {}:", step.name, seconds(took), path.display());
            println!("{}", last_lines(&path, LINES_SHOWN));
        }
    }
    let failure = how.map(|how| Failure { how, last_words: last_lines(&path, LAST_WORDS) });
    let _ = std::io::stdout().flush();
    Ok(Outcome { name: step.name, took, failure })
}

fn summarise(outcomes: &[Outcome], took: Duration, args: &Args) -> anyhow::Result<()> {
    for Outcome { name, failure, .. } in outcomes {
        if let Some(Failure { how, last_words }) = failure {
            println!("\n{name} FAILED ({how}), its last words:\n{last_words}");
        }
    }
    println!();
    for Outcome { name, took, failure } in outcomes {
        println!("{:<24} {:>8}  {}", name, seconds(*took), if failure.is_some() { "FAILED" } else { "ok" });
    }
    if args.quick {
        println!("left out by --quick: everything that starts a server, and the simulator");
    } else if args.no_browser {
        println!("left out by --no-browser: browser");
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    println!("everything took {}", seconds(took));
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    // Nothing after that line, neither here nor on stderr: tools read it as the last.
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn last_line(path: &Path) -> String {
    let line = last_lines(path, 1);
    line.chars().take(100).collect()
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
