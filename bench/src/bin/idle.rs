//! What a server costs that has nothing to do: time from exec to ready, and memory.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use mainspring_bench::latency::median;
use mainspring_bench::server::release_binary;
use mainspring_bench::{Machine, Place, Server};

#[derive(Debug, Parser)]
#[command(about = "Time to ready and memory of an idle server")]
struct Args {
    /// The server to start [default: the release build beside this program].
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where its directories are made [default: target/bench].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How often it is started.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of idleness before memory is read.
    #[arg(long, default_value_t = 5.0)]
    idle_seconds: f64,
}

#[expect(clippy::print_stdout, reason = "the results are this program's output")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let place = Place::below(args.dir.as_deref())?;
    let binary = args.binary.map_or_else(release_binary, Ok)?;
    println!("machine: {}", Machine::measure(place.path())?);
    let (mut empty_ms, mut again_ms, mut resident_kib) = (Vec::new(), Vec::new(), 0);
    for round in 0..args.rounds.max(1) {
        let dir = place.path().join(format!("idle-{round}"));
        let server = Server::start(&binary, &dir, &[])?;
        empty_ms.push(server.ready_after.as_secs_f64() * 1e3);
        drop(server);
        let server = Server::start(&binary, &dir, &[])?;
        again_ms.push(server.ready_after.as_secs_f64() * 1e3);
        if round == 0 {
            std::thread::sleep(Duration::from_secs_f64(args.idle_seconds));
            resident_kib = server.resident_kib()?;
        }
    }
    let rounds = empty_ms.len();
    println!("exec to ready, empty directory:      {:.1} ms (median of {rounds})", median(empty_ms));
    println!("exec to ready, after a kill:         {:.1} ms (median of {rounds})", median(again_ms));
    println!("resident after {} s of idleness:      {:.1} MB", args.idle_seconds, resident_kib as f64 * 1024.0 / 1e6);
    Ok(())
}
