//! `mainspring move` and `mainspring migrate`: a store goes to another place, and a schema is brought up to date.

use std::path::PathBuf;

use clap::Args;
use mainspring_engine::{Embedded, LogOptions, partition_of};
use mainspring_postgres::{Postgres, PostgresOptions};
use mainspring_store::moving::{Movable, move_store};
use mainspring_store::tables::name_of;

use crate::node::PARTITIONS;
use crate::say::say;

/// Where a database is, and which part of it is ours.
#[derive(Debug, Args)]
pub(crate) struct Database {
    /// The schema in the database.
    #[arg(long, default_value = "mainspring")]
    schema: String,
    /// The name of the cluster the schema belongs to.
    #[arg(long, default_value = "mainspring")]
    cluster: String,
    /// Certificates to trust besides the machine's, as PEM.
    #[arg(long)]
    ca: Option<PathBuf>,
}

impl Database {
    fn open(&self, url: &str) -> anyhow::Result<Postgres> {
        let (schema, cluster, ca) = (self.schema.clone(), self.cluster.clone(), self.ca.clone());
        Ok(Postgres::new(PostgresOptions { schema, cluster, ca, ..PostgresOptions::new(url) })?)
    }

    fn end(&self, at: &str) -> anyhow::Result<Box<dyn Movable>> {
        if at.starts_with("postgres://") || at.starts_with("postgresql://") {
            return Ok(Box::new(self.open(at)?));
        }
        anyhow::ensure!(!at.contains("://"), "{at:?} is neither a directory nor a URL that begins with postgres://");
        Ok(Box::new(Embedded::new(at, LogOptions::default())))
    }
}

/// What `move` takes.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// Where the store is: a directory, or postgres://user@host/database. Stop whoever serves it first.
    #[arg(long)]
    from: String,
    /// Where it is to go: a directory, or postgres://user@host/database. Nothing may be kept there.
    #[arg(long)]
    to: String,
    /// Partitions of the new store [default: 64 in PostgreSQL, 1 in a directory]. The number never changes afterwards.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    partitions: Option<u16>,
    #[command(flatten)]
    database: Database,
}

/// What `migrate` takes.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// postgres://user@host/database
    #[arg(long, value_name = "URL", env = "MAINSPRING_POSTGRES", hide_env_values = true)]
    postgres: String,
    /// Partitions of a schema that is new. The number never changes afterwards.
    #[arg(long, default_value_t = PARTITIONS, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    partitions: u16,
    #[command(flatten)]
    database: Database,
}

/// Moves a store. Blocks.
pub(crate) fn move_all(args: &MoveArgs) -> anyhow::Result<()> {
    let (from, to) = (args.database.end(&args.from)?, args.database.end(&args.to)?);
    let usual = if args.to.contains("://") { PARTITIONS } else { 1 };
    let wanted = args.partitions.unwrap_or(usual);
    let totals = move_store(&*from, &*to, wanted, partition_of, &mut |step| say!("{step}"))?;
    say!("{:20} {:>12}  hash", "table", "rows");
    for (table, rows, hash) in totals.each() {
        say!("{:20} {rows:>12}  {hash:016x}", name_of(table));
    }
    say!("{} rows are in {}, counted and compared", totals.rows(), to.name());
    say!("{} is marked as moved: it is not served any more, and can be removed", from.name());
    say!(
        "Keys are not part of a store: copy the folder keys of the old directory to each node that serves the new one, or \
         tokens and sealed secrets are not understood there"
    );
    Ok(())
}

/// Brings a schema up to date. Blocks.
pub(crate) fn migrate(args: &MigrateArgs) -> anyhow::Result<()> {
    let store = args.database.open(&args.postgres)?;
    let (before, after, partitions) = store.migrate(args.partitions)?;
    let what = match before {
        0 => format!("is new, at version {after}"),
        _ if before == after => format!("was up to date, at version {after}"),
        _ => format!("went from version {before} to {after}"),
    };
    say!("{}: the schema {what}; {partitions} partitions", store.name());
    Ok(())
}
