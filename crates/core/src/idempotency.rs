//! Idempotency keys: a repeated request is recognised in the same commit as the work it guards.

use crate::command::Idempotency;
use crate::id::{MessageId, RunId};
use crate::machine::Step;
use crate::reply::Refusal;
use crate::row::{self, IdempotencyRow};
use crate::timer::TimerKey;
use crate::write::Table;

/// Keys forgotten by one timer. One tick fires many timers, so this is what keeps a tick short after a long pause.
const EXPIRED_PER_TIMER_MAX: usize = 64;

impl Step<'_> {
    /// What was done under this key, if it was used. A key used for a message is not one for a run, nor the reverse,
    /// whatever the bodies' hashes say.
    pub(crate) fn known_request(
        &self,
        idempotency: Option<&Idempotency>,
        for_message: bool,
    ) -> Result<Option<IdempotencyRow>, Refusal> {
        let Some(idempotency) = idempotency else { return Ok(None) };
        self.check_key("the idempotency key", &idempotency.key)?;
        match self.t.idempotency.get(&idempotency.key) {
            Some(row) if row.body == idempotency.body && row.message.is_some() == for_message => Ok(Some(row.clone())),
            Some(_) => Err(Refusal::IdempotencyConflict { key: idempotency.key.clone() }),
            None if self.t.idempotency.len() >= self.limits.idempotency_keys_max => Err(Refusal::Full {
                what: "idempotency keys remembered for this tenant",
                max: self.limits.idempotency_keys_max,
                action: "retry when older ones have expired",
            }),
            None => Ok(None),
        }
    }

    pub(crate) fn remember_request(
        &mut self,
        idempotency: Option<Idempotency>,
        message: Option<MessageId>,
        run: RunId,
    ) {
        let Some(Idempotency { key, body }) = idempotency else { return };
        let expires_at = self.now.saturating_add(self.limits.idempotency_ttl_ms);
        let row = IdempotencyRow { body, message, run, expires_at };
        self.out.put(Table::Idempotency, &row::key::idempotency(self.tenant, &key), &row);
        // One timer stands for the earliest. A restart with a shorter limit may make a new key the earliest.
        let earliest = self.t.expiring.first().map(|(due, _)| *due);
        if earliest.is_none_or(|due| expires_at < due) {
            if let Some(due) = earliest {
                self.timers.unset(due, self.tenant, TimerKey::Idempotency);
            }
            self.timers.set(expires_at, self.tenant, TimerKey::Idempotency);
        }
        self.t.expiring.insert((expires_at, key.clone()));
        self.t.idempotency.insert(key, row);
    }

    /// Forgets what has expired, a bounded number at a time.
    pub(crate) fn expire_idempotency(&mut self) {
        for _ in 0..EXPIRED_PER_TIMER_MAX {
            match self.t.expiring.first() {
                Some((due, _)) if *due <= self.now => {}
                Some(_) | None => break,
            }
            if let Some((_, key)) = self.t.expiring.pop_first() {
                self.t.idempotency.remove(&key);
                self.out.delete(Table::Idempotency, &row::key::idempotency(self.tenant, &key));
            }
        }
        if let Some((due, _)) = self.t.expiring.first() {
            self.timers.set(*due, self.tenant, TimerKey::Idempotency);
        }
    }
}
