//! DBOS: a library, so one process of Python is callers, workflows and queue; beside it a PostgreSQL of its own.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::plan::{Contender, Workload};
use crate::postgres::Postgres;
use crate::running::{Door, Parts, Running};

pub(crate) fn start(parts: &Parts, dir: &Path) -> anyhow::Result<Running> {
    let begun = Instant::now();
    let postgres = Postgres::start(&dir.join("postgres"))?;
    let ready_after = begun.elapsed();
    let (python, script, url) = (parts.python(), parts.scripts.join("dbos_load.py"), postgres.url());
    let tally = dir.join("tally");
    std::fs::create_dir_all(&tally)?;
    let counts = tally.clone();
    let door = move |workload: Workload, callers: usize, warm: f64, counted: f64| {
        let mut command = Command::new(&python);
        command.arg(&script).args([workload.name(), &callers.to_string(), &warm.to_string(), &counted.to_string()]);
        if workload == Workload::D {
            command.arg(Contender::Dbos.begun_max().to_string());
        }
        command.env("DATABASE", &url).env("TALLY", &counts).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    // The library's process is the load's: what it uses is told as the workers'.
    Ok(Running {
        workers: Vec::new(),
        servers: vec![postgres.process],
        ready_after,
        door: Door::Program(Box::new(door)),
        tally,
    })
}
