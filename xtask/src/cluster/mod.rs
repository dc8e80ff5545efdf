//! `cluster`: three nodes and a PostgreSQL of their own on this machine, without containers, for whoever develops; and the
//! same for `chaos-cluster`.

pub(crate) mod wire;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tempfile::TempDir;

use self::wire::Wire;
use crate::chaos_bus::agent;
use crate::http::Http;
use crate::postgres::Process;
use crate::server::{Place, Server};
use crate::tools::{self, POSTGRES};
use crate::workspace::Workspace;

/// Durable, as it is where it matters; connections for three nodes.
const SETTINGS: [&str; 3] = ["fsync=on", "shared_buffers=64MB", "max_connections=150"];
/// How long a node gets to hand everything over.
const LEAVE_MAX: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
}

/// What a cluster is started with.
pub(crate) struct Setup<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) nodes: usize,
    pub(crate) tenants: usize,
    /// Whether there is a wire between each node and the database, to be cut.
    pub(crate) wires: bool,
    /// Where replies are delivered, if anywhere.
    pub(crate) deliver_url: Option<&'a str>,
}

/// Nodes, and the database they share.
pub(crate) struct Cluster {
    pub(crate) postgres: Process,
    pub(crate) nodes: Vec<Node>,
    _database: TempDir,
}

/// One node: running, or not at the moment.
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) wire: Option<Wire>,
    pub(crate) server: Option<Server>,
}

/// The cluster as a node sees it.
#[derive(Debug, Deserialize)]
pub(crate) struct View {
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) free: Vec<u16>,
}

/// A node as another sees it.
#[derive(Debug, Deserialize)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) partitions: Vec<u16>,
}

/// The name of a tenant.
pub(crate) fn tenant(nth: usize) -> String {
    format!("tenant-{nth}")
}

fn config(setup: &Setup<'_>, nth: usize, database: u16, agent: &str) -> String {
    // The first makes the key, the others have it from there.
    let key = setup.dir.join("node-1/data/keys/signing.pem");
    let key = if nth == 0 { String::new() } else { format!("[server]\nsigning_key = {key:?}\n") };
    let deliver = setup.deliver_url.map(|url| format!("deliver_url = {url:?}\n")).unwrap_or_default();
    let agents = (0..setup.tenants).map(|number| {
        format!(
            "[[agents]]\nname = \"echo\"\ntenant = \"{}\"\nkind = \"http\"\nurl = \"{agent}\"\nquiet_ms = 30\n\
             attempts_max = 20\n{deliver}protection = {{ session_messages_per_minute = 0 }}\n",
            tenant(number)
        )
    });
    let agents: String = agents.collect();
    format!(
        "{key}[postgres]\nurl = \"postgres://mainspring@127.0.0.1:{database}/postgres\"\n\
         [node]\nname = \"node-{}\"\n{agents}",
        nth + 1
    )
}

impl Cluster {
    /// Starts a database and nodes on it, and waits until every partition is with one.
    pub(crate) fn start(setup: &Setup<'_>) -> anyhow::Result<Cluster> {
        tools::find(&[POSTGRES])?;
        let database = tempfile::Builder::new().prefix("postgres-").tempdir_in(setup.dir)?;
        // PostgreSQL runs as another user, who must get there.
        let postgres = Process::start(database.path(), &SETTINGS).context("PostgreSQL")?;
        let agent = agent::listen()?;
        let mut nodes = Vec::new();
        for nth in 0..setup.nodes {
            let wire = setup.wires.then(|| Wire::new(postgres.port)).transpose()?;
            let dir = setup.dir.join(format!("node-{}", nth + 1));
            std::fs::create_dir_all(&dir)?;
            let file = dir.join("mainspring.toml");
            std::fs::write(&file, config(setup, nth, wire.as_ref().map_or(postgres.port, |wire| wire.port), &agent))?;
            let mut place = Place::new(setup.binary, &dir, &[])?;
            place.config = Some(file);
            let server = Some(place.start()?);
            nodes.push(Node { place, wire, server });
        }
        let cluster = Cluster { postgres, nodes, _database: database };
        cluster.wait_until_shared()?;
        Ok(cluster)
    }

    /// A token for a tenant.
    pub(crate) fn token(&self, nth: usize) -> anyhow::Result<String> {
        let tenant = tenant(nth);
        let made = self.nodes[0].place.command(&["token", "create", "--quiet", "--tenant", &tenant])?;
        Ok(made.trim().to_owned())
    }

    /// The cluster as the first node that answers sees it.
    pub(crate) fn view(&self, token: &str, not: Option<usize>) -> anyhow::Result<View> {
        let answers = self.nodes.iter().enumerate().filter(|(nth, node)| Some(*nth) != not && node.server.is_some());
        for (_, node) in answers {
            let mut http = Http::new(&node.place.url(), token).patience(Duration::from_secs(2));
            if let Ok(view) = http.get("/v1/cluster") {
                return Ok(view);
            }
        }
        bail!("no node says how the cluster stands")
    }

    fn wait_until_shared(&self) -> anyhow::Result<()> {
        let token = self.token(0)?;
        for _ in 0..600 {
            if let Ok(view) = self.view(&token, None) {
                let alive = view.nodes.iter().filter(|node| node.state == "alive");
                let least = alive.map(|node| node.partitions.len()).min().unwrap_or_default();
                if view.free.is_empty() && least >= 64 / self.nodes.len() {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the partitions were not shared among the nodes within a minute")
    }
}

impl Node {
    /// The process id, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    /// Cuts what is between it and the database, or mends it.
    pub(crate) fn cut(&self, cut: bool) {
        self.wire.as_ref().expect("the cluster was started with wires").cut(cut);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.server.take().map_or(Ok(()), Server::kill)
    }

    /// Has it hand everything over and end, and tells how long that took.
    pub(crate) fn leave(&mut self) -> anyhow::Result<Duration> {
        let begun = std::time::Instant::now();
        if let Some(server) = self.server.take() {
            let ended = server.stop(LEAVE_MAX)?;
            if !ended.success() {
                bail!("the node ended with {ended}:\n{}", self.place.last_words());
            }
        }
        Ok(begun.elapsed())
    }

    /// Starts it again.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.server = Some(self.place.start()?);
        Ok(())
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status()?;
        if sent.success() { Ok(()) } else { bail!("{signal} could not be sent to {pid}") }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let binary = workspace.server_binary()?;
    let parent = workspace.scratch("cluster")?;
    let dir = tempfile::Builder::new().prefix("nodes-").tempdir_in(&parent)?;
    println!("starting PostgreSQL and {} nodes in {} ...", args.nodes, dir.path().display());
    let setup =
        Setup { binary: &binary, dir: dir.path(), nodes: args.nodes, tenants: 8, wires: false, deliver_url: None };
    let cluster = Cluster::start(&setup)?;
    let token = cluster.token(0)?;
    println!("\nPostgreSQL    {}", cluster.postgres.url());
    for node in &cluster.nodes {
        let (url, pid) = (node.place.url(), node.pid().unwrap_or_default());
        println!("node          {url}  process {pid}  log {}", node.place.log.display());
    }
    println!("\nEvery node answers for every tenant (tenant-0 to tenant-7, agent echo). Try:\n");
    println!("  export MAINSPRING_TOKEN={token}");
    println!("  mainspring send echo hello --url {}", cluster.nodes[0].place.url());
    println!("  curl -s -H \"Authorization: Bearer $MAINSPRING_TOKEN\" {}/v1/cluster", cluster.nodes[0].place.url());
    println!("\nKill a node and ask another. Enter, or Ctrl-C, ends all of it.");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}
