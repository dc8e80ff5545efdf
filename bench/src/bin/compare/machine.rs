//! The machine and what it can do at best, and what was measured in which version.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use mainspring_bench::{Latencies, Machine};

use crate::plan::Contender;
use crate::running::Parts;

/// Round trips that are measured.
const ROUND_TRIPS: usize = 5_000;

/// What it is and what it can do, name by name.
///
/// # Errors
/// When the disk or loopback can't be measured.
pub(crate) fn measured(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let word = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (p50, p99) = loopback()?;
    Ok([
        ("processor", word("/proc/cpuinfo", "model name")),
        ("memory", word("/proc/meminfo", "MemTotal")),
        ("kernel", kernel.trim().to_owned()),
        ("disk", Machine::measure(dir)?.to_string()),
        ("loopback", format!("a round trip between two threads that wait: p50 {p50:.0} us, p99 {p99:.0} us")),
        ("load average at the beginning", format!("{:.2}", crate::measure::load_average())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into())
}

/// A byte there and back over loopback, in microseconds.
fn loopback() -> anyhow::Result<(f64, f64)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut own = TcpStream::connect(listener.local_addr()?)?;
    let (mut other, _) = listener.accept()?;
    own.set_nodelay(true)?;
    other.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while other.read_exact(&mut byte).and_then(|()| other.write_all(&byte)).is_ok() {}
    });
    let (mut trips, mut byte) = (Latencies::with_room(ROUND_TRIPS), [0]);
    for _ in 0..ROUND_TRIPS {
        let begun = Instant::now();
        own.write_all(&byte)?;
        own.read_exact(&mut byte)?;
        trips.add(begun.elapsed());
    }
    drop(own);
    let _ = echo.join();
    Ok((trips.percentile_ms(50.0) * 1e3, trips.percentile_ms(99.0) * 1e3))
}

/// The versions of everything that is measured.
pub(crate) fn versions(parts: &Parts, contenders: &[Contender]) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut add = |name: &str, command: &mut Command| {
        let said = command.output().map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
        versions.insert(name.to_owned(), said.unwrap_or_default().lines().next().unwrap_or_default().to_owned());
    };
    add("mainspring", Command::new(&parts.server).arg("--version"));
    let package = |name: &str| {
        let mut command = Command::new(parts.python());
        command.args(["-c", &format!("from importlib.metadata import version; print(version('{name}'))")]);
        command
    };
    let has = |of: &[Contender]| contenders.iter().any(|one| of.contains(one));
    if has(&[Contender::Restate2, Contender::Restate24])
        && let Ok(server) = crate::restate::binary(parts)
    {
        add("restate", Command::new(server).arg("--version"));
    }
    if has(&[Contender::MainspringPython]) {
        add("hatchet-sdk", &mut package("hatchet-sdk"));
    }
    if has(&[Contender::CeleryRedis, Contender::CeleryRabbitmq]) {
        add("celery", &mut package("celery"));
    }
    if has(&[Contender::CeleryRedis]) {
        add("redis", Command::new("redis-server").arg("--version"));
    }
    if has(&[Contender::CeleryRabbitmq]) {
        add("rabbitmq", Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rabbitmq-server"]));
    }
    if has(&[Contender::Dbos]) {
        add("dbos", &mut package("dbos"));
        add("python", Command::new(parts.python()).arg("--version"));
    }
    if has(&[Contender::Dbos, Contender::MainspringPostgres]) {
        add("postgresql", Command::new("psql").arg("--version"));
    }
    versions
}

/// What was asked for, as anybody may ask it again.
pub(crate) fn command_line() -> String {
    let mut words = vec!["cargo xtask bench compare".to_owned()];
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        // Where things were on this machine.
        if ["--rivals", "--binary", "--dir", "--out"].contains(&arg.as_str()) {
            args.next();
        } else {
            words.push(arg);
        }
    }
    words.join(" ")
}

/// Today, in UTC.
pub(crate) fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}
