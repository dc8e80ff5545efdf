//! Expressions: what they give, which are refused, what an evaluation may cost, and what becomes of tasks by them.

use mainspring_hatchet::definition::{
    Condition, ConditionAction, ConditionOn, Definition, Idempotency, IdempotencyMethod, RateLimit, RateLimitKey, Task,
    Units, Window,
};
use mainspring_hatchet::expression::{
    BRACKETS_MAX, BadExpression, DEPTH_MAX, Ended, Environment, EvaluationError, Expression, Parent, RateUse,
    SIGNS_MAX, Verdict, decide, filter_passes, idempotency_key, rate_uses, unsupported, unsupported_in,
};
use mainspring_hatchet::wire::v1;
use serde_json::{Value, json};

fn parse(text: &str) -> Expression {
    Expression::parse(text).unwrap_or_else(|bad| panic!("{text}: {bad}"))
}

/// Evaluates to a bool, with `output` as the one thing to look at.
fn is_true(text: &str, output: &Value) -> Result<bool, EvaluationError> {
    parse(text).is_true(&Environment::Parent { output })
}

#[track_caller]
fn all_true(output: &Value, cases: &[&str]) {
    for case in cases {
        assert_eq!(is_true(case, output), Ok(true), "{case}");
    }
}

#[test]
fn the_usual_works() {
    let output = json!({
        "random_number": 51, "name": "Ada Lovelace", "tags": ["a", "b"], "nested": {"deep": {"x": true}}, "none": null,
        "ok": true, "items": [{"n": 1}, {"n": 2}], "empty": "", "weird key": 1, "price": 9.5,
    });
    all_true(
        &output,
        &[
            "true",
            "output.random_number > 50",
            "!(output.random_number <= 50)",
            "has(output.name) && !has(output.nothing)",
            "has(output.nested.deep) && output.nested.deep.x",
            "!(has(output.skipped) && output.skipped)",
            "size(output.tags) == 2 && output.tags.size() == 2 && size(output.name) == 12",
            "output.name.contains('Love') && output.name.startsWith('Ada') && output.name.endsWith('ce')",
            "output.name.matches('^[A-Z][a-z]+ L') && matches(output.name, 'Ada')",
            "!output.name.matches('^x')",
            "'a' in output.tags && 'name' in output && !('c' in output.tags)",
            "output.ok ? output.tags[1] == 'b' : false",
            "int('7') == 7 && string(7) == '7' && double('1.5') == 1.5 && int(output.price) == 9",
            "output.none == null && output['weird key'] == 1",
            "output.items.exists(i, i.n == 2) && output.items.all(i, i.n > 0) && output.items.exists_one(i, i.n == 1)",
            "output.items.map(i, i.n) == [1, 2] && output.items.filter(i, i.n > 1).size() == 1",
            "output.nested.map(key, key) == ['deep']",
            "output.missing == 1 || output.ok",
            "type(output.random_number) == int && type(output.price) == double",
        ],
    );
}

#[test]
fn numbers_compare_however_they_are_written() {
    for n in ["51", "51.0", "5.1e1"] {
        let output: Value =
            serde_json::from_str(&format!(r#"{{"n": {n}, "list": [10, 20], "i": 1.0}}"#)).expect("JSON");
        all_true(
            &output,
            &[
                "output.n > 50",
                "output.n > 50.5",
                "output.n == 51",
                "output.n == 51.0",
                "51 == output.n",
                "output.n != 52",
                "output.n in [50, 51]",
                "output.n + 1 == 52",
                "output.n % 2 == 1",
                "output.n * 1.5 == 76.5",
                "1.5 * output.n > 76",
                "output.n / 2.0 == 25.5",
                "output.n > 50u",
                "string(output.n) == '51'",
                "output.list[output.i] == 20",
            ],
        );
    }
    let output = json!({"half": 0.5, "whole": 2, "huge": u64::MAX, "large": i64::MAX});
    let cases =
        ["output.half + output.whole == 2.5", "output.huge > output.large", "output.large == 9223372036854775807"];
    all_true(&output, &cases);
}

#[test]
fn functions_on_strings() {
    let cases = [
        "'a'.checksum() == 'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb'",
        "'ÄBc'.lowerAscii() == 'Äbc' && 'äbc'.upperAscii() == 'äBC'",
        "'  x '.trim() == 'x' && 'äb'.reverse() == 'bä'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "'äbc'.split('') == ['ä', 'b', 'c'] && 'abc'.split('', 2) == ['a', 'bc'] && ''.split('') == []",
        "'a,b'.split(',', 0) == [] && 'a,b'.split(',', -1) == ['a', 'b'] && ''.split(',') == ['']",
        "['a', 'b'].join() == 'ab' && ['a', 'b'].join('-') == 'a-b' && [].join('-') == ''",
        "'aaa'.replace('a', 'b') == 'bbb' && 'aaa'.replace('a', 'b', 2) == 'bba' && 'ab'.replace('', '-') == '-a-b-'",
        "'äbc'.substring(1) == 'bc' && 'äbc'.substring(0, 2) == 'äb' && 'äbc'.substring(3) == ''",
        "'äbc'.charAt(1) == 'b' && 'äbc'.charAt(3) == ''",
        "'äbcb'.indexOf('b') == 1 && 'äbcb'.lastIndexOf('b') == 3 && 'a'.indexOf('x') == -1",
    ];
    all_true(&Value::Null, &cases);
    for case in ["'abc'.substring(4)", "'abc'.substring(2, 1)", "'abc'.charAt(-1)", "'%s'.format(['x'])"] {
        let error = is_true(&format!("{case} == ''"), &Value::Null).expect_err(case);
        assert!(matches!(error, EvaluationError::Failed { .. }), "{error}");
    }
}

#[test]
fn each_environment_has_its_names() {
    let (input, metadata) = (json!({"user": "u1"}), json!({"team": "t1"}));
    let (parents, payload) = (json!({"check": {"ok": true}}), json!({"min": 3}));
    let run = Environment::Run { input: &input, additional_metadata: &metadata, workflow_run_id: "r1" };
    assert_eq!(parse("input.user + additional_metadata.team + workflow_run_id").text(&run).as_deref(), Ok("u1t1r1"));
    let task =
        Environment::Task { input: &input, additional_metadata: &metadata, parents: &parents, workflow_run_id: "r1" };
    assert_eq!(parse("parents.check.ok && workflow_run_id == 'r1'").is_true(&task), Ok(true));
    let event = Environment::Event {
        input: &json!({"n": 3}),
        additional_metadata: &Value::Null,
        payload: &payload,
        event_id: "e1",
        event_key: "paid",
    };
    let text = "input.n >= payload.min && event_id == 'e1' && event_key == 'paid' && !has(additional_metadata.x)";
    assert_eq!(filter_passes(text, &event), Ok(true));
    for (text, environment) in [("parents", run), ("output", task), ("workflow_run_id", event), ("inputs", event)] {
        let error = parse(&format!("{text} == 1")).is_true(&environment).expect_err(text).to_string();
        assert!(error.contains(&format!("Undeclared reference to '{text}'")), "{error}");
    }
}

#[test]
fn errors_are_sentences() {
    let output = json!({"n": 3, "s": "x".repeat(10_000), "frac": 2.7, "neg": -1});
    let environment = Environment::Parent { output: &output };
    let cases = [
        ("output.missing > 1", "the expression `output.missing > 1` can't be evaluated: No such key: missing"),
        ("output.n", "the expression `output.n` gives the int 3, and must give true or false"),
        ("output", "gives a map, and must give true or false"),
        ("output.n.matches('x')", "found no matching overload for 'matches' applied to 'int.(string)'"),
        ("output.s.matches('(')", "the pattern can't be used: unclosed group"),
        ("output.n / 0 == 1", "Division by zero"),
    ];
    for (text, words) in cases {
        let error = parse(text).is_true(&environment).expect_err(text).to_string();
        assert!(error.contains(words), "{error}");
    }
    // What went wrong is told without all of what it went wrong with.
    let error = parse("output.s + 1 == ''").is_true(&environment).expect_err("a string and a number").to_string();
    assert!(error.len() < 1_000, "{error}");

    assert_eq!(parse("output.n").number(&environment), Ok(3));
    assert_eq!(parse("output.n * 1.5").number(&environment), Ok(4));
    assert_eq!(parse("output.frac").number(&environment), Ok(2));
    assert_eq!(parse("4294967295u").number(&environment), Ok(u32::MAX));
    for text in ["output.neg", "4294967296", "'3'", "true"] {
        let error = parse(text).number(&environment).expect_err(text).to_string();
        assert!(error.ends_with("and must give a number from 0 to 4294967295"), "{error}");
    }
    let error = parse("output.n").text(&environment).expect_err("a number").to_string();
    assert_eq!(error, "the expression `output.n` gives the int 3, and must give a string");
}

#[test]
fn what_is_not_cel_is_refused_where_it_is_wrong() {
    let cases = [
        ("input.x ==", 1, 11),
        ("input.x = 3", 1, 9),
        ("a &&\n  (b || )", 2, 9),
        ("has(3)", 1, 5),
        ("'open", 1, 1),
        ("a b", 1, 3),
        ("a.?b", 1, 2),
    ];
    for (text, at_line, at_column) in cases {
        let bad = Expression::parse(text).expect_err(text);
        let BadExpression::Syntax { line, column, cause } = &bad else { panic!("{text}: {bad}") };
        assert_eq!((*line, *column), (at_line, at_column), "{text}: {bad}");
        assert!(!cause.is_empty() && !cause.contains('{') && !cause.contains('\n'), "{text}: {bad}");
    }
    for text in ["", " ", "// a remark"] {
        assert!(Expression::parse(text).is_err(), "{text}");
    }
}

/// In a thread with a stack as small as that of the runtime's threads.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(test).expect("a thread");
    thread.join().expect("it must not panic");
}

#[test]
fn hostile_texts_are_refused_quickly() {
    on_a_small_stack(|| {
        let openers = ["(", "[", "{", "!", "-", "f(", "a.b(", "a?", "a?b:", "a.map(x,", "a[", "{1:", "[[", "-(", "!("];
        let repeated =
            ["+a", ".a", "[0]", "==a", " in a", "&&a", "||a", "a ", "@", "\"", "'", "\\", "ü", "1,", ".a()", "?a:a"];
        for pattern in openers.iter().chain(&repeated) {
            for length in [100, 900, 4_000, 16_384] {
                let times = length / pattern.len();
                for text in [
                    pattern.repeat(times),
                    format!("a{}", pattern.repeat(times)),
                    format!("{}a", pattern.repeat(times)),
                    format!("{}a{}", pattern.repeat(times / 2), ")".repeat(times / 2)),
                    format!("[{}]", pattern.repeat(times.saturating_sub(2))),
                ] {
                    if let Ok(expression) = Expression::parse(&text) {
                        let _ = expression.is_true(&Environment::Parent { output: &Value::Null });
                    }
                }
            }
        }
        let too_long = Expression::parse(&"a".repeat(16_385)).expect_err("too long");
        assert_eq!(too_long.to_string(), "it has 16385 bytes, at most 16384 are allowed: make it shorter");
        for text in ["(".repeat(900), format!("{}a", "a ? b : ".repeat(100)), format!("a{}", ".a".repeat(900))] {
            assert_eq!(Expression::parse(&text), Err(BadExpression::TooDeep), "{text}");
        }
        let found = SIGNS_MAX + 1;
        for sign in [".a", "+a", "== a", " in a", "&&a"] {
            let text = format!("a{}", sign.repeat(found));
            assert_eq!(Expression::parse(&text), Err(BadExpression::TooManySigns { found }), "{sign}");
        }
    });
}

#[test]
fn what_is_as_deep_as_allowed_can_be_evaluated() {
    on_a_small_stack(|| {
        let brackets = usize::from(BRACKETS_MAX) - 1;
        // An operation inside of each bracket, and a chain inside of the last.
        let chain = DEPTH_MAX - 2 * brackets - 3;
        for (open, close) in [("(1 + ", ")"), ("[1, ", "][1]"), ("{1: ", "}[1]"), ("int(", ")"), ("(true ? 1 : ", ")")]
        {
            let inner = format!("1{}", " + 1".repeat(chain.saturating_sub(brackets)));
            let depth = if open.contains('?') { brackets / 2 } else { brackets };
            let text = format!("{}{inner}{} > 0", open.repeat(depth), close.repeat(depth));
            assert_eq!(is_true(&text, &Value::Null), Ok(true), "{text}");
        }
        let mut text = "x0 > 0".to_owned();
        for level in 0..30 {
            text = format!("[1].exists(x{level}, {text})");
        }
        assert_eq!(is_true(&text, &Value::Null), Ok(true), "{text}");
        let deep = (0..120).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(is_true("output == output && size(output) == 1", &deep), Ok(true));
        assert_eq!(is_true(&format!("output{} == 1", "[0]".repeat(120)), &deep), Ok(true));
    });
}

#[test]
fn an_evaluation_ends() {
    let output = json!({"list": (0..1_000).collect::<Vec<_>>(), "text": "x".repeat(50_000), "word": "aaaaaaaaab"});
    let nested = "output.list.all(a, output.list.all(b, output.list.all(c, output.list.all(d, a + b + c + d >= 0))))";
    let absorbed = "output.list.all(a, output.list.all(b, output.list.all(c, a + b + c >= 0))) || true";
    let copies = format!("output.list.map(x, [{}]) != []", vec!["output.list"; 100].join(","));
    let adds = format!("output.list.map(x, output.text{}) != []", " + output.text".repeat(50));
    let patterns: Vec<String> = (0..250).map(|n| format!("'a'.matches('{n}')")).collect();
    let patterns = patterns.join("||");
    for text in [nested, absorbed, &copies, &adds, &patterns] {
        let error = is_true(text, &output).expect_err(text);
        assert!(matches!(error, EvaluationError::TooMuchWork { .. }), "{error}");
    }
    let bombs = [
        "output.text.replace('x', output.text).size() > 0",
        "output.list.map(x, 'x').join(output.text).size() > 0",
        "(output.text + output.text + output.text).split('').size() > 0",
        "(output.text + output.text).matches('x')",
        "output.word.matches('(a{1000}){1000}')",
    ];
    for text in bombs {
        let error = is_true(text, &output).expect_err(text);
        assert!(matches!(error, EvaluationError::Failed { .. }), "{error}");
    }
    // What people write is far from that.
    let items: Vec<Value> = (0..10_000).map(|n| json!({"id": format!("id-{n}"), "n": n, "tags": ["a", "b"]})).collect();
    let output = json!({"items": items, "ids": (0..1_000).map(|n| format!("id-{n}")).collect::<Vec<_>>()});
    all_true(
        &output,
        &[
            "output.items.all(i, i.id.matches('^id-[0-9]+$') && i.n >= 0 && 'a' in i.tags)",
            "output.items.filter(i, i.n % 2 == 0).map(i, i.id).size() == 5000",
            "output.ids.all(i, i in output.ids)",
        ],
    );
}

/// A random expression that follows the grammar, `depth` deep at most. The seed is all it depends on.
fn random(seed: &mut u64, depth: u32) -> String {
    let next = |seed: &mut u64, max: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % max
    };
    let pick = |index: u64, of: &str| of.split(' ').nth(index as usize).expect("one of them").to_owned();
    let leaves = "1 0 -1 2u 9223372036854775807 -9223372036854775808 18446744073709551615u 1.5 1e308 'a' 'äö' '' '(a' \
                  b'x' true null output output.x output.l output.m output.min output.max output.nope x [] {} int";
    if depth == 0 {
        return pick(next(seed, 26), leaves);
    }
    let kind = next(seed, 9);
    let chosen = next(seed, 13);
    let [a, b, c] = [(); 3].map(|()| random(seed, depth - 1));
    match kind {
        0 => format!("({a} {} {b})", pick(chosen, "+ - * / % == != < >= && || in <=")),
        1 => format!("{}({a})", pick(chosen, "- ! int uint double string bytes bool type dyn size max duration")),
        2 => format!("({a} ? {b} : {c})"),
        3 => format!("[{a}, {b}]"),
        4 => format!("{{{a}: {b}, 'z': {c}}}"),
        5 => format!("{a}[{b}]"),
        6 => format!(
            "{a}.{}({b})",
            pick(
                chosen,
                "split join contains startsWith endsWith matches indexOf lastIndexOf charAt substring size trim max"
            )
        ),
        7 => format!("{a}.{}({b}, {c})", pick(chosen % 3, "split replace substring")),
        _ => format!("{a}.{}(x, {b})", pick(chosen % 5, "map filter all exists exists_one")),
    }
}

#[test]
fn whatever_is_written_gives_a_value_or_a_sentence() {
    let output =
        json!({"x": 3, "l": [1, "a", null, 2.5], "m": {"k": 1, "1": [true]}, "min": i64::MIN, "max": u64::MAX});
    let mut seed = 1;
    let (mut read, mut evaluated) = (0, 0);
    for round in 0..5_000 {
        let text = random(&mut seed, 1 + round % 4);
        let Ok(expression) = Expression::parse(&text) else { continue };
        read += 1;
        match expression.is_true(&Environment::Parent { output: &output }) {
            Err(error) if error.to_string().is_empty() => panic!("{text}"),
            Err(EvaluationError::Failed { .. }) => {}
            Ok(_) | Err(_) => evaluated += 1,
        }
    }
    assert!(read > 4_500 && evaluated > 200, "{read} were read, {evaluated} evaluated: this tests too little");
}

fn task(parents: &[u16], conditions: Vec<Condition>) -> Task {
    let task = v1::CreateTaskOpts { readable_id: "t".into(), action: "w:t".into(), ..Default::default() };
    let request = v1::CreateWorkflowVersionRequest { name: "w".into(), tasks: vec![task], ..Default::default() };
    let definition = Definition::from_request(&request).expect("a definition");
    Task { parents: parents.to_vec(), conditions, ..definition.tasks[0].clone() }
}

fn on(parent: u16, action: ConditionAction, group: u32, cel: &str) -> Condition {
    let expression = (!cel.is_empty()).then(|| cel.to_owned());
    Condition { on: ConditionOn::Parent(parent), action, group, data_key: format!("{parent}: {cel}"), expression }
}

#[track_caller]
fn decided(task: &Task, ended: &[Ended<'_>]) -> Verdict {
    let names = ["a", "b", "c"];
    let parents = task.parents.iter().zip(ended).map(|(task, ended)| Parent {
        task: *task,
        name: names[usize::from(*task)],
        ended: *ended,
    });
    assert_eq!(task.parents.len(), ended.len());
    decide(task, &parents.collect::<Vec<_>>())
}

fn run() -> Verdict {
    Verdict::Run { triggers: json!({}) }
}

#[test]
fn without_conditions() {
    let (done, marked) = (json!({"x": 1}), json!({"skipped": true}));
    let (done, marked) = (Ended::Completed(&done), Ended::Completed(&marked));
    let two = task(&[0, 1], vec![]);
    assert_eq!(decided(&task(&[], vec![]), &[]), run());
    assert_eq!(decided(&two, &[done, done]), run());
    assert_eq!(decided(&two, &[done, Ended::Skipped]), run());
    assert_eq!(decided(&two, &[Ended::Skipped, Ended::Skipped]), Verdict::Skip);
    assert_eq!(decided(&two, &[marked, Ended::Skipped]), Verdict::Skip);
    let reason = "the task \"b\", which it depends on, failed".to_owned();
    assert_eq!(decided(&two, &[done, Ended::Failed]), Verdict::Cancel { reason });
    let reason = "the task \"a\", which it depends on, was cancelled".to_owned();
    assert_eq!(decided(&two, &[Ended::Cancelled, Ended::Skipped]), Verdict::Cancel { reason });
}

#[test]
fn skipping() {
    let (low, high) = (json!({"n": 10}), json!({"n": 60}));
    let (low, high) = (Ended::Completed(&low), Ended::Completed(&high));
    let skip = |parent, group, cel| on(parent, ConditionAction::Skip, group, cel);
    let one = task(&[0], vec![skip(0, 0, "output.n > 50")]);
    assert_eq!(decided(&one, &[high]), Verdict::Skip);
    assert_eq!(decided(&one, &[low]), run());
    // It stands in place of the default, for all parents.
    let kept = task(&[0, 1], vec![skip(0, 0, "has(output.n) && output.n > 50")]);
    assert_eq!(decided(&kept, &[Ended::Skipped, Ended::Skipped]), run());
    assert_eq!(decided(&kept, &[high, low]), Verdict::Skip);
    // Alternatives, and both.
    let either = task(&[0, 1], vec![skip(0, 0, "output.n > 50"), skip(1, 0, "output.n > 50")]);
    let both = task(&[0, 1], vec![skip(0, 0, "output.n > 50"), skip(1, 1, "output.n > 50")]);
    assert_eq!(decided(&either, &[low, high]), Verdict::Skip);
    assert_eq!(decided(&both, &[low, high]), run());
    assert_eq!(decided(&both, &[high, high]), Verdict::Skip);
    // Before cancelling, by a condition or by a parent.
    let all = task(&[0], vec![skip(0, 0, "true"), on(0, ConditionAction::Cancel, 1, "true")]);
    assert_eq!(decided(&all, &[low]), Verdict::Skip);
    assert_eq!(decided(&either, &[high, Ended::Failed]), Verdict::Skip);
    assert!(matches!(decided(&either, &[low, Ended::Failed]), Verdict::Cancel { .. }));
    // A condition on what is no parent has no effect.
    assert_eq!(decided(&task(&[0], vec![skip(2, 0, "")]), &[Ended::Skipped]), Verdict::Skip);
    assert_eq!(decided(&task(&[0], vec![skip(2, 0, "")]), &[low]), run());
    assert_eq!(decided(&task(&[0], vec![skip(0, 0, "")]), &[low]), Verdict::Skip);
}

#[test]
fn cancelling_and_waiting() {
    let (low, high) = (json!({"n": 10}), json!({"n": 60}));
    let (low_done, high_done) = (Ended::Completed(&low), Ended::Completed(&high));
    let cancel = task(&[0, 1], vec![on(0, ConditionAction::Cancel, 0, "has(output.n) && output.n > 50")]);
    let reason = "a condition that cancels it is met by \"a\" (`has(output.n) && output.n > 50`)".to_owned();
    assert_eq!(decided(&cancel, &[high_done, low_done]), Verdict::Cancel { reason });
    assert_eq!(decided(&cancel, &[low_done, low_done]), run());
    assert!(matches!(decided(&cancel, &[low_done, Ended::Failed]), Verdict::Cancel { .. }));
    assert_eq!(decided(&cancel, &[Ended::Skipped, Ended::Skipped]), Verdict::Skip);

    let wait = task(
        &[0, 1],
        vec![on(0, ConditionAction::Queue, 0, "output.n > 50"), on(1, ConditionAction::Queue, 0, "output.n > 50")],
    );
    let triggers = json!({"1: output.n > 50": high});
    assert_eq!(decided(&wait, &[low_done, high_done]), Verdict::Run { triggers });
    assert_eq!(decided(&wait, &[low_done, low_done]), Verdict::Skip, "it never will be met");
    let skipped = task(&[0], vec![on(0, ConditionAction::Queue, 0, ""), on(0, ConditionAction::Skip, 1, "false")]);
    assert_eq!(decided(&skipped, &[Ended::Skipped]), Verdict::Run { triggers: json!({"0: ": {"skipped": true}}) });
}

#[test]
fn what_cannot_be_evaluated_fails_the_task() {
    let done = json!({"n": 10});
    let done = Ended::Completed(&done);
    for action in [ConditionAction::Skip, ConditionAction::Cancel, ConditionAction::Queue] {
        let verdict = decided(&task(&[0], vec![on(0, action, 0, "output.m > 1")]), &[done]);
        let error = "the expression `output.m > 1` can't be evaluated: No such key: m".to_owned();
        assert_eq!(verdict, Verdict::Fail { error });
    }
    // Unless the others decide without it.
    let skip = |group, cel| on(0, ConditionAction::Skip, group, cel);
    assert_eq!(decided(&task(&[0], vec![skip(0, "output.m > 1"), skip(0, "output.n > 1")]), &[done]), Verdict::Skip);
    assert_eq!(decided(&task(&[0], vec![skip(0, "output.m > 1"), skip(1, "output.n < 1")]), &[done]), run());
    let broken = decided(&task(&[0], vec![skip(0, "output.")]), &[done]);
    assert!(matches!(&broken, Verdict::Fail { error } if error.contains("can't be read: line 1")), "{broken:?}");
}

#[test]
fn what_is_not_executed_yet_is_named() {
    let wire = |tasks: Vec<v1::CreateTaskOpts>| v1::CreateWorkflowVersionRequest {
        name: "w".into(),
        tasks,
        cron_triggers: vec!["* * * * *".into()],
        ..Default::default()
    };
    let opts = || v1::CreateTaskOpts { readable_id: "t".into(), action: "w:t".into(), ..Default::default() };
    let read = |request: &v1::CreateWorkflowVersionRequest| Definition::from_request(request).expect("a definition");
    assert_eq!(unsupported_in(&read(&wire(vec![opts()]))), None, "schedules are no obstacle");
    let limit = v1::Concurrency { expression: "input.x".into(), ..Default::default() };
    let base = || Some(v1::BaseMatchCondition::default());
    let sleep = v1::TaskConditions {
        sleep_conditions: vec![v1::SleepMatchCondition { base: base(), sleep_for: "1s".into() }],
        ..Default::default()
    };
    let event = v1::TaskConditions {
        user_event_conditions: vec![v1::UserEventMatchCondition {
            base: base(),
            user_event_key: "e".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let batch = v1::TaskBatchConfig { batch_max_size: 2, ..Default::default() };
    let tasks = [
        ("conditions on time", v1::CreateTaskOpts { conditions: Some(sleep), ..opts() }),
        ("conditions on events", v1::CreateTaskOpts { conditions: Some(event), ..opts() }),
        ("durable tasks", v1::CreateTaskOpts { is_durable: true, ..opts() }),
        ("batches", v1::CreateTaskOpts { batch: Some(batch), ..opts() }),
        ("limits on concurrency", v1::CreateTaskOpts { concurrency: vec![limit.clone()], ..opts() }),
    ];
    for (feature, opts) in tasks {
        let definition = read(&wire(vec![opts]));
        assert_eq!(unsupported(&definition.tasks[0]), Some(feature));
        assert_eq!(unsupported_in(&definition), Some(feature));
        if feature.starts_with("conditions") {
            let error = format!("the task \"t\" has {feature}, which are not executed yet");
            assert_eq!(decide(&definition.tasks[0], &[]), Verdict::Fail { error });
        }
    }
    let idempotency = v1::IdempotencyConfig { expression: "input.x".into(), ttl_ms: 1, method: None };
    let filter = v1::DefaultFilter { expression: "true".into(), scope: "s".into(), payload: None };
    let workflows = [
        (
            "limits on concurrency",
            v1::CreateWorkflowVersionRequest { concurrency_arr: vec![limit], ..wire(vec![opts()]) },
        ),
        ("idempotency keys", v1::CreateWorkflowVersionRequest { idempotency: Some(idempotency), ..wire(vec![opts()]) }),
        ("filters on events", v1::CreateWorkflowVersionRequest { default_filters: vec![filter], ..wire(vec![opts()]) }),
    ];
    for (feature, request) in workflows {
        assert_eq!(unsupported_in(&read(&request)), Some(feature));
    }
}

#[test]
fn rate_limits_and_keys() {
    let input = json!({"user": "u1", "units": 2, "plan": {"limit": 10.0}});
    let nothing = Value::Null;
    let environment =
        Environment::Task { input: &input, additional_metadata: &nothing, parents: &nothing, workflow_run_id: "r1" };
    let limit =
        |key, units, limit: Option<&str>, window| RateLimit { key, units, limit: limit.map(Into::into), window };
    let dynamic = |key: &str| RateLimitKey::Dynamic(key.into());
    let mut limited = task(&[], vec![]);
    limited.rate_limits = vec![
        limit(RateLimitKey::Static("bank".into()), Units::Fixed(3), Some("7"), Window::Second),
        limit(dynamic("input.user"), Units::Expression("input.units".into()), Some("input.plan.limit"), Window::Month),
        limit(dynamic("'all'"), Units::Fixed(1), Some("5"), Window::Year),
    ];
    let expected = [
        RateUse { key: "bank".into(), units: 3, limit: None, window_ms: 1_000 },
        RateUse { key: "u1".into(), units: 2, limit: Some(10), window_ms: 30 * 86_400_000 },
        RateUse { key: "all".into(), units: 1, limit: Some(5), window_ms: 365 * 86_400_000 },
    ];
    assert_eq!(rate_uses(&limited, &environment).as_deref(), Ok(expected.as_slice()));
    limited.rate_limits[1].key = dynamic("input.units");
    assert_eq!(
        rate_uses(&limited, &environment),
        Err("rate_limits[1].key_expr of the task \"t\": the expression `input.units` gives the int 2, and must give a string"
            .into())
    );
    limited.rate_limits[1].units = Units::Expression("-input.units".into());
    let error = rate_uses(&limited, &environment).expect_err("less than nothing");
    assert!(error.starts_with("rate_limits[1].units_expr"), "{error}");

    let key = |cel: &str| {
        let idempotency = Idempotency { expression: cel.into(), ttl_ms: 1, method: IdempotencyMethod::Ttl };
        idempotency_key(&idempotency, &environment)
    };
    assert_eq!(key("input.user + '-' + string(input.units)").as_deref(), Ok("u1-2"));
    assert!(key("input.nobody").expect_err("no key").starts_with("idempotency.expression: the expression"));
}
