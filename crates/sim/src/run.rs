//! One simulation from its seed to its verdict.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Once;
use std::time::Duration;

use mainspring_core::{Command, RunId, TenantId};
use mainspring_engine::Health;
use tokio::task::JoinHandle;

use crate::books::Counts;
use crate::chance::Chance;
use crate::clients;
use crate::disk::Crash;
use crate::ground::{On, Trouble};
use crate::host::Host;
use crate::plan::Plan;
use crate::sim::Sim;
use crate::streams;
use crate::tables::TableFaults;
use crate::workers;

/// Simulated time in which everything must have come to its end after the last fault, if the clock was not set back. The
/// longest chain of waits is a reply's delivery, tried again after 1, 5, 25 and then 60 seconds.
const REST_MS_MAX: u64 = 400_000;
/// Workers outside the process, for each tenant. The last is enrolled.
pub(crate) const WORKERS: u64 = 3;

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The first promise that was broken.
    pub violation: Option<String>,
    /// The hash of everything that happened.
    pub hash: u64,
    /// How many lines it is of.
    pub steps: u64,
    /// What happened, if it was asked for.
    pub lines: Vec<String>,
    /// Interesting states that were reached.
    pub marks: BTreeSet<&'static str>,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// How much there was.
    pub counts: Counts,
}

thread_local! {
    /// The first panic of the simulation that this thread runs.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = format!("a panic: {info}");
            PANIC.with_borrow_mut(|first| {
                first.get_or_insert(text);
            });
        }));
    });
}

fn has_panicked() -> bool {
    PANIC.with_borrow(Option::is_some)
}

/// Runs one seed. The same seed gives the same outcome on the same ground.
pub fn simulate(seed: u64, keep_lines: bool, on: &On) -> Outcome {
    simulate_without(seed, keep_lines, on, &[])
}

/// Leaves one fault after another out of a seed that breaks a promise, as long as it still breaks one, and names those
/// that are needed.
pub fn needed_faults(seed: u64, on: &On) -> Vec<&'static str> {
    let mut left_out = Vec::new();
    for nth in 0..Plan::FAULTS.len() {
        left_out.push(nth);
        if simulate_without(seed, false, on, &left_out).violation.is_none() {
            left_out.pop();
        }
    }
    let needed = (0..Plan::FAULTS.len()).filter(|nth| !left_out.contains(nth));
    needed.map(|nth| Plan::FAULTS[nth].0).collect()
}

/// Runs one seed without some of its faults, given by their place in [`Plan::FAULTS`].
///
/// # Panics
/// If the system gives no runtime.
pub fn simulate_without(seed: u64, keep_lines: bool, on: &On, left_out: &[usize]) -> Outcome {
    let shape = |chance: &mut Chance| {
        let mut plan = Plan::draw(chance);
        for nth in left_out {
            Plan::FAULTS[*nth].1(&mut plan);
        }
        plan
    };
    simulate_plan(seed, keep_lines, on, shape)
}

/// Runs an hour of so many sessions of fast typists.
pub fn simulate_hour(seed: u64, sessions: u64, on: &On) -> Outcome {
    simulate_plan(seed, false, on, |chance| Plan::hour(chance, sessions))
}

fn simulate_plan(seed: u64, keep_lines: bool, on: &On, shape: impl FnOnce(&mut Chance) -> Plan) -> Outcome {
    note_panics();
    PANIC.set(None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("the system gives a runtime");
    let outcome = runtime.block_on(async {
        let mut chance = Chance::new(seed);
        let plan = shape(&mut chance);
        let sim = Sim::new(plan, chance.fork(), keep_lines);
        match Host::new(&sim, on) {
            Ok(host) => drive(&host).await,
            Err(error) => sim.violated(format!("the ground does not bear: {error}")),
        }
        if let Some(panic) = PANIC.take() {
            sim.violated(panic);
        }
        let (hash, steps) = sim.hash();
        let shared = sim.lock();
        let (violation, marks) = (shared.books.first_violation().map(str::to_owned), shared.books.marks().collect());
        let counts = shared.books.counts();
        drop(shared);
        Outcome { violation, hash, steps, lines: sim.lines(), marks, simulated_ms: sim.now(), counts }
    });
    drop(runtime);
    outcome
}

fn over(sim: &Sim) -> bool {
    sim.has_failed() || has_panicked()
}

async fn drive(host: &Host) {
    let sim = host.sim();
    tokio::spawn(supervise(host.clone()));
    tokio::spawn(storm(host.clone()));
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    for tenant in host.tenants() {
        let (one, set_up) = (host.clone(), clients::set_up(host.clone(), tenant, 0));
        clients.push(tokio::spawn(async move {
            set_up.await;
            for nth in 0..WORKERS {
                tokio::spawn(workers::run(one.clone(), tenant, nth));
            }
            let mut all = vec![
                tokio::spawn(clients::start(one.clone(), tenant)),
                tokio::spawn(clients::tell(one.clone(), tenant)),
            ];
            if !one.sim().plan().hour {
                all.push(tokio::spawn(streams::publish_and_consume(one.clone(), tenant)));
            }
            for session in 0..one.sim().plan().sessions {
                if one.sim().plan().hour {
                    all.push(tokio::spawn(clients::type_fast(one.clone(), tenant, session)));
                    continue;
                }
                all.push(tokio::spawn(clients::write(one.clone(), tenant, session)));
                all.push(tokio::spawn(clients::operate(one.clone(), tenant, session)));
                all.push(tokio::spawn(clients::follow_up(one.clone(), tenant, session)));
            }
            for client in all {
                let _ = client.await;
            }
        }));
    }
    let operator = sim.plan().hour.then(|| tokio::spawn(look_after_parked(host.clone())));
    let mut waited = 0;
    while waited < sim.plan().chaos_ms && !over(sim) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        waited += 50;
    }
    sim.trace(format_args!("no more faults"));
    sim.calm_down();
    if let Some(operator) = operator {
        operator.abort();
    }
    come_to_rest(host, clients).await;
}

/// No more faults: everything must end within a bounded time.
async fn come_to_rest(host: &Host, clients: Vec<JoinHandle<()>>) {
    let sim = host.sim();
    host.ground().calm_down();
    let operator = tokio::spawn(look_after_parked(host.clone()));
    rest(host, &clients).await;
    if over(sim) {
        return;
    }
    // What is done stays done also for the next process. What a client asked for and did not wait to hear about may
    // only be done now.
    if let Some(process) = host.current() {
        host.crash(&process, Crash::PowerLost);
    }
    let process = host.up().await;
    rest(host, &clients).await;
    operator.abort();
    if over(sim) {
        return;
    }
    for tenant in host.tenants().into_iter().filter(|_| !sim.plan().hour) {
        streams::check(host, tenant).await;
    }
    // Looking is a command as any other, and what timers did with it is to be applied as well.
    rest(host, &clients).await;
    let mut shared = sim.lock();
    let shared = &mut *shared;
    shared.books.settle();
    for (partition, witness) in (0..).zip(&shared.witnesses) {
        witness.compare(host.ground(), partition, &mut shared.books);
    }
    if process.engine.health() != Health::Accepting {
        shared.books.violated(format!("at rest the engine is {:?}", process.engine.health()));
    }
}

/// Waits until nothing is left to do.
async fn rest(host: &Host, clients: &[JoinHandle<()>]) {
    let sim = host.sim();
    let rest_ms_max = REST_MS_MAX + host.clock_behind_ms();
    let until = sim.now() + rest_ms_max;
    while !over(sim) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let finished = clients.iter().all(JoinHandle::is_finished);
        let open = sim.lock().books.tasks.open().count();
        if finished && open == 0 && host.is_applied() {
            return;
        }
        if sim.now() > until {
            return explain(host, finished, rest_ms_max).await;
        }
    }
}

/// Says what never ended, and why it waits.
async fn explain(host: &Host, finished: bool, rest_ms_max: u64) {
    let open: Vec<(u128, u128, String)> = {
        let shared = host.sim().lock();
        shared
            .books
            .tasks
            .open()
            .map(|run| (run.tenant, run.id, format!("{} is {}", run.workflow, run.state)))
            .collect()
    };
    let mut text = format!("not at rest {} s after the last fault", rest_ms_max / 1_000);
    if !finished {
        text.push_str("; a client still waits to be answered");
    }
    if !host.is_applied() {
        text.push_str("; the tables are behind");
    }
    for (tenant, run, how) in open.into_iter().take(5) {
        let reason = match host.current() {
            Some(process) => {
                let asked = process.engine.submit(TenantId(tenant), Command::Explain { run: RunId(run) });
                format!("{:?}", tokio::time::timeout(Duration::from_secs(5), asked).await)
            }
            None => "no process is up".to_owned(),
        };
        let tasks: Vec<String> = {
            let shared = host.sim().lock();
            (0..4)
                .filter_map(|index| shared.books.tasks.task((run, index)))
                .map(|task| {
                    format!("{} with {:x?} attempt {}.{}", task.state, task.worker, task.attempt, task.invocation)
                })
                .collect()
        };
        text.push_str(&format!("\n  run {:032x} of {how}: {reason}; tasks {tasks:?}", run));
    }
    host.sim().violated(text);
}

/// Parked runs wait for a person: this one resumes them. Only of those whose code has changed it gives some up.
async fn look_after_parked(host: Host) {
    let mut chance = host.sim().fork();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let parked: Vec<(u128, u128, bool)> = {
            let shared = host.sim().lock();
            let parked = shared.books.tasks.open().filter(|run| run.state == "parked");
            parked.map(|run| (run.tenant, run.id, run.workflow == "drift")).collect()
        };
        for (tenant, run, drifted) in parked {
            let (tenant, run) = (TenantId(tenant), RunId(run));
            let command = if !drifted || chance.permille(500) {
                host.sim().sometimes(if drifted {
                    "a run whose code had changed was resumed"
                } else {
                    "a parked run was resumed"
                });
                Command::ResumeRun { run }
            } else {
                Command::CancelRun { run, reason: "simulated: not worth it".to_owned() }
            };
            let _ = crate::link::call(&host, &mut chance, tenant, command).await;
        }
    }
}

/// Keeps a process up, and lets go of one whose log takes no more.
async fn supervise(host: Host) {
    let mut chance = host.sim().fork();
    loop {
        match host.current() {
            None => {
                let _ = host.start(false);
            }
            Some(process) => {
                if let Health::Stopped { .. } = process.engine.health() {
                    // Nobody hears of anything while it stands like this.
                    host.sim().pause(&mut chance, 200).await;
                    host.crash(&process, Crash::Killed);
                    continue;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(chance.between(5, 150))).await;
    }
}

/// Time until something that happens every so often happens next; `None` if it never does.
fn next(chance: &mut Chance, every_ms: u64) -> Option<u64> {
    (every_ms > 0).then(|| chance.between(1, 2 * every_ms))
}

/// All faults that come from outside, each at its own pace.
async fn storm(host: Host) {
    let sim = host.sim().clone();
    let plan = sim.plan().clone();
    let kinds: [(u64, Fault); 7] = [
        (plan.crash_every_ms, Fault::Crash),
        (if plan.crash_in_write { 1_000 } else { 0 }, Fault::CrashInWrite),
        (plan.takeover_every_ms, Fault::TakeOver),
        (plan.clock_jump_every_ms, Fault::ClockJump),
        (plan.tables_away_every_ms, Fault::TablesAway),
        (plan.disk_trouble_every_ms, Fault::DiskTrouble),
        (if plan.code_changes { 1_500 } else { 0 }, Fault::CodeChange),
    ];
    for (every_ms, fault) in kinds {
        let (host, mut chance) = (host.clone(), sim.fork());
        tokio::spawn(async move {
            while let Some(wait) = next(&mut chance, every_ms) {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                if host.sim().is_calm() {
                    return;
                }
                fault.strike(&host, &mut chance).await;
            }
        });
    }
    let table_faults =
        TableFaults { refused: plan.table_faults, unheard: plan.table_faults, repeated: plan.table_faults };
    let mut chance = sim.fork();
    loop {
        tokio::time::sleep(Duration::from_millis(if plan.hour { 10_000 } else { 200 })).await;
        if sim.is_calm() {
            return;
        }
        host.ground().set_table_faults(table_faults);
        if chance.permille(50) && host.current().is_some() {
            host.try_second();
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Crash,
    CrashInWrite,
    TakeOver,
    ClockJump,
    TablesAway,
    DiskTrouble,
    CodeChange,
}

impl Fault {
    async fn strike(self, host: &Host, chance: &mut Chance) {
        let sim = host.sim();
        match self {
            Fault::Crash => {
                if let Some(process) = host.current() {
                    let power = chance.permille(sim.plan().power_lost);
                    host.crash(&process, if power { Crash::PowerLost } else { Crash::Killed });
                }
            }
            Fault::CrashInWrite => host.ground().die_in(chance.below(40)),
            Fault::TakeOver => {
                if host.current().is_some() {
                    let _ = host.start(true);
                    sim.pause(chance, 1_500).await;
                    host.end_aside();
                }
            }
            Fault::ClockJump => {
                let far = *chance.pick(&[50_i64, 2_000, 60_000]);
                let ms = if chance.permille(500) { far } else { -far };
                sim.trace(format_args!("the clock jumps by {ms} ms"));
                sim.sometimes(if ms < 0 { "the clock went back" } else { "the clock went forward" });
                host.jump_clock(ms);
            }
            Fault::TablesAway => {
                sim.trace(format_args!("the tables are away"));
                sim.sometimes("the tables were away");
                host.ground().set_away(true);
                sim.pause(chance, 2_000).await;
                host.ground().set_away(false);
            }
            Fault::DiskTrouble => {
                let full = chance.permille(500);
                sim.trace(format_args!("the disk {}", if full { "is full" } else { "fails" }));
                sim.sometimes(if full { "the disk was full" } else { "the disk failed" });
                host.ground().set_trouble(Some(if full { Trouble::Full } else { Trouble::Failing }));
                sim.pause(chance, 1_000).await;
                host.ground().set_trouble(None);
            }
            Fault::CodeChange => host.change_code(),
        }
    }
}
