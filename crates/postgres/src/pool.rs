//! Connections that are lent and given back, so many at most.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::link::{Connection, Link};
use crate::trouble::Trouble;

/// Lends connections.
pub(crate) struct Pool {
    link: Link,
    connections_max: usize,
    resting: Mutex<Resting>,
    freed: Condvar,
}

#[derive(Default)]
struct Resting {
    idle: Vec<Connection>,
    /// Those that are lent and those that are idle.
    open: usize,
}

impl Pool {
    pub(crate) fn new(link: Link, connections_max: usize) -> Pool {
        Pool { link, connections_max, resting: Mutex::default(), freed: Condvar::new() }
    }

    /// A connection that was well when it was last heard of; waits for one if all are lent.
    pub(crate) fn lend(&self) -> Result<Lent<'_>, Trouble> {
        let mut resting = self.lock();
        loop {
            while let Some(connection) = resting.idle.pop() {
                if connection.is_well() {
                    return Ok(Lent { pool: self, connection: Some(connection) });
                }
                resting.open -= 1;
            }
            if resting.open < self.connections_max {
                resting.open += 1;
                break;
            }
            let (again, waited) =
                self.freed.wait_timeout(resting, self.link.patience()).unwrap_or_else(PoisonError::into_inner);
            resting = again;
            if waited.timed_out() {
                let cause = format!("all {} connections are busy", self.connections_max);
                return Err(Trouble::Busy { cause });
            }
        }
        drop(resting);
        // Its place is given back if this fails.
        let mut lent = Lent { pool: self, connection: None };
        lent.connection = Some(self.link.connect()?);
        Ok(lent)
    }

    /// Does what only reads, once more if the connection turns out to have been cut while it was idle.
    pub(crate) fn read<T>(&self, work: impl Fn(&mut Connection) -> Result<T, Trouble>) -> Result<T, Trouble> {
        // Given back before the next is asked for: there may be only one.
        let once = || {
            let mut lent = self.lend()?;
            work(&mut lent)
        };
        match once() {
            Err(Trouble::Lost { .. } | Trouble::Busy { .. }) => once(),
            other => other,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Resting> {
        // A panic elsewhere does not make it wrong: each change is complete before it unlocks.
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("connections_max", &self.connections_max).finish_non_exhaustive()
    }
}

/// A connection until it is dropped.
pub(crate) struct Lent<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
}

impl Deref for Lent<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut resting = self.pool.lock();
        // In the middle of a panic it may be in the middle of a transaction.
        match self.connection.take().filter(|connection| connection.is_well() && !std::thread::panicking()) {
            Some(connection) => resting.idle.push(connection),
            None => resting.open -= 1,
        }
        drop(resting);
        self.pool.freed.notify_one();
    }
}
