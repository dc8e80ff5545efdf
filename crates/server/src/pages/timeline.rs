//! What happened in a turn, in order: the rows of the live turn's timeline, worked out from the API's JSON.
//!
//! A pure function of the turn and the clock. It does not know how a row is drawn.

use mainspring_flows::turn::{AGENT_STEP, DECIDE_STEP, REQUEST_STEP, SESSION_STEP, SETTINGS_STEP, WINDOW_STEP};
use serde::Serialize;
use serde_json::Value;

use super::filters::{SCALE, along, tail_of};

/// One thing that happened, or is happening.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// Tells the row apart when the page is brought up to date.
    key: String,
    /// `message`, `window`, `agent`, `step`, `decision`, `reply`, `from` or `end`.
    kind: &'static str,
    /// `done`, `pending`, `failed`, or how the turn ended.
    state: String,
    /// A word for the kind of step.
    label: String,
    title: String,
    /// What a person, an agent or a worker wrote.
    text: Option<String>,
    /// The id of the turn this row leads to.
    turn: Option<String>,
    /// When, counted from the turn's start.
    offset_ms: Option<u64>,
    took_ms: Option<u64>,
    /// Set while it lasts: when it began.
    since: Option<u64>,
    /// Set while it lasts and is known to end: when.
    until: Option<u64>,
    /// The bar, on a scale of a thousand over the whole turn.
    bar_x: u64,
    bar_width: u64,
    /// The row's place in the order: a time, then a rank among rows of the same time.
    #[serde(skip)]
    order: (u64, u8),
}

/// The clock of one turn: from its start to its end, or to now.
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// A row that lasted from `from` to `to`, or lasts still.
    fn row(&self, kind: &'static str, rank: u8, from: u64, to: Option<u64>) -> Row {
        let until = to.unwrap_or(self.end);
        let bar_x = along(from, self.start, self.end);
        // A moment is drawn too: at least half a percent wide, and inside the bar.
        let bar_width = along(until, self.start, self.end).saturating_sub(bar_x).max(SCALE / 200);
        Row {
            kind,
            state: if to.is_some() { "done".into() } else { "pending".into() },
            offset_ms: Some(from.saturating_sub(self.start)),
            bar_x: bar_x.min(SCALE - bar_width.min(SCALE)),
            bar_width,
            order: (from, rank),
            ..Row::default()
        }
    }
}

/// The timeline of a turn, oldest first.
pub(super) fn of_turn(turn: &Value, now_ms: u64) -> Vec<Row> {
    let start = turn["started_at"].as_u64().unwrap_or_default();
    let finished_at = turn["finished_at"].as_u64();
    let span = Span { start, end: finished_at.unwrap_or(now_ms).max(start) };

    let mut rows = Vec::new();
    rows.extend(predecessor(turn, &span));
    let took_over = turn["superseded_from"].is_string();
    rows.extend(list(&turn["messages"]).map(|message| message_row(message, &span, took_over)));
    rows.extend(window(turn, &span));
    rows.extend(agent_at_work(turn, &span));
    rows.extend(steps(turn).map(|step| step_row(step, &span, finished_at)));
    rows.extend(list(&turn["decisions"]).enumerate().map(|(nth, decision)| decision_row(nth, decision, &span)));
    rows.extend(reply(turn, &span, finished_at));
    rows.extend(end(turn, &span, finished_at));
    // An agent that is a run of its own begins with its steps before it is waited for: by the clock it would come second.
    if let Some(at) = turn["processing_at"].as_u64() {
        rows.iter_mut().filter(|row| row.kind == "agent").for_each(|row| row.order.0 = row.order.0.min(at));
    }
    rows.sort_by_key(|row| row.order);
    rows
}

fn predecessor(turn: &Value, span: &Span) -> Option<Row> {
    let from = turn["superseded_from"].as_str()?;
    Some(Row {
        key: "from".into(),
        label: "takes over".into(),
        title: format!("Takes over from turn {}", tail_of(from)),
        turn: Some(from.to_owned()),
        // First, before the messages it brings along.
        order: (0, 0),
        ..span.row("from", 0, span.start, Some(span.start))
    })
}

fn message_row(message: &Value, span: &Span, took_over: bool) -> Row {
    let at = message["accepted_at"].as_u64().unwrap_or(span.start);
    let row = span.row("message", 1, at, Some(at));
    // Accepted before this turn began, it has no place on this turn's clock: another turn had it, or was at work and took
    // no more.
    let before = at < span.start;
    Row {
        key: format!("message-{}", text(&message["id"])),
        label: "message".into(),
        title: match (before, took_over) {
            (false, _) => "Message accepted".into(),
            (true, true) => "Message brought along".into(),
            (true, false) => "Message accepted, and queued for this turn".into(),
        },
        text: Some(text(&message["text"])),
        offset_ms: row.offset_ms.filter(|_| !before),
        ..row
    }
}

fn window(turn: &Value, span: &Span) -> Option<Row> {
    let accumulation = &turn["accumulation"];
    let waited_ms = accumulation["waited_ms"].as_u64();
    let (to, title) = if let Some(ended_by) = accumulation["ended_by"].as_str() {
        let closed_at =
            turn["processing_at"].as_u64().unwrap_or(span.start.saturating_add(waited_ms.unwrap_or_default()));
        let title = match ended_by {
            "timeout" => "Window closed: it went quiet",
            "explicit_signal" => "Window closed: the person was done",
            "channel_hint" => "Window closed: the channel had bundled the messages",
            "agent_hint" => "Window closed: the agent expected one message",
            "max_wait" => "Window closed: the longest wait was reached",
            "max_messages" => "Window closed: enough messages had arrived",
            "no_accumulation" => "No window: answered at once",
            _ => "Window closed",
        };
        (Some(closed_at), title)
    } else if turn["state"] == "accumulating" {
        (None, "Listening for more messages")
    } else {
        return None;
    };
    let row = span.row("window", 2, span.start, to);
    // The window opens with the first message, but what it tells is known when it closes: that is its time in the list.
    let order = (to.unwrap_or(span.end), 2);
    let offset_ms = to.map(|closed_at| closed_at.saturating_sub(span.start));
    let since = to.is_none().then_some(span.start);
    let until = turn["window"]["until"].as_u64().filter(|_| to.is_none());
    let why = if to.is_some() { &accumulation["explanation"] } else { &turn["window"]["explanation"] };
    let why = why.as_str().filter(|why| !why.is_empty()).map(str::to_owned);
    let label = accumulation["ended_by"].as_str().unwrap_or("window").replace('_', " ");
    Some(Row {
        key: "window".into(),
        label,
        title: title.into(),
        text: why,
        offset_ms,
        took_ms: waited_ms,
        since,
        until,
        order,
        ..row
    })
}

/// Steps of the turn itself of which other rows tell.
const OWN_STEPS: [&str; 5] = [SETTINGS_STEP, WINDOW_STEP, REQUEST_STEP, DECIDE_STEP, SESSION_STEP];

/// The steps worth telling a person. Left out is what other rows say already: that messages were received, how the window
/// ended, what was emitted, and how the agent came to be asked. The run's page has the journal whole.
fn steps(turn: &Value) -> impl Iterator<Item = &Value> {
    let asking = turn["agent_run"].as_str().map(|run| format!("run {run}"));
    list(&turn["steps"]).filter(move |step| match step["kind"].as_str() {
        Some("receive" | "peek" | "close" | "emit" | "begin" | "commit") => step["state"] == "failed",
        Some("run") => !OWN_STEPS.iter().any(|own| step["name"] == *own),
        Some("spawn") => asking.is_none() || step["detail"].as_str() != asking.as_deref(),
        _ => true,
    })
}

fn is_agent(step: &Value) -> bool {
    step["kind"] == "run" && step["name"] == AGENT_STEP
}

/// A step is recorded when it is done, so that the agent works follows from the turn's state.
fn agent_at_work(turn: &Value, span: &Span) -> Option<Row> {
    if turn["state"] != "processing" || list(&turn["steps"]).any(is_agent) {
        return None;
    }
    let from = turn["processing_at"].as_u64()?;
    let row = span.row("agent", 3, from, None);
    Some(Row {
        key: "agent".into(),
        state: "pending".into(),
        label: "agent".into(),
        title: "Agent at work".into(),
        since: Some(from),
        ..row
    })
}

fn step_row(step: &Value, span: &Span, finished_at: Option<u64>) -> Row {
    let from = step["requested_at"].as_u64().unwrap_or(span.start);
    let completed_at = step["completed_at"].as_u64();
    // What never completed ended with the turn, at the latest.
    let row = span.row("step", 3, from, completed_at.or(finished_at));
    let (kind, name) = (text(&step["kind"]), text(&step["name"]));
    let state = step["state"].as_str().map_or_else(|| row.state.clone(), str::to_owned);
    let is_agent = is_agent(step);
    Row {
        // Not by its position: the turn's own journal grows before the agent's, which follows it.
        key: if is_agent { "agent".into() } else { format!("step-{from}-{kind}-{name}") },
        kind: if is_agent { "agent" } else { row.kind },
        label: kind.replace('_', " "),
        title: match () {
            () if is_agent => "Agent called".into(),
            () if name.is_empty() => kind.replace('_', " "),
            () => name,
        },
        // What the agent answered is the reply's row; what it failed with is told here.
        text: step["detail"].as_str().filter(|_| !is_agent || state == "failed").map(str::to_owned),
        state,
        took_ms: completed_at.map(|at| at.saturating_sub(from)),
        since: (completed_at.is_none() && finished_at.is_none()).then_some(from),
        ..row
    }
}

/// What became of messages that came while the agent worked.
fn decision_row(nth: usize, decision: &Value, span: &Span) -> Row {
    let at = decision["at"].as_u64().unwrap_or(span.end);
    let title = match decision["action"].as_str() {
        Some("supersede") => "A message came: begun anew in another turn",
        Some("absorb") => "A message came: absorbed, begun anew in this turn",
        Some("queue") => "A message came: queued for the next turn",
        Some("force_complete") => "A message came: this attempt is completed first",
        _ => "A message came",
    };
    let from = decision["restart_from"].as_str().map(|phase| format!(", from phase {phase}")).unwrap_or_default();
    Row {
        key: format!("decision-{nth}"),
        label: "decision".into(),
        title: title.into(),
        text: Some(format!("{}{from}", text(&decision["reason"]))).filter(|text| !text.is_empty()),
        ..span.row("decision", 4, at, Some(at))
    }
}

fn reply(turn: &Value, span: &Span, finished_at: Option<u64>) -> Option<Row> {
    let reply = turn["reply"].as_object()?;
    // The API gives a reply no time of its own: it was sent by the end of the last step.
    let sent_at = list(&turn["steps"]).filter_map(|step| step["completed_at"].as_u64()).max().or(finished_at);
    let at = sent_at.unwrap_or(span.end);
    Some(Row {
        key: "reply".into(),
        label: "reply".into(),
        title: "Reply sent".into(),
        text: reply.get("text").map(text),
        ..span.row("reply", 4, at, Some(at))
    })
}

fn end(turn: &Value, span: &Span, finished_at: Option<u64>) -> Option<Row> {
    let state = turn["state"].as_str()?;
    let by = turn["superseded_by"].as_str();
    let title = match (state, by) {
        ("completed", _) => "Turn completed".to_owned(),
        ("failed", _) => "Turn failed".to_owned(),
        ("cancelled", _) => "Turn cancelled".to_owned(),
        ("superseded", Some(by)) => format!("Superseded by turn {}", tail_of(by)),
        ("superseded", None) => "Superseded".to_owned(),
        _ => return None,
    };
    let at = finished_at.unwrap_or(span.end);
    let row = span.row("end", 5, at, Some(at));
    Some(Row {
        key: "end".into(),
        state: state.to_owned(),
        label: state.to_owned(),
        title,
        text: turn["error"].as_str().map(str::to_owned),
        turn: by.map(str::to_owned),
        // Last, whatever the clocks say.
        order: (u64::MAX, 5),
        ..row
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string as it is, anything else as JSON, null as nothing.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn orders_a_finished_turn_as_it_happened() {
        let rows = of_turn(
            &json!({"state": "completed", "started_at": 1_000, "processing_at": 1_800, "finished_at": 3_000,
                "messages": [{"id": "m2", "text": "two", "accepted_at": 1_300}, {"id": "m1", "text": "one", "accepted_at": 1_000}],
                "accumulation": {"ended_by": "timeout", "waited_ms": 800, "explanation": "waits 500 ms: web 500"},
                "reply": {"id": "r", "text": "hello"},
                "steps": [{"position": 1, "kind": "run", "name": "look_up", "state": "done", "requested_at": 2_000, "completed_at": 2_500, "detail": null}]}),
            9_000,
        );
        let told: Vec<_> = rows.iter().map(|row| (row.kind, row.offset_ms, row.took_ms)).collect();
        assert_eq!(
            told,
            [
                ("message", Some(0), None),
                ("message", Some(300), None),
                ("window", Some(800), Some(800)),
                ("step", Some(1_000), Some(500)),
                ("reply", Some(1_500), None),
                ("end", Some(2_000), None),
            ]
        );
        assert_eq!((rows[3].bar_x, rows[3].bar_width), (500, 250));
    }

    #[test]
    fn leaves_out_what_other_rows_say() {
        let step = |position: u64, kind: &str, name: &str| {
            json!({"position": position, "kind": kind, "name": name, "state": "done", "requested_at": position,
                "completed_at": position, "detail": "said"})
        };
        let rows = of_turn(
            &json!({"agent_run": "r1", "steps": [step(0, "receive", ""), step(1, "run", "window"), step(2, "emit", "turn.processing"),
                json!({"position": 3, "kind": "spawn", "name": "orders-agent", "detail": "run r1"}), step(4, "run", "agent"), step(5, "close", ""),
                step(3, "run", "request"), step(3, "begin", "agent"), step(5, "commit", ""),
                step(6, "spawn", "deliver"), step(7, "run", "look up orders")]}),
            9,
        );
        let told: Vec<_> = rows.iter().map(|row| (row.kind, row.title.as_str(), row.text.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("agent", "Agent called", None),
                ("step", "deliver", Some("said")),
                ("step", "look up orders", Some("said")),
            ]
        );
        let late = json!({"processing_at": 2, "steps": [step(3, "run", "look up orders"), step(4, "run", "agent")]});
        assert_eq!(of_turn(&late, 9)[0].title, "Agent called", "it comes before its own steps");
        let rows = of_turn(&json!({"state": "processing", "started_at": 10, "processing_at": 20}), 50);
        assert_eq!((rows[0].title.as_str(), rows[0].since), ("Agent at work", Some(20)));
    }

    #[test]
    fn says_what_still_goes_on() {
        let rows = of_turn(&json!({"state": "accumulating", "started_at": 1_000, "messages": []}), 1_500);
        assert_eq!((rows.len(), rows[0].kind, rows[0].since), (1, "window", Some(1_000)));
        let rows = of_turn(
            &json!({"started_at": 500, "superseded_from": "t0",
                "messages": [{"id": "m1", "text": "one", "accepted_at": 100}]}),
            900,
        );
        assert_eq!((rows[0].kind, rows[1].title.as_str(), rows[1].offset_ms), ("from", "Message brought along", None));
        let open =
            json!({"state": "accumulating", "started_at": 1_000, "window": {"until": 2_100, "explanation": "why"}});
        let rows = of_turn(&open, 1_500);
        assert_eq!((rows[0].until, rows[0].text.as_deref()), (Some(2_100), Some("why")));
        let queued = json!({"started_at": 500, "messages": [{"id": "m1", "text": "one", "accepted_at": 100}]});
        assert_eq!(of_turn(&queued, 900)[0].title, "Message accepted, and queued for this turn");
        let decided =
            json!({"started_at": 1, "decisions": [{"action": "absorb", "reason": "policy: absorb", "at": 5}]});
        let rows = of_turn(&decided, 9);
        assert_eq!(
            (rows[0].kind, rows[0].offset_ms, rows[0].text.as_deref()),
            ("decision", Some(4), Some("policy: absorb"))
        );
        let rows = of_turn(&json!({"state": "superseded", "started_at": 1, "superseded_by": "t2"}), 0);
        assert_eq!((rows[0].kind, rows[0].turn.as_deref()), ("end", Some("t2")));
        assert!(
            of_turn(&json!(null), 0).is_empty() && of_turn(&json!({"steps": [1, null], "messages": 3}), 0).len() == 2
        );
    }
}
