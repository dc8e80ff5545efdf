//! The store keeps the laws of every store.

use mainspring_postgres::{Postgres, PostgresOptions};
use mainspring_store::Store;
use mainspring_store::conformance::{LAWS, Opener, SWEEPING, hold};

use crate::server::Server;

fn opener(options: PostgresOptions) -> Opener {
    Box::new(move || Box::new(Postgres::new(options.clone()).expect("the options are right")) as Box<dyn Store>)
}

#[test]
fn laws() {
    let server = Server::start();
    hold(LAWS, &mut || opener(server.options()));
}

#[test]
fn laws_of_retention() {
    let server = Server::start();
    hold(SWEEPING, &mut || opener(server.options()));
}

/// With as few connections as it can do with, whoever waits for one gets it.
#[test]
fn laws_with_one_connection_for_each_purpose() {
    let server = Server::start();
    hold(LAWS, &mut || {
        opener(PostgresOptions { log_connections_max: 1, table_connections_max: 1, ..server.options() })
    });
}
