//! The trip on a real engine: booked, undone when the hotel fails, and undone over a crash in the middle of undoing.

use std::path::Path;
use std::sync::{Arc, Mutex};

use mainspring_client::{Client, Failure, RunState, TenantId, Worker};
use mainspring_core::Command;
use mainspring_engine::{Engine, EngineOptions};
use tokio::sync::Notify;
use trip::{Booked, Desk, Trip, WORKFLOW};

const TENANT: TenantId = TenantId(7);

/// A desk that writes down what it did, in order. A key is carried out once.
#[derive(Clone, Default)]
struct Book {
    done: Arc<Mutex<Vec<(String, String)>>>,
    /// Undoing of this begins, and does not end.
    stuck_at: Option<&'static str>,
    begun: Arc<Notify>,
}

impl Book {
    fn act(&self, what: String, key: &str) {
        let mut done = self.done.lock().expect("nobody panicked");
        let act = (what, key.to_owned());
        if !done.contains(&act) {
            done.push(act);
        }
    }

    fn acts(&self) -> Vec<String> {
        self.done.lock().expect("nobody panicked").iter().map(|(what, _)| what.clone()).collect()
    }
}

impl Desk for Book {
    async fn book(&self, what: &'static str, key: &str, trip: &Trip) -> Result<String, Failure> {
        if what == "hotel" && trip.to == "Atlantis" {
            return Err(Failure::permanent("no room in Atlantis"));
        }
        self.act(what.to_owned(), key);
        Ok(format!("{what} to {}", trip.to))
    }

    async fn cancel(&self, what: &'static str, key: &str) -> Result<(), Failure> {
        self.begun.notify_one();
        if self.stuck_at == Some(what) {
            std::future::pending::<()>().await;
        }
        self.act(format!("undo {what}"), key);
        Ok(())
    }
}

async fn open(dir: &Path) -> Client {
    let engine = Engine::open(&EngineOptions::new(dir)).expect("the engine opens");
    engine.submit(TENANT, Command::PutTenant { name: "test".into() }).await.expect("the tenant is put");
    Client::new(engine, TENANT)
}

async fn close(client: Client) {
    let engine = client.engine().clone();
    drop(client);
    tokio::task::spawn_blocking(move || engine.shut_down()).await.expect("the engine shuts down");
}

fn to(place: &str) -> Trip {
    Trip { to: place.to_owned(), traveller: "anna".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trip_is_booked_or_nothing_of_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let book = Book::default();
    let running = trip::offer(Worker::new(client.clone(), "w"), book.clone()).start().await.expect("it starts");
    let run = client.start(WORKFLOW, &to("Lisbon")).await.expect("a run starts");
    let booked: Booked = client.wait(run).await.expect("the trip is booked");
    assert_eq!(booked.hotel, "hotel to Lisbon");
    assert_eq!(book.acts(), ["flight", "payment", "hotel"]);

    let run = client.start(WORKFLOW, &to("Atlantis")).await.expect("a run starts");
    let failed = client.wait::<Booked>(run).await.expect_err("there is no room");
    assert!(failed.to_string().contains("no room in Atlantis"), "{failed}");
    assert_eq!(book.acts()[3..], ["flight", "payment", "undo payment", "undo flight"], "the last first");
    running.stop().await;
    close(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_undoing_goes_on_undoing() {
    let dir = tempfile::tempdir().expect("a directory");
    let client = open(dir.path()).await;
    let book = Book { stuck_at: Some("payment"), ..Book::default() };
    let _running = trip::offer(Worker::new(client.clone(), "w"), book.clone()).start().await.expect("it starts");
    let run = client.start(WORKFLOW, &to("Atlantis")).await.expect("a run starts");
    book.begun.notified().await;
    assert_eq!(book.acts(), ["flight", "payment"]);
    // The engine goes while the payment is being undone; nothing of that is on record.
    close(client).await;

    let client = open(dir.path()).await;
    let mended = Book { stuck_at: None, ..book.clone() };
    let running = trip::offer(Worker::new(client.clone(), "w"), mended).start().await.expect("it starts again");
    let failed = client.wait::<Booked>(run).await.expect_err("there is no room still");
    assert!(failed.to_string().contains("no room in Atlantis"), "{failed}");
    assert_eq!(book.acts(), ["flight", "payment", "undo payment", "undo flight"], "each once, the last first");
    let row = client.run(run).await.expect("it is read").expect("it is there");
    assert_eq!(row.state, RunState::Failed);
    running.stop().await;
    close(client).await;
}
