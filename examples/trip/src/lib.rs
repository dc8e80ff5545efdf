//! A trip, booked by a durable function: flight, payment, hotel. If one fails, those before it are undone, the last first.
//!
//! The same trip is a tool of the catalogue in `tools/trip.book.json`, declared instead of written. Kill the process at any
//! point and start it again: it goes on booking, or undoing, where it was.

use std::future::Future;

use mainspring_client::{Context, Failure, Worker, WorkflowDef};
use serde::{Deserialize, Serialize};

/// The workflow's name.
pub const WORKFLOW: &str = "trip";

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// Where to.
    pub to: String,
    /// Who travels.
    pub traveller: String,
}

/// What was booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booked {
    /// The flight's booking.
    pub flight: String,
    /// The payment's.
    pub payment: String,
    /// The hotel's.
    pub hotel: String,
}

/// Where trips are booked. Each call carries a key, and the same key again is the same booking: after a crash in the middle
/// of a call it is made again.
pub trait Desk: Clone + Send + Sync + 'static {
    /// Books `what` for a trip. Gives the booking's name.
    ///
    /// A [`Failure::Final`] says that nothing was booked; any other failure, that it may have been.
    fn book(&self, what: &'static str, key: &str, trip: &Trip) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Undoes what was booked under a key. If nothing was, there is nothing to do, and that is no failure.
    fn cancel(&self, what: &'static str, key: &str) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Offers the function through a worker.
#[must_use]
pub fn offer(worker: Worker, desk: impl Desk) -> Worker {
    worker.function(WorkflowDef::single(WORKFLOW, true), move |ctx: Context, trip: Trip| {
        let desk = desk.clone();
        async move { book(ctx, trip, desk).await }
    })
}

async fn book(ctx: Context, trip: Trip, desk: impl Desk) -> Result<Booked, Failure> {
    Ok(Booked {
        flight: step(&ctx, &desk, &trip, "flight").await?,
        payment: step(&ctx, &desk, &trip, "payment").await?,
        hotel: step(&ctx, &desk, &trip, "hotel").await?,
    })
}

/// Books one part, and says how it is undone. The key follows from the run, so a repeat is recognised.
async fn step(ctx: &Context, desk: &impl Desk, trip: &Trip, what: &'static str) -> Result<String, Failure> {
    let key = format!("{}:{what}", ctx.run_id());
    let (undoing, undone) = (desk.clone(), key.clone());
    ctx.step(what, |_| desk.book(what, &key, trip))
        .compensate_with(move |_| {
            let (desk, key) = (undoing.clone(), undone.clone());
            async move { desk.cancel(what, &key).await }
        })
        .run()
        .await
}
