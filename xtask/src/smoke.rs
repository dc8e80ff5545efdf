//! `smoke`: does the server do at all what it is for.

use std::time::Duration;

use anyhow::{bail, ensure};

use crate::server::Place;
use crate::workspace::Workspace;

const ENVIRONMENT: [(&str, &str); 2] = [("MAINSPRING_DEV_QUIET_MS", "60"), ("MAINSPRING_DEV_TOOL_MS", "20")];
const STOP_MAX: Duration = Duration::from_secs(10);

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let binary = workspace.server_binary()?;
    let dir = tempfile::Builder::new().prefix("smoke-").tempdir_in(workspace.scratch("smoke")?)?;
    let place = Place::new(&binary, dir.path(), &ENVIRONMENT)?;
    let server = place.start()?;
    let reply = place.command(&["send", "orders", "where is order 1042?"])?;
    ensure!(reply.contains("(1 messages)"), "the reply should end with the number of messages, it is:\n{reply}");
    let runs = place.command(&["run", "list"])?;
    ensure!(runs.contains("completed"), "a completed run should be listed, it says:\n{runs}");
    if place.token()?.split('.').count() != 3 {
        bail!("token create --quiet should print one JWT and nothing else");
    }
    let ended = server.stop(STOP_MAX)?;
    ensure!(ended.success(), "asked to end, the server ended with {ended}; its last words:\n{}", place.last_words());
    println!("it starts, answers, lists, makes a token and ends in order");
    Ok(())
}
