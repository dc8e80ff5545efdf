//! What one seed's deployment is like: its size, its speed, and which faults it suffers how often.
//!
//! Each fault is there in about half of the seeds only. A deployment that suffers everything at once hardly gets anywhere,
//! and hides what takes a long quiet stretch followed by one fault.

use crate::chance::Chance;

/// The shape of one simulation. Times in milliseconds, shares in so many of a thousand.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tenants, numbered from 1.
    pub tenants: u64,
    /// Sessions of each tenant.
    pub sessions: u64,
    /// Messages of each session.
    pub messages: u64,
    /// Runs each tenant's client starts.
    pub starts: u64,
    /// Events and cancellations beside them.
    pub others: u64,
    /// Follow-ups of each session.
    pub follow_ups: u64,
    /// The first of the agents that sessions are with.
    pub agent: u64,
    /// Things an agent asks at most in one attempt.
    pub calls: u64,
    /// Times an operator changes a session's state.
    pub operators: u64,
    /// Receipts for a segment at most.
    pub receipts: u64,
    /// How much later a message comes again under its provider's id.
    pub late_ms: u64,
    /// How long faults go on.
    pub chaos_ms: u64,
    /// Partitions a new store is asked for.
    pub partitions: u16,
    /// Longest time between two things a client does.
    pub pause_ms: u64,
    /// Longest time a message takes over the network.
    pub net_ms: u64,
    /// Requests that never arrive.
    pub request_lost: u64,
    /// Answers that never arrive.
    pub answer_lost: u64,
    /// Requests that arrive twice.
    pub request_repeated: u64,
    /// Longest time a durable write takes.
    pub disk_ms: u64,
    /// Longest time the tables lag behind.
    pub apply_ms: u64,
    /// Applications after which the tables are checkpointed, in so many of a thousand.
    pub checkpoint: u64,
    /// Longest time loading a fact takes.
    pub load_ms: u64,
    /// How long the functions of a process may only wait before they leave memory.
    pub idle_ms: u64,
    /// Mean time between two ends of the process; 0 for never.
    pub crash_every_ms: u64,
    /// Ends in the middle of a step, at each of the places where one is possible.
    pub crash_at_step: u64,
    /// Ends that take the power with them.
    pub power_lost: u64,
    /// Ends in the middle of a change of the disk.
    pub crash_in_write: bool,
    /// Mean time between two take-overs from a process that is only slow; 0 for never.
    pub takeover_every_ms: u64,
    /// Mean time between two jumps of the clock; 0 for never.
    pub clock_jump_every_ms: u64,
    /// Appends whose outcome is not known at once.
    pub append_unknown: u64,
    /// Commits of the tables that go wrong, of each kind.
    pub table_faults: u64,
    /// Mean time between two times in which the tables are away; 0 for never.
    pub tables_away_every_ms: u64,
    /// Mean time between two times in which the disk is full or failing; 0 for never.
    pub disk_trouble_every_ms: u64,
    /// Mean time between two lost connections of a worker; 0 for never.
    pub disconnect_every_ms: u64,
    /// Attempts that fail.
    pub attempt_fails: u64,
    /// Attempts that are never reported.
    pub attempt_dies: u64,
    /// Attempts reported long after they were given up.
    pub attempt_late: u64,
    /// Reports under a claim that is not the worker's.
    pub lies: u64,
    /// Agents and channels that do not answer, or say no.
    pub outside_fails: u64,
    /// Code that changes under waiting functions.
    pub code_changes: bool,
    /// Many sessions of fast typists, for long, and nothing else.
    pub hour: bool,
}

/// Takes one kind of fault out of a plan.
pub type LeaveOut = fn(&mut Plan);

impl Plan {
    /// Draws a plan.
    pub fn draw(chance: &mut Chance) -> Plan {
        let mut rate = |often: &[u64]| if chance.permille(500) { *chance.pick(often) } else { 0 };
        let (request_lost, answer_lost, request_repeated) =
            (rate(&[20, 100, 250]), rate(&[20, 100, 250]), rate(&[20, 100, 300]));
        let crash_every_ms = rate(&[700, 2_000, 5_000]);
        let (crash_at_step, power_lost) = (rate(&[2, 10, 30]), rate(&[300, 700, 1_000]));
        let crash_in_write = rate(&[1]) == 1;
        let takeover_every_ms = rate(&[2_000, 5_000]);
        let clock_jump_every_ms = rate(&[1_000, 4_000]);
        let append_unknown = rate(&[5, 30, 100]);
        let table_faults = rate(&[20, 100, 250]);
        let tables_away_every_ms = rate(&[1_500, 4_000]);
        let disk_trouble_every_ms = rate(&[3_000, 6_000]);
        let disconnect_every_ms = rate(&[500, 2_000]);
        let (attempt_fails, attempt_dies) = (rate(&[50, 300]), rate(&[50, 200]));
        let (attempt_late, lies) = (rate(&[100, 300]), rate(&[50, 300]));
        let outside_fails = rate(&[50, 300]);
        let code_changes = rate(&[1]) == 1;
        Plan {
            tenants: chance.between(1, 3),
            sessions: chance.between(1, 3),
            messages: chance.between(2, 10),
            starts: chance.between(3, 12),
            others: chance.between(2, 10),
            follow_ups: chance.below(3),
            agent: chance.below(8),
            calls: chance.below(5),
            operators: chance.below(3),
            receipts: chance.below(4),
            late_ms: *chance.pick(&[0, 0, 0, 90_000]),
            chaos_ms: chance.between(3_000, 12_000),
            partitions: chance.between(1, 2) as u16,
            pause_ms: *chance.pick(&[20, 200, 1_000]),
            net_ms: *chance.pick(&[2, 20, 200]),
            disk_ms: *chance.pick(&[1, 5, 60]),
            apply_ms: *chance.pick(&[5, 50, 1_000]),
            checkpoint: *chance.pick(&[20, 200, 700]),
            load_ms: *chance.pick(&[2, 50]),
            idle_ms: *chance.pick(&[30, 200, 3_000]),
            request_lost,
            answer_lost,
            request_repeated,
            crash_every_ms,
            crash_at_step,
            power_lost,
            crash_in_write,
            takeover_every_ms,
            clock_jump_every_ms,
            append_unknown,
            table_faults,
            tables_away_every_ms,
            disk_trouble_every_ms,
            disconnect_every_ms,
            attempt_fails,
            attempt_dies,
            attempt_late,
            lies,
            outside_fails,
            code_changes,
            hour: false,
        }
    }

    /// An hour of many sessions in which people type fast, under every fault that an hour has now and then.
    pub fn hour(chance: &mut Chance, sessions: u64) -> Plan {
        let tenants = 4;
        Plan {
            tenants,
            sessions: sessions / tenants,
            messages: 4,
            starts: 0,
            others: 0,
            follow_ups: 0,
            agent: 0,
            calls: 2,
            operators: 0,
            receipts: 1,
            late_ms: 0,
            chaos_ms: 3_600_000,
            net_ms: 20,
            disk_ms: 5,
            apply_ms: 50,
            checkpoint: 50,
            load_ms: 2,
            idle_ms: 3_000,
            request_lost: 20,
            answer_lost: 20,
            request_repeated: 20,
            crash_every_ms: 120_000,
            crash_at_step: 0,
            power_lost: 300,
            crash_in_write: false,
            takeover_every_ms: 300_000,
            clock_jump_every_ms: 300_000,
            append_unknown: 2,
            table_faults: 10,
            tables_away_every_ms: 300_000,
            disk_trouble_every_ms: 300_000,
            disconnect_every_ms: 0,
            outside_fails: 20,
            code_changes: false,
            hour: true,
            ..Plan::draw(chance)
        }
    }

    /// The faults of a plan by name, each with how to leave it out.
    pub const FAULTS: [(&str, LeaveOut); 21] = [
        ("lost requests", |plan| plan.request_lost = 0),
        ("lost answers", |plan| plan.answer_lost = 0),
        ("repeated requests", |plan| plan.request_repeated = 0),
        ("a slow network", |plan| plan.net_ms = 2),
        ("a slow disk", |plan| plan.disk_ms = 1),
        ("tables that lag", |plan| plan.apply_ms = 5),
        ("crashes", |plan| plan.crash_every_ms = 0),
        ("crashes in the middle of a step", |plan| plan.crash_at_step = 0),
        ("crashes in the middle of a write", |plan| plan.crash_in_write = false),
        ("power cuts", |plan| plan.power_lost = 0),
        ("take-overs", |plan| plan.takeover_every_ms = 0),
        ("clock jumps", |plan| plan.clock_jump_every_ms = 0),
        ("appends of unknown outcome", |plan| plan.append_unknown = 0),
        ("commits of the tables that go wrong", |plan| plan.table_faults = 0),
        ("tables that are away", |plan| plan.tables_away_every_ms = 0),
        ("a full or failing disk", |plan| plan.disk_trouble_every_ms = 0),
        ("workers cut off", |plan| plan.disconnect_every_ms = 0),
        ("attempts that fail or die", |plan| (plan.attempt_fails, plan.attempt_dies) = (0, 0)),
        ("late and lying reports", |plan| (plan.attempt_late, plan.lies) = (0, 0)),
        ("code that changes", |plan| plan.code_changes = false),
        ("agents and channels that fail", |plan| plan.outside_fails = 0),
    ];

    /// The same deployment with no fault left.
    pub fn calm(&self) -> Plan {
        Plan {
            net_ms: 2,
            disk_ms: 1,
            apply_ms: 5,
            load_ms: 2,
            request_lost: 0,
            answer_lost: 0,
            request_repeated: 0,
            crash_every_ms: 0,
            crash_at_step: 0,
            power_lost: 0,
            crash_in_write: false,
            takeover_every_ms: 0,
            clock_jump_every_ms: 0,
            append_unknown: 0,
            table_faults: 0,
            tables_away_every_ms: 0,
            disk_trouble_every_ms: 0,
            disconnect_every_ms: 0,
            attempt_fails: 0,
            attempt_dies: 0,
            attempt_late: 0,
            lies: 0,
            outside_fails: 0,
            code_changes: false,
            ..self.clone()
        }
    }
}
