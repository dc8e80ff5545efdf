//! Lines that tasks write down for whoever looks. They go straight to the tables and leave with their run.

use crate::command::{Fact, Facts, Need};
use crate::id::TaskId;
use crate::machine::Step;
use crate::reply::{Refusal, Reply};
use crate::row::{self, LogRow};
use crate::write::Table;

/// Lines a live run may write down: a loop that logs must not fill the store.
const LINES_MAX: u32 = 10_000;

impl Step<'_> {
    pub(crate) fn put_log(&mut self, id: TaskId, line: LogRow, facts: &Facts) -> Result<Reply, Refusal> {
        let (found, max) = (line.message.len() + line.metadata.len() + line.level.len(), self.limits.log_bytes_max);
        if found > max {
            return Err(Refusal::TooLarge { what: "the line of the log", found, max });
        }
        match self.t.runs.get_mut(&id.run) {
            Some(run) if id.index >= run.row.tasks => return Err(Refusal::NoTask { task: id }),
            Some(run) if run.log_lines >= LINES_MAX => {
                let (what, max) = ("lines of this run's log", LINES_MAX as usize);
                return Err(Refusal::Full { what, max, action: "write down less" });
            }
            Some(run) => run.log_lines += 1,
            // A line may come after the end of what it tells of.
            None if matches!(facts.get(&Need::Run(id.run)), Some(Fact::Run(run)) if id.index < run.tasks) => {}
            None => return Err(Refusal::NoTask { task: id }),
        }
        let nth = self.ids.mint();
        self.out.put(Table::Log, &row::key::log(self.tenant, id, nth), &line);
        Ok(Reply::Done)
    }
}
