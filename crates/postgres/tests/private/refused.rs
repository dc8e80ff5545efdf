//! What can't be opened says why, and what to do.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use mainspring_postgres::{Postgres, PostgresOptions};
use mainspring_store::Store;

use crate::server::Server;

fn said(options: PostgresOptions) -> String {
    Postgres::new(options).unwrap().partitions(1).expect_err("it is refused").to_string()
}

#[test]
fn nobody_at_the_address() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let url = format!("postgres://mainspring:hush@127.0.0.1:{port}/postgres");
    let said = said(PostgresOptions::new(url));
    assert!(said.contains("does not answer") && said.contains("refused") && !said.contains("hush"), "{said}");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("postgres://mainspring@127.0.0.1:{}/postgres", listener.local_addr().unwrap().port());
    let said = said(PostgresOptions { patience: Duration::from_millis(300), ..PostgresOptions::new(url) });
    assert!(said.contains("does not answer"), "{said}");
}

#[test]
fn wrong_databases_clusters_and_schemas() {
    let server = Server::start();
    let options = server.options();
    let schema = options.schema.clone();
    assert_eq!(Postgres::new(options.clone()).unwrap().partitions(3).unwrap(), 3);

    let nowhere = server.url().replace("/postgres", "/nowhere");
    let no_database = said(PostgresOptions { url: nowhere, ..options.clone() });
    assert!(no_database.contains("\"nowhere\" does not exist"), "{no_database}");
    assert!(no_database.contains("create the database"), "{no_database}");

    let other = said(PostgresOptions { cluster: "other".to_owned(), ..options.clone() });
    assert!(other.contains("belongs to the cluster \"mainspring\""), "{other}");

    server.ask("CREATE ROLE guest LOGIN");
    let guest = server.url().replace("mainspring@", "guest@");
    let no_right = said(PostgresOptions { url: guest.clone(), schema: "theirs".to_owned(), ..options.clone() });
    assert!(no_right.contains("permission denied") && no_right.contains("mainspring migrate"), "{no_right}");
    let not_theirs = said(PostgresOptions { url: guest, ..options.clone() });
    assert!(not_theirs.contains("mainspring migrate"), "{not_theirs}");

    server.ask(&format!("UPDATE {schema}.schema_version SET version = 99"));
    let newer = said(options);
    assert!(newer.contains("has version 99") && newer.contains("run the release that wrote it"), "{newer}");
}

/// Several processes that start at once: one creates the schema, all find it.
#[test]
fn many_begin_at_once() {
    let server = Server::start();
    let options = server.options();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (1..=6)
            .map(|wanted| {
                let options = options.clone();
                scope.spawn(move || Postgres::new(options).unwrap().partitions(wanted).unwrap())
            })
            .collect();
        let found: Vec<u16> = asked.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(found.iter().all(|one| one == &found[0]), "{found:?}");
    });
}

fn refused(options: PostgresOptions) -> String {
    Postgres::new(options).expect_err("it is refused").to_string()
}

#[test]
fn a_wrong_url_is_refused_in_words_and_without_its_password() {
    for url in ["mysql://db/x", "postgres://u:hush@db/x?sslmode=perhaps", "postgres://u:hush@db:port/x"] {
        let said = refused(PostgresOptions::new(url));
        assert!(said.contains("the URL of the database can't be read") && !said.contains("hush"), "{said}");
    }
}

#[test]
fn a_schema_is_a_plain_name() {
    for schema in ["", "Main", "a-b", "a\"; DROP TABLE runs; --", "pg_catalog"] {
        let options = PostgresOptions { schema: schema.to_owned(), ..PostgresOptions::new("postgres://db/x") };
        assert!(refused(options).contains("can't be the schema"), "{schema}");
    }
}

#[test]
fn options_are_shown_without_their_url() {
    let shown = format!("{:?}", PostgresOptions::new("postgres://u:hush@db/x"));
    assert!(!shown.contains("hush"), "{shown}");
}
