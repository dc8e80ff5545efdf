//! What all actors of one simulation share: the plan, chance, the books, the witnesses, and the trace.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::agents::{AGENTS, settings};
use crate::books::Books;
use crate::chance::Chance;
use crate::plan::Plan;
use crate::witness::Witness;

/// One simulation. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Sim(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stormy: Plan,
    calm: Plan,
    began: Instant,
    shared: Mutex<Shared>,
}

/// What changes.
#[derive(Debug)]
pub struct Shared {
    /// What is held against the deployment.
    pub books: Books,
    /// One for each partition.
    pub witnesses: Vec<Witness>,
    chance: Chance,
    is_calm: bool,
    trace: Trace,
}

/// What happened, in order: always its hash, and its lines if somebody wants to read them.
#[derive(Debug)]
struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
    steps: u64,
}

struct Hashing<'a>(&'a mut u64);

impl Write for Hashing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // FNV-1a.
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl Sim {
    /// A simulation about to begin, inside a runtime whose clock is paused.
    pub fn new(plan: Plan, chance: Chance, keep_lines: bool) -> Sim {
        let tenants: Vec<u128> = (1..=u128::from(plan.tenants)).collect();
        let mut books = Books::new(&tenants);
        for (nth, (agent, ..)) in AGENTS.iter().enumerate() {
            books.set_restarts_max(agent, settings(nth).restarts_max);
        }
        Sim(Arc::new(Inner {
            calm: plan.calm(),
            stormy: plan,
            began: Instant::now(),
            shared: Mutex::new(Shared {
                books,
                witnesses: Vec::new(),
                chance,
                is_calm: false,
                trace: Trace { hash: 0xcbf2_9ce4_8422_2325, lines: keep_lines.then(Vec::new), steps: 0 },
            }),
        }))
    }

    /// Everything that changes.
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan in force.
    pub fn plan(&self) -> &Plan {
        if self.lock().is_calm { &self.0.calm } else { &self.0.stormy }
    }

    /// From now on nothing goes wrong any more.
    pub fn calm_down(&self) {
        self.lock().is_calm = true;
    }

    /// Whether nothing goes wrong any more.
    pub fn is_calm(&self) -> bool {
        self.lock().is_calm
    }

    /// A source of chance for one more actor.
    pub fn fork(&self) -> Chance {
        self.lock().chance.fork()
    }

    /// Milliseconds since the beginning, by a clock that never jumps.
    pub fn now(&self) -> u64 {
        self.0.began.elapsed().as_millis() as u64
    }

    /// Adds a line to the trace.
    pub fn trace(&self, line: fmt::Arguments<'_>) {
        let now = self.now();
        let mut shared = self.lock();
        let trace = &mut shared.trace;
        trace.steps += 1;
        // Hashing never fails.
        let _ = writeln!(Hashing(&mut trace.hash), "{now} {line}");
        if let Some(lines) = &mut trace.lines {
            lines.push(format!("{:>7}.{:03}  {line}", now / 1_000, now % 1_000));
        }
    }

    /// The hash of everything that happened, and how many lines it is of.
    pub fn hash(&self) -> (u64, u64) {
        let shared = self.lock();
        (shared.trace.hash, shared.trace.steps)
    }

    /// The lines, if they were kept.
    pub fn lines(&self) -> Vec<String> {
        self.lock().trace.lines.clone().unwrap_or_default()
    }

    /// Notes a broken promise.
    pub fn violated(&self, what: String) {
        self.lock().books.violated(what);
    }

    /// Whether a promise was broken.
    pub fn has_failed(&self) -> bool {
        self.lock().books.first_violation().is_some()
    }

    /// Notes that an interesting state was reached.
    pub fn sometimes(&self, what: &'static str) {
        self.lock().books.sometimes(what);
    }

    /// Waits for up to `ms_max` milliseconds.
    pub async fn pause(&self, chance: &mut Chance, ms_max: u64) {
        tokio::time::sleep(Duration::from_millis(chance.below(ms_max + 1))).await;
    }
}
