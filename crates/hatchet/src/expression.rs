//! CEL: the expressions in a registration, read once to see that they are well-formed, and evaluated against what they
//! look at.
//!
//! [`Expression::parse`] reads one, an [`Environment`] says what it sees, and [`Expression::is_true`], [`Expression::text`]
//! and [`Expression::number`] say what it gives. [`decide`] is what becomes of a task once its parents have ended,
//! [`rate_uses`] what a task takes from limits.
//!
//! # Numbers
//!
//! JSON has one kind of number, CEL has whole ones and doubles, and only compares them with each other. So whole
//! numbers, `51.0` too, are ints, and others doubles; and if the expression fails on that, it is evaluated once more
//! with all of them as doubles, which is how Hatchet's own engine reads JSON. `input.n + 1`, `input.n * 1.5` and
//! `input.list[input.n]` all work, whatever `input.n` is.
//!
//! # Limits
//!
//! An expression comes from whoever may register a workflow, and runs inside the engine. So its text has a limit
//! ([`TEXT_BYTES_MAX`]), its number of operators ([`SIGNS_MAX`]), its nesting ([`BRACKETS_MAX`], [`DEPTH_MAX`]), and the
//! work of one evaluation ([`WORK_MAX`]).
//!
//! Left out of CEL: timestamps and durations, optional values, messages, and `format` and `quote` of the string
//! functions.
//!
//! What this module does not know: where the values come from, and what is done with the result.

mod conditions;
mod environment;
mod functions;
mod uses;
mod work;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::{Context, Env};

use crate::definition::TEXT_BYTES_MAX;
use environment::Numbers;
use work::Budget;

pub use conditions::{Ended, Parent, Verdict, decide, unsupported, unsupported_in};
pub use environment::Environment;
pub use functions::{PIECES_MAX, REGEX_BYTES_MAX, REGEX_TEXT_BYTES_MAX, RESULT_BYTES_MAX};
pub use uses::{RateUse, filter_passes, idempotency_key, rate_uses};
pub use work::WORK_MAX;

/// Operators, brackets, dots and commas of one expression, those inside of its strings too. Each can nest the expression
/// one deeper, and the parser goes down as deep: 1,000 is a third of what a stack of 2 MiB holds.
pub const SIGNS_MAX: usize = 1_000;
/// Brackets and ternaries inside of each other.
pub const BRACKETS_MAX: u16 = 64;
/// Operations inside of each other: `a + b + c` is three deep, `a.b.c` too. Chains of `&&` and `||` count as their
/// logarithm. Evaluation goes down as deep.
pub const DEPTH_MAX: usize = 200;
/// Bytes of an error's cause that are shown: it may hold the values it is about.
const CAUSE_BYTES_MAX: usize = 500;
/// Bytes of an expression that are shown in an error.
const SHOWN_BYTES_MAX: usize = 200;

/// Everything an expression can call. Made once: it is the same for all.
static CEL: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib().with_optional_support(false);
    work::declare(&mut env);
    functions::declare(&mut env);
    Arc::new(env)
});

/// A CEL expression, well-formed. Whether the names in it exist shows when it is evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    text: String,
    root: IdedExpr,
    names: BTreeSet<String>,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`BadExpression`] says where it is wrong and what to change. The same text is always wrong.
    pub fn parse(text: &str) -> Result<Expression, BadExpression> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(BadExpression::TooLong { found: text.len() });
        }
        let found = signs(text);
        if found > SIGNS_MAX {
            return Err(BadExpression::TooManySigns { found });
        }
        let parsed = CEL.parser().max_recursion_depth(BRACKETS_MAX).parse(text);
        let mut root = parsed.map_err(|errors| BadExpression::first_of(&errors))?;
        if work::depth(&root) > DEPTH_MAX {
            return Err(BadExpression::TooDeep);
        }
        let mut names = BTreeSet::new();
        work::meter(&mut root, &mut names);
        Ok(Expression { text: text.to_owned(), root, names })
    }

    /// Whether it is true.
    ///
    /// # Errors
    /// [`EvaluationError`] if it can't be evaluated, or gives no bool. The same input always fails the same.
    pub fn is_true(&self, environment: &Environment<'_>) -> Result<bool, EvaluationError> {
        self.evaluate(environment, "true or false", |found| match found {
            cel::Value::Bool(found) => Some(*found),
            _ => None,
        })
    }

    /// The text it gives: a key, mostly.
    ///
    /// # Errors
    /// [`EvaluationError`] if it can't be evaluated, or gives no string: `string(...)` makes one of a number.
    pub fn text(&self, environment: &Environment<'_>) -> Result<String, EvaluationError> {
        self.evaluate(environment, "a string", |found| match found {
            cel::Value::String(found) => Some(found.as_str().to_owned()),
            _ => None,
        })
    }

    /// The number it gives, from 0 to `u32::MAX`. What stands behind the point is cut off.
    ///
    /// # Errors
    /// [`EvaluationError`] if it can't be evaluated, or gives no number of that range.
    pub fn number(&self, environment: &Environment<'_>) -> Result<u32, EvaluationError> {
        self.evaluate(environment, "a number from 0 to 4294967295", |found| match found {
            cel::Value::Int(found) => u32::try_from(*found).ok(),
            cel::Value::UInt(found) => u32::try_from(*found).ok(),
            cel::Value::Float(found) => {
                let whole = found.trunc();
                (0.0..=f64::from(u32::MAX)).contains(&whole).then_some(whole as u32)
            }
            _ => None,
        })
    }

    /// Evaluates it with whole numbers as ints, and if that fails, with all numbers as doubles. If both fail, the first
    /// error is the one that tells more.
    fn evaluate<T>(
        &self,
        environment: &Environment<'_>,
        wanted: &'static str,
        read: impl Fn(&cel::Value) -> Option<T>,
    ) -> Result<T, EvaluationError> {
        let first = self.attempt(environment, Numbers::AsWritten, wanted, &read);
        if !matches!(first, Err(EvaluationError::Failed { .. })) {
            return first;
        }
        self.attempt(environment, Numbers::Doubles, wanted, &read).or(first)
    }

    fn attempt<T>(
        &self,
        environment: &Environment<'_>,
        numbers: Numbers,
        wanted: &'static str,
        read: &impl Fn(&cel::Value) -> Option<T>,
    ) -> Result<T, EvaluationError> {
        let expression = || shortened(&self.text, SHOWN_BYTES_MAX);
        let budget = Budget::new(WORK_MAX);
        let mut context = Context::with_env(Arc::clone(&CEL));
        context.add_variable_as_val(work::BUDGET, Box::new(budget.clone()));
        for name in &self.names {
            if let Some(found) = environment.variable(name) {
                context.add_variable_as_val(name, found.value(numbers));
            }
        }
        // Not `resolve_val`: that is inlined into this crate, where a build without optimisation makes its frames so
        // large that a stack overflows at a depth of 60.
        let result = context.resolve(&self.root);
        // Asked first: operators like `||` may have passed over the error.
        if budget.is_spent() {
            return Err(EvaluationError::TooMuchWork { expression: expression() });
        }
        match result {
            Ok(found) => read(&found).ok_or_else(|| EvaluationError::WrongType {
                expression: expression(),
                wanted,
                found: described(&found),
            }),
            Err(error) => {
                let cause = shortened(&work::readable(&error.to_string()), CAUSE_BYTES_MAX);
                Err(EvaluationError::Failed { expression: expression(), cause })
            }
        }
    }
}

/// A text of bounded length, cut between characters.
fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max { text.to_owned() } else { format!("{}...", &text[..text.floor_char_boundary(max)]) }
}

/// What an expression gave instead of what was wanted.
fn described(found: &cel::Value) -> String {
    match found {
        cel::Value::Int(found) => format!("the int {found}"),
        cel::Value::UInt(found) => format!("the uint {found}"),
        cel::Value::Float(found) => format!("the double {found}"),
        cel::Value::Bool(found) => format!("the bool {found}"),
        cel::Value::Null => "null".to_owned(),
        found => format!("a {}", found.type_of()),
    }
}

/// Counts what can nest an expression. It looks at bytes alone and counts inside of strings too: a lexer of our own that
/// errs about where a string ends could be made to count too little. Of the doubled signs, `==`, `&&` and `||`, one counts.
fn signs(text: &str) -> usize {
    let bytes = text.as_bytes();
    let counts = |index: usize| match bytes[index] {
        b'.' | b',' | b':' | b'?' | b'!' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'(' | b'[' | b'{' => true,
        sign @ (b'=' | b'&' | b'|') => index == 0 || bytes[index - 1] != sign,
        // The operator `in`. That it may be the end of a longer word does no harm.
        b'i' => {
            bytes.get(index + 1) == Some(&b'n')
                && bytes.get(index + 2).is_none_or(|next| !next.is_ascii_alphanumeric() && *next != b'_')
        }
        _ => false,
    };
    (0..bytes.len()).filter(|index| counts(*index)).count()
}

/// An expression that can't be accepted: where, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadExpression {
    /// Its text is too long.
    #[error("it has {found} bytes, at most {TEXT_BYTES_MAX} are allowed: make it shorter")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// It has too many operators.
    #[error("it has {found} operators, brackets, dots and commas, at most {SIGNS_MAX} are allowed: make it simpler")]
    TooManySigns {
        /// How many there are.
        found: usize,
    },
    /// Its brackets, or its operations, are too deep inside of each other.
    #[error(
        "it is nested too deeply, at most {BRACKETS_MAX} brackets and {DEPTH_MAX} operations may be inside of each other: \
         make it simpler"
    )]
    TooDeep,
    /// It does not follow the grammar.
    #[error("line {line}, column {column}: {cause}")]
    Syntax {
        /// The line, counted from 1.
        line: usize,
        /// The column in characters, counted from 1.
        column: usize,
        /// What the parser found there.
        cause: String,
    },
}

impl BadExpression {
    /// The first error of the parser, without the list of everything it would have taken instead.
    fn first_of(errors: &cel::ParseErrors) -> BadExpression {
        if errors.errors.iter().any(|error| error.msg.contains("Recursion limit of")) {
            return BadExpression::TooDeep;
        }
        let Some(error) = errors.errors.first() else {
            return BadExpression::Syntax { line: 1, column: 1, cause: "it can't be read".to_owned() };
        };
        let position = |found: isize| usize::try_from(found).unwrap_or_default().max(1);
        let cause = error.msg.split(" expecting {").next().unwrap_or_default();
        let cause = cause.strip_prefix("Syntax error: ").unwrap_or(cause).replace("<EOF>", "the end");
        BadExpression::Syntax {
            line: position(error.pos.0),
            column: position(error.pos.1),
            cause: shortened(&cause, CAUSE_BYTES_MAX),
        }
    }
}

/// An expression that gave nothing that can be used. The same input always fails the same: trying again is no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// It can't be evaluated with this input.
    #[error("the expression `{expression}` can't be evaluated: {cause}")]
    Failed {
        /// The expression, shortened.
        expression: String,
        /// What went wrong.
        cause: String,
    },
    /// It takes too long.
    #[error(
        "the expression `{expression}` takes more than {WORK_MAX} steps with this input: make it simpler, or give it less"
    )]
    TooMuchWork {
        /// The expression, shortened.
        expression: String,
    },
    /// It gives something else than what is needed.
    #[error("the expression `{expression}` gives {found}, and must give {wanted}")]
    WrongType {
        /// The expression, shortened.
        expression: String,
        /// What is needed.
        wanted: &'static str,
        /// What it gave.
        found: String,
    },
}
