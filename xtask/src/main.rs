//! Checks, tests and measures the workspace: `cargo xtask --help`.
#![expect(clippy::print_stdout, reason = "printing is what these commands are for")]

mod bench;
mod browser;
mod chaos_bus;
mod chaos_cluster;
mod chaos_kill;
mod chaos_tools;
mod chaos_webhooks;
mod cluster;
mod dice;
mod http;
mod instructions;
mod manifests;
mod mcp;
#[path = "../../crates/postgres/tests/private/process.rs"]
mod postgres;
mod redis_py;
mod rivals;
mod sdk;
mod server;
mod sim;
mod smoke;
mod suite;
mod tidy;
mod tools;
mod trip;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks, tests and measures the workspace.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs everything that must pass, installing what it needs
    Test(suite::Args),
    /// What CI runs: the same as `test`
    Ci(suite::Args),
    /// Checks dependencies between crates, the map, file sizes and headers
    Tidy,
    /// Starts the server, asks it something, stops it
    Smoke,
    /// Tests the pages in a headless Chromium
    Browser,
    /// Runs the example that books trips, and kills the server while it undoes one
    Trip,
    /// Runs the published Python and TypeScript SDKs of Hatchet against the server
    Sdk(sdk::Args),
    /// Runs the published Python and TypeScript SDKs of MCP against our discovery server and our client
    Mcp(mcp::Args),
    /// Runs the examples for Redis, and programs as they were before, against the server and a Redis of their own
    RedisPy,
    /// Kills the server under load, again and again, and checks that nothing was lost or repeated
    ChaosKill(chaos_kill::Args),
    /// Kills the server while it delivers webhooks to an endpoint that misbehaves, and compares the books
    ChaosWebhooks(chaos_webhooks::Args),
    /// Kills, flushes and freezes Redis, and kills the server, while both ends of the bus talk, and compares ledgers
    ChaosBus(chaos_bus::Args),
    /// Kills the server while it calls tools over a proxy that breaks connections, and compares ledgers
    ChaosTools(chaos_tools::Args),
    /// Starts three nodes on a PostgreSQL of their own, and keeps them until Enter is pressed
    Cluster(cluster::Args),
    /// Kills, freezes, cuts off and drains nodes of a cluster, and kills its database, under load, and compares ledgers
    ChaosCluster(chaos_cluster::Args),
    /// Checks what examples/cluster has for Compose and Kubernetes against their schemas
    Manifests,
    /// Simulates whole deployments from seeds, and looks for broken promises
    Sim(sim::Args),
    /// Counts the instructions of our work, and compares them with those written down
    Instructions(instructions::Args),
    /// Measures the engine, the HTTP front door, or a server that does nothing
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match carry_out() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In words alone: where in this program it was found helps nobody, and would hide what was said before.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out() -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match Cli::parse().verb {
        Verb::Test(args) | Verb::Ci(args) => suite::run(&workspace, &args),
        Verb::Tidy => tidy::run(&workspace.root),
        Verb::Smoke => smoke::run(&workspace),
        Verb::Trip => trip::run(&workspace),
        Verb::Browser => browser::run(&workspace),
        Verb::Sdk(args) => sdk::run(&workspace, &args),
        Verb::Mcp(args) => mcp::run(&workspace, &args),
        Verb::RedisPy => redis_py::run(&workspace),
        Verb::ChaosKill(args) => chaos_kill::run(&workspace, &args),
        Verb::ChaosWebhooks(args) => chaos_webhooks::run(&workspace, &args),
        Verb::ChaosBus(args) => chaos_bus::run(&workspace, &args),
        Verb::ChaosTools(args) => chaos_tools::run(&workspace, &args),
        Verb::Cluster(args) => cluster::run(&workspace, &args),
        Verb::ChaosCluster(args) => chaos_cluster::run(&workspace, &args),
        Verb::Manifests => manifests::run(&workspace),
        Verb::Sim(args) => sim::run(&workspace, &args),
        Verb::Instructions(args) => instructions::run(&workspace, &args),
        Verb::Bench(args) => bench::run(&workspace, &args),
    }
}
