//! Keeps Redis at what the tables have: looks at each new connection, when something could not be given, and every so
//! often, and brings what is missing or behind.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mainspring_flows::publish::mirror::RebuildError;
use tokio::sync::watch;

use super::keys::Keys;
use super::{Depth, RedisMirror, Tenant, as_text};
use crate::link::Health;

/// How often is seen whether there is a reason to look, and looked again after a failure.
const TICK: Duration = Duration::from_secs(1);

impl RedisMirror {
    /// Keeps Redis at what the tables have, until it is to stop.
    pub async fn keep(self, mut stopping: watch::Receiver<bool>) {
        let (mut seen, mut failed, mut looked, mut looked_at_all) = (0, true, None::<Instant>, None::<Instant>);
        let mut woken = false;
        let past = |at: Option<Instant>, every: Duration| at.is_none_or(|at| at.elapsed() >= every);
        let tick = TICK.min(self.inner.options.look_every);
        while !*stopping.borrow() {
            // Before the look: a connection made during it may be to a Redis that lost what was just seen.
            let connections = self.inner.redis.connections();
            let ill = matches!(self.inner.redis.health(), Health::Ill(_));
            // While Redis is away a look ends at its first question.
            let again = failed && (ill || past(looked, self.inner.options.look_every));
            let all = again || connections != seen || past(looked_at_all, self.inner.options.look_at_all_every);
            if all || woken || past(looked, self.inner.options.look_every) {
                let begun = Instant::now();
                let outcome = tokio::select! {
                    outcome = self.look(if all { Depth::All } else { Depth::Current }) => outcome,
                    _ = stopping.changed() => return,
                };
                failed = outcome.is_err();
                (seen, looked) = (connections, Some(begun));
                if all {
                    looked_at_all = Some(begun);
                    self.inner.compared.fetch_or(!failed, Ordering::AcqRel);
                }
                self.note(outcome.err());
            }
            woken = tokio::select! {
                () = tokio::time::sleep(tick) => false,
                () = self.inner.wake.notified() => true,
                _ = stopping.changed() => return,
            };
        }
    }

    /// Compares everything once, and brings what is missing. One agent that can't be brought keeps no other from it.
    async fn look(&self, depth: Depth) -> Result<(), RebuildError> {
        let mut first = Ok(());
        for tenant in self.inner.tenants.values() {
            for (agent, register) in tenant.configs.registers().await? {
                let Some(pointer) = register.pointer else { continue };
                let brought = match depth {
                    Depth::All => self.bring(tenant, &agent, Depth::All, true).await,
                    Depth::Current => self.compare(tenant, &agent, pointer.version, pointer.epoch).await,
                };
                if let Err(error) = brought {
                    if matches!(self.inner.redis.health(), Health::Ill(_)) {
                        return Err(error);
                    }
                    if first.is_ok() {
                        first = Err(error);
                    }
                }
            }
        }
        first
    }

    /// Brings an agent's configuration if its pointer is not what the log has.
    async fn compare(&self, tenant: &Tenant, agent: &str, version: u64, epoch: u64) -> Result<(), RebuildError> {
        let (held, at_epoch) = self.held(&Keys { tenant: &tenant.name, agent }).await?;
        if held == Some(version.to_string()) && at_epoch == Some(epoch.to_string()) {
            return Ok(());
        }
        // Where the pointer is lost, so may be more.
        let depth = if held.is_none() || at_epoch.is_none() { Depth::All } else { Depth::Current };
        self.bring(tenant, agent, depth, true).await
    }

    /// Remembers how it went, and says so if that is news. What is wrong with Redis itself the connection says.
    fn note(&self, error: Option<RebuildError>) {
        let error = error.map(|error| as_text(error).0);
        let mut behind = self.inner.behind.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &error
            && behind.as_ref() != Some(error)
            && !matches!(self.inner.redis.health(), Health::Ill(_))
        {
            tracing::warn!(%error, "Redis has not all configurations that are published; it is tried again");
        }
        *behind = error;
    }
}
