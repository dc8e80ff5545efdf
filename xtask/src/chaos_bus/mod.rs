//! `chaos-bus`: a channel gateway and a sender talk to a real server over a real Redis, which is killed, flushed, frozen
//! and started again while the server is killed too; then the ledgers of both ends are compared.
//!
//! The promises: every message that is accepted is handled once in effect, however often it was added; every reply comes
//! at least once under an id that stays; the order of each session is kept; every configuration that is published meanwhile
//! moves its pointer once, and Redis has the last. The Redis of these tests keeps nothing: what it had when it was killed
//! is gone.

pub(crate) mod agent;
mod check;
mod ends;
mod publisher;
mod redis;

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use self::ends::{Ends, PARTITIONS};
use self::publisher::Publisher;
use self::redis::RedisServer;
use crate::dice::Dice;
use crate::server::Place;
use crate::workspace::Workspace;

/// The pause between two troubles, in milliseconds.
const PAUSE_MS: (u64, u64) = (300, 4_000);
/// How long everything may take to be answered after the last message.
const FINISH_MAX: Duration = Duration::from_secs(300);
const VIOLATIONS_SHOWN: usize = 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long there is trouble, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Chance, for a run like an earlier one [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
    /// The server to test [default: the one of the tests].
    #[arg(long)]
    binary: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let clock =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64 % 1_000_000_000);
    let seed = args.seed.unwrap_or_else(clock);
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => workspace.server_binary()?,
    };
    let parent = workspace.scratch("chaos")?;
    let dir = tempfile::Builder::new().prefix(&format!("bus-{seed}-")).tempdir_in(&parent)?.keep();
    println!("{} s, seed {seed}, in {}", args.seconds, dir.display());
    let violations = chaos(&binary, &dir, args.seconds, seed)
        .with_context(|| format!("chaos-bus could not finish; everything is in {}", dir.display()))?;
    for violation in violations.iter().take(VIOLATIONS_SHOWN) {
        println!("VIOLATION     {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations (seed {seed}); everything is in {}", violations.len(), dir.display());
    }
    let _ = std::fs::remove_dir_all(&dir);
    println!("no violation");
    Ok(())
}

fn config(redis: u16, agent: &str) -> String {
    format!(
        r#"
[redis]
url = "redis://127.0.0.1:{redis}"
timeout_ms = 500

[bus]
channels = ["web"]
partitions = {PARTITIONS}
outbound_groups = ["senders"]
routed_groups = ["gateway"]

[[agents]]
name = "echo"
tenant = "acme"
kind = "http"
url = "{agent}"
quiet_ms = 30
attempts_max = 10
protection = {{ session_messages_per_minute = 0 }}
"#
    )
}

/// How often what happened.
#[derive(Debug, Default)]
struct Troubles {
    server_kills: u32,
    redis_kills: u32,
    flushes: u32,
    freezes: u32,
}

fn chaos(binary: &Path, dir: &Path, seconds: u64, seed: u64) -> anyhow::Result<Vec<String>> {
    let mut redis = RedisServer::start(dir)?;
    let file = dir.join("mainspring.toml");
    std::fs::write(&file, config(redis.port, &agent::listen()?))?;
    let mut place = Place::new(binary, dir, &[])?;
    place.config = Some(file);
    let mut server = place.start()?;
    let ends = Ends::start(redis.port);
    let token =
        place.command(&["token", "create", "--name", "xtask", "--scopes", "admin", "--quiet"])?.trim().to_owned();
    let publisher = Publisher::start(&place.url(), &token);
    let (mut dice, begun, mut troubles) = (Dice::new(seed, 0), Instant::now(), Troubles::default());
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(dice.between(PAUSE_MS.0, PAUSE_MS.1)));
        if let Some(status) = server.ended()? {
            bail!("the server ended by itself ({status}):\n{}", place.last_words());
        }
        match dice.between(0, 5) {
            0 | 1 => {
                troubles.server_kills += 1;
                server.kill()?;
                server = place.start().with_context(|| format!("restart {}", troubles.server_kills))?;
            }
            2 => {
                troubles.redis_kills += 1;
                redis.kill()?;
                std::thread::sleep(Duration::from_millis(dice.between(0, 3_000)));
                redis.run()?;
            }
            3 => {
                troubles.flushes += 1;
                redis.flush()?;
            }
            4 => {
                troubles.freezes += 1;
                redis.freeze(Duration::from_millis(dice.between(100, 1_500)))?;
            }
            _ => {
                // Both at once: neither remembers anything for the other.
                troubles.server_kills += 1;
                troubles.redis_kills += 1;
                redis.kill()?;
                server.kill()?;
                redis.run()?;
                server = place.start().with_context(|| format!("restart {}", troubles.server_kills))?;
            }
        }
    }
    ends.hush();
    let published = publisher.stop()?;
    let finishing = Instant::now();
    while finishing.elapsed() < FINISH_MAX {
        // What was added last may be confirmed later than all before it is answered.
        std::thread::sleep(Duration::from_secs(3));
        if check::is_whole(&ends.books.lock().unwrap_or_else(PoisonError::into_inner)) {
            break;
        }
    }
    let books = ends.books.clone();
    ends.stop();
    let books = books.lock().unwrap_or_else(PoisonError::into_inner);
    println!("troubles      {troubles:?}");
    println!("messages      {} accepted, added {} times", books.accepted.values().sum::<u64>(), books.added);
    println!("replies       {}, received {} times", books.replies.len(), books.received);
    println!("afterwards    everything was answered {:.1} s after the last trouble", finishing.elapsed().as_secs_f64());
    let mut violations = check::check(&books);
    violations.extend(publisher::check(&place.url(), &token, redis.port, &published)?);
    println!("publishes     {}", published.len());
    if books.accepted.is_empty() {
        violations.push("nothing was accepted".to_owned());
    }
    Ok(violations)
}
