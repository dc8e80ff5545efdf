//! Moving on in the log of events: whoever reads it writes how far it came, and starts what follows from what it read,
//! in one decision. So a crash at any moment repeats nothing and leaves nothing out, and to accept an event costs no
//! more for being read later.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::command::{Facts, Start};
use crate::document::PutDocument;
use crate::machine::Step;
use crate::reply::{Refusal, Reply};

/// The kind of the documents in which readers keep how far they came: the number of the last event they are done with,
/// as decimal digits. Retention removes no event beyond the lowest of a tenant.
pub const FEED_POSITION: &str = "feed-position";

impl Step<'_> {
    pub(crate) fn advance_reader(
        &mut self,
        puts: Vec<PutDocument>,
        starts: Vec<Start>,
        facts: &Facts,
    ) -> Result<Reply, Refusal> {
        let max = self.limits.commit_parts_max;
        if puts.len() > max {
            return Err(Refusal::Full {
                what: "documents written by one step of a reader",
                max,
                action: "take less at once",
            });
        }
        let bodies = puts.iter().map(|put| put.body.len());
        let found = bodies.chain(starts.iter().map(|start| start.input.len())).sum();
        let max = self.limits.commit_bytes_max;
        if found > max {
            return Err(Refusal::TooLarge { what: "a reader's step, all its parts together,", found, max });
        }
        let mut keys = BTreeSet::new();
        for put in &puts {
            self.check_document(put)?;
            self.check_version(put, facts)?;
            if !keys.insert(&put.key) {
                let what = "documents of one name written by one step";
                return Err(Refusal::Full { what, max: 1, action: "write it once" });
            }
        }
        // Refuses before it records, so that the documents follow only what was started.
        let started = self.start_runs(starts)?;
        for put in puts {
            self.write_document(put, None, facts);
        }
        Ok(started)
    }
}
