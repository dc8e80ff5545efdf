//! A plot per workload: answers per second against callers, one line per contender, both axes logarithmic. SVG by hand: a
//! few lines and words are all there is on it.

use std::fmt::Write;

use crate::page::short;
use crate::plan::Workload;
use crate::results::Results;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 46.0;
/// Told apart also by those who see fewer colours (Okabe and Ito).
const COLOURS: [&str; 8] = ["#0072b2", "#56b4e9", "#009e73", "#000000", "#d55e00", "#e69f00", "#cc79a7", "#999999"];

/// `None` where a line would have one point.
pub(crate) fn svg(results: &Results, workload: Workload) -> Option<String> {
    let callers = results.callers(workload);
    if callers.len() < 2 {
        return None;
    }
    let mut lines = Vec::new();
    for contender in results.contenders(workload) {
        let points = callers.iter().filter_map(|&callers| {
            let rounds = results.rounds(contender, workload, callers)?;
            let rate = rounds.median(|one| one.per_second);
            (rate > 0.0).then(|| (callers as f64, rate, rounds.spread(|one| one.per_second)))
        });
        lines.push((contender, points.collect::<Vec<_>>()));
    }
    let rates = || lines.iter().flat_map(|(_, points)| points.iter().map(|(_, rate, _)| *rate));
    let low = 10_f64.powf(rates().fold(f64::INFINITY, f64::min).max(0.1).log10().floor());
    let high = 10_f64.powf(rates().fold(1.0, f64::max).log10().ceil()).max(low * 10.0);
    let (first, last) = (callers[0] as f64, callers[callers.len() - 1] as f64);
    let x = |callers: f64| LEFT + (callers / first).ln() / (last / first).ln() * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| HEIGHT - BOTTOM - (rate.max(low) / low).ln() / (high / low).ln() * (HEIGHT - TOP - BOTTOM);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"22\" \
         font-size=\"15\">{}: per second</text>\n",
        workload.meaning()
    );
    let mut rate = low;
    while rate <= high * 1.001 {
        let at = y(rate);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            short(rate)
        );
        rate *= 10.0;
    }
    for &callers in &callers {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{callers}</text>",
            x(callers as f64),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    let _ = writeln!(out, "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">callers</text>", HEIGHT - 8.0);
    for (nth, (contender, points)) in lines.iter().enumerate() {
        let colour = COLOURS[nth % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|(callers, rate, _)| format!("{:.1},{:.1}", x(*callers), y(*rate))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (callers, rate, (low, high)) in points {
            let at = x(*callers);
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\
                 <circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                y(*low),
                y(*high),
                y(*rate)
            );
        }
        let line = TOP + 10.0 + 20.0 * nth as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"14\" height=\"4\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            WIDTH - RIGHT + 14.0,
            line - 4.0,
            WIDTH - RIGHT + 34.0,
            line + 2.0,
            contender.name()
        );
    }
    out.push_str("</svg>\n");
    Some(out)
}
