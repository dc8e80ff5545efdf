//! The page: tables of medians with their spread, ratios, and what was aimed at.

use std::fmt::Write;

use crate::goals::goals;
use crate::measure::Figure;
use crate::plan::{Contender, Workload};
use crate::results::{Results, Rounds};

/// With fewer rounds a median says little.
const ROUNDS_MIN: usize = 5;

/// Markdown of it all.
pub(crate) fn markdown(results: &Results, plots: &[(Workload, String)]) -> String {
    let mut out = String::new();
    out.push_str(
        "# Side by side\n\nOurs and what people would pick instead, on one machine, in one invocation, in turn: a round \
         starts each contender on a fresh directory, asks it everything, ends it, and goes on to the next; then the next \
         round. Tables show medians of the rounds, and in parentheses the lowest and the highest. Load, servers and \
         workers share the machine's cores. This page is written by the command below; what it was made of is in \
         [figures.json](figures.json).\n\n",
    );
    let _ = writeln!(out, "```sh\n{}\n```\n", results.command);
    let _ = writeln!(out, "Measured {}.\n\n| The machine | |\n|---|---|", results.date);
    for (name, value) in &results.machine {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    out.push_str("\n| Measured | version |\n|---|---|\n");
    for (name, version) in &results.versions {
        let _ = writeln!(out, "| {name} | {version} |");
    }
    let least = results.figures.iter().map(|figure| figure.load_average).fold(f64::INFINITY, f64::min);
    if least.is_finite() {
        let most = results.figures.iter().map(|figure| figure.load_average).fold(0.0, f64::max);
        let rounds = results.figures.iter().map(|figure| figure.round).max().unwrap_or(0);
        if rounds < ROUNDS_MIN {
            let _ = writeln!(out, "\n**Fewer than {ROUNDS_MIN} rounds: a trial, not a result.**");
        }
        let _ = writeln!(
            out,
            "\nRounds: {rounds}. Load average of the machine before the measurements: {least:.1} to {most:.1}. Where other work \
             kept the cores busy, rates and times say little, and ratios of processor time more."
        );
    }
    configurations(results, &mut out);
    goals_met(results, &mut out);
    for workload in results.workloads() {
        let _ = writeln!(out, "\n## {}\n", workload.meaning());
        if let Some((_, file)) = plots.iter().find(|(of, _)| *of == workload) {
            let _ = writeln!(out, "![{}]({file})\n", workload.meaning());
        }
        if !workload.note().is_empty() {
            let _ = writeln!(out, "{}\n", workload.note());
        }
        table(results, workload, &mut out);
        ratios(results, workload, &mut out);
    }
    starts(results, &mut out);
    recoveries(results, &mut out);
    if !results.failures.is_empty() {
        out.push_str("\n## What could not be measured\n\n");
        for failure in &results.failures {
            let _ = writeln!(out, "- {failure}");
        }
    }
    out
}

fn configurations(results: &Results, out: &mut String) {
    let mut all: Vec<Contender> = results.starts.iter().map(|start| start.contender).collect();
    all.sort_unstable();
    all.dedup();
    out.push_str("\n## How each is set up\n\n| | |\n|---|---|\n");
    for contender in all {
        let _ = writeln!(out, "| {} | {} |", contender.name(), contender.setup());
    }
    out.push_str(
        "\nAsked by callers that ask again as soon as they are answered, each on a connection of its own; what can be \
         spoken to over HTTP by one and the same load generator, on one thread. The figures of the processor are of \
         servers and of workers, those of memory and of bytes written of both together; bytes are those \
         `/proc/PID/io` counts as written to disk. Ours fill segments of the log beforehand, which is most of what they write \
         while they do little.\n",
    );
}

fn goals_met(results: &Results, out: &mut String) {
    let goals = goals(results);
    if goals.is_empty() {
        return;
    }
    out.push_str("\n## What was aimed at\n\n| | aim | measured | |\n|---|---|---|---|\n");
    for goal in goals {
        let met = if goal.met { "met" } else { "**missed**" };
        let _ = writeln!(out, "| {} | {} | {} | {met} |", goal.what, goal.aim, goal.measured);
    }
}

fn table(results: &Results, workload: Workload, out: &mut String) {
    let end = match workload {
        Workload::D => "done/s to the end |",
        Workload::F => "late, s |",
        _ => "",
    };
    let first = if workload == Workload::F { "begun/s" } else { "per second" };
    let _ = writeln!(
        out,
        "| | callers | {first} | p50 ms | p99 ms | p99.9 ms | {end} server us | worker us | KB written | memory MB | errors |"
    );
    let _ = writeln!(out, "|{}", "---|".repeat(if end.is_empty() { 11 } else { 12 }));
    for contender in results.contenders(workload) {
        for callers in results.callers(workload) {
            if let Some(rounds) = results.rounds(contender, workload, callers) {
                let _ = writeln!(out, "{}", row(contender, callers, workload, &rounds));
            }
        }
    }
}

fn row(contender: Contender, callers: usize, workload: Workload, rounds: &Rounds<'_>) -> String {
    let with_spread = |figure: fn(&Figure) -> f64| {
        let (low, high) = rounds.spread(figure);
        format!("{} ({} - {})", short(rounds.median(figure)), short(low), short(high))
    };
    let mut cells = vec![contender.name().to_owned(), callers.to_string(), with_spread(|one| one.per_second)];
    let times: [fn(&Figure) -> f64; 3] = [|one| one.p50_ms, |one| one.p99_ms, |one| one.p999_ms];
    for figure in times {
        cells.push(short(rounds.median(figure)));
    }
    if matches!(workload, Workload::D | Workload::F) {
        cells.push(with_spread(|one| one.to_the_end.unwrap_or(0.0)));
    }
    cells.push(short(rounds.median(|one| one.server_us)));
    cells.push(short(rounds.median(|one| one.worker_us)));
    cells.push(short(rounds.median(|one| one.written_bytes / 1e3)));
    cells.push(short(rounds.median(|one| one.resident_bytes as f64 / 1e6)));
    let lost = if rounds.lost() > 0 { format!(", {} lost", rounds.lost()) } else { String::new() };
    cells.push(format!("{}{lost}", rounds.errors()));
    format!("| {} |", cells.join(" | "))
}

/// Each of ours over each rival: throughput, and the other way round the times.
fn ratios(results: &Results, workload: Workload, out: &mut String) {
    let (ours, rivals): (Vec<Contender>, Vec<Contender>) =
        results.contenders(workload).into_iter().partition(|contender| contender.is_ours());
    if ours.is_empty() || rivals.is_empty() || workload == Workload::F {
        return;
    }
    out.push_str(
        "\n| times as much as | callers | per second | p50 shorter by | p99 shorter by | processor time less by |\n|---|---|---|---|---|---|\n",
    );
    for own in &ours {
        for rival in &rivals {
            for callers in results.callers(workload) {
                let both = (results.rounds(*own, workload, callers), results.rounds(*rival, workload, callers));
                let (Some(own_rounds), Some(rival_rounds)) = both else { continue };
                let over = |figure: fn(&Figure) -> f64| own_rounds.median(figure) / rival_rounds.median(figure);
                let _ = writeln!(
                    out,
                    "| {} over {} | {callers} | **{:.1}** | {:.1} | {:.1} | {:.1} |",
                    own.name(),
                    rival.name(),
                    over(|one| one.per_second),
                    1.0 / over(|one| one.p50_ms),
                    1.0 / over(|one| one.p99_ms),
                    1.0 / over(|one| one.server_us + one.worker_us),
                );
            }
        }
    }
}

fn starts(results: &Results, out: &mut String) {
    use mainspring_bench::latency::median;
    out.push_str(
        "\n## Start and idleness\n\n| | start to ready, ms | server, MB | worker, MB | server, % of a core |\n|---|---|---|---|---|\n",
    );
    let mut all: Vec<Contender> = results.starts.iter().map(|start| start.contender).collect();
    all.sort_unstable();
    all.dedup();
    for contender in all {
        let of = || results.starts.iter().filter(move |start| start.contender == contender);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {:.1} |",
            contender.name(),
            short(median(of().map(|start| start.ready_ms))),
            short(median(of().map(|start| start.server_bytes as f64 / 1e6))),
            short(median(of().map(|start| start.worker_bytes as f64 / 1e6))),
            median(of().map(|start| start.server_percent)),
        );
    }
}

fn recoveries(results: &Results, out: &mut String) {
    if results.recoveries.is_empty() {
        return;
    }
    out.push_str(
        "\n## Killed with live runs\n\nSo many runs sleep; the server is ended with `kill -9` and started again. The time \
         is from the second start until a run that does nothing was answered.\n\n| | live runs | begun in, s | server, MB | \
         answered after, s |\n|---|---|---|---|---|\n",
    );
    for one in &results.recoveries {
        let _ = writeln!(
            out,
            "| {} | {} | {:.1} | {} | {:.2} |",
            one.contender.name(),
            one.live_runs,
            one.begun_in_seconds,
            short(one.server_bytes as f64 / 1e6),
            one.answered_after_seconds
        );
    }
}

/// Three digits that matter.
pub(crate) fn short(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => grouped(figure.round() as i64),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) && digits.as_bytes()[nth - 1] != b'-' {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
