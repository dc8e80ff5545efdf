//! Leases: who may take a partition, by the clock of the database, and what becomes of whoever had it.

use std::sync::Arc;
use std::time::Duration;

use mainspring_postgres::{NodeId, Nodes, Postgres, PostgresOptions};
use mainspring_store::Store;
use mainspring_store::log::{LogError, Position};

use crate::server::Server;

const LEASE: Duration = Duration::from_secs(1);

struct Node {
    store: Arc<Postgres>,
    nodes: Nodes,
}

/// A node of a store that has four partitions.
fn node(options: &PostgresOptions, id: u128, address: &str) -> Node {
    let options = PostgresOptions { node: Some(NodeId(id)), ..options.clone() };
    let store = Arc::new(Postgres::new(options.clone()).unwrap());
    assert_eq!(store.partitions(4).unwrap(), 4);
    let nodes = Nodes::new(&options, &format!("n{id}"), address, "1", LEASE).unwrap();
    nodes.join("key").unwrap();
    Node { store, nodes }
}

impl Node {
    fn open(&self, partition: u16) -> Result<Box<dyn mainspring_store::PartitionLog>, String> {
        let (tables, _) = self.store.open_tables(partition).map_err(|error| error.to_string())?;
        let from = Position(tables.applied().unwrap() + 1);
        self.store.open_log(partition, 0, from, &mut |_, _| {}).map_err(|error| error.to_string())
    }
}

fn holders(node: &Node) -> Vec<Option<NodeId>> {
    node.nodes.round(false).unwrap().partitions.iter().map(|one| one.node).collect()
}

#[test]
fn a_partition_is_taken_from_nobody_or_from_one_whose_lease_has_ended() {
    let server = Server::start();
    let options = server.options();
    let (one, two) = (node(&options, 1, "a:1"), node(&options, 2, "b:1"));
    let mut log = one.open(0).unwrap();
    log.append(&[b"first"]).unwrap();
    assert_eq!(holders(&two), [Some(NodeId(1)), None, None, None]);
    let refused = two.open(0).unwrap_err();
    assert!(refused.contains(r#"held by the node "n1""#), "{refused}");
    // And by nobody who has no name.
    let stranger = Postgres::new(options.clone()).unwrap();
    assert!(stranger.open_tables(0).unwrap_err().to_string().contains("stop that one first"));

    // It does not renew its lease any more, and goes on as if it had one.
    std::thread::sleep(LEASE + Duration::from_millis(200));
    log.append(&[b"second"]).unwrap();
    let roster = two.nodes.round(false).unwrap();
    assert_eq!(roster.nodes.iter().map(|node| node.alive).collect::<Vec<_>>(), [false, true]);
    let mut taken = two.open(0).unwrap();
    assert_eq!(taken.next(), Position(3), "what was appended before the take-over is there");
    assert!(matches!(log.append(&[b"third"]), Err(LogError::Fenced)), "a node without its partition commits nothing");
    taken.append(&[b"third"]).unwrap();
    assert_eq!(holders(&one)[0], Some(NodeId(2)), "and learns of it when it is back");
}

/// Frozen in the middle of a transaction, with what the next owner needs locked.
#[test]
fn what_a_vanished_node_has_under_way_is_ended() {
    let server = Server::start();
    let options = server.options();
    let (one, two) = (node(&options, 1, "a:1"), node(&options, 2, "b:1"));
    drop(one.open(0).unwrap());
    let name = server.ask("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'mainspring 0%1'");
    assert_eq!(name, format!("mainspring {}", NodeId(1)), "its connections have its name");
    let lock = format!("SELECT 1 FROM {}.partitions WHERE partition = 0 FOR UPDATE", options.schema);
    let held = server.hold(&format!("SET application_name = '{name}'; {lock}"));
    std::thread::sleep(LEASE + Duration::from_millis(200));
    two.open(0).unwrap();
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
    assert_eq!(server.ask(&left), "0");
    drop(held);
    assert_eq!(holders(&two)[0], Some(NodeId(2)));
}

#[test]
fn what_is_released_is_free_at_once() {
    let server = Server::start();
    let options = server.options();
    let (one, two) = (node(&options, 1, "a:1"), node(&options, 2, "b:1"));
    drop(one.open(1).unwrap());
    two.nodes.release(1).unwrap();
    assert_eq!(holders(&one)[1], Some(NodeId(1)), "only by who holds it");
    one.nodes.release(1).unwrap();
    assert_eq!(holders(&one)[1], None);
    two.open(1).unwrap();

    // A node that leaves takes its name with it.
    drop(one.open(2).unwrap());
    one.nodes.leave().unwrap();
    two.open(2).unwrap();
    let roster = two.nodes.round(false).unwrap();
    assert_eq!(roster.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [NodeId(2)]);
}

#[test]
fn a_process_that_is_started_again_need_not_wait_for_its_predecessor() {
    let server = Server::start();
    let options = server.options();
    let before = node(&options, 1, "a:1");
    drop(before.open(3).unwrap());
    let after = node(&options, 2, "a:1");
    after.open(3).unwrap();
    assert_eq!(holders(&after)[3], Some(NodeId(2)));
}

#[test]
fn all_nodes_sign_with_one_key() {
    let server = Server::start();
    let options = server.options();
    let _first = node(&options, 1, "a:1");
    let options = PostgresOptions { node: Some(NodeId(2)), ..options };
    let other = Nodes::new(&options, "n2", "b:1", "1", LEASE).unwrap();
    let refused = other.join("another key").unwrap_err().to_string();
    assert!(refused.contains("copy keys/signing.pem"), "{refused}");
}
