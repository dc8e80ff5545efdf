//! What an evaluation may cost. The library has no limit of its own, so before an expression is first evaluated, a toll
//! is put wherever it can grow: on every value that is handed to an operator or function, copied into a list or map, or
//! walked over by a macro, by the value's size. When the budget is spent, each further toll is an error, so that the
//! evaluation ends soon, and what it gave does not count.
//!
//! What this module does not know: what an expression is for.

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::{CelBytes, CelInt, CelList, CelMap, CelString, DYN_TYPE, INT_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{Env, ExecutionError};
use regex::Regex;

/// The work of one evaluation: values handed to operators, each by its size, counted in scalars, entries, and pieces of
/// 32 bytes. About a second and 200 MB at the very worst; a check of ten thousand records takes half of it.
pub const WORK_MAX: u64 = 2_000_000;
/// The variable that holds the budget. No expression can name it: its first character is none of CEL's.
pub(super) const BUDGET: &str = "@budget";
/// The function that takes the toll. Nor can any name this.
const TOLL: &str = "@toll";
/// Bytes of a text that count as one.
const PIECE_BYTES: u64 = 32;
/// What hands its operands on, or decides by them, and so costs nothing by their size.
const FREE: [&str; 6] = [
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::CONDITIONAL,
    operators::NOT_STRICTLY_FALSE,
    operators::INDEX,
];

static BUDGET_TYPE: Type = Type::new_unspecified_type(BUDGET);

/// What is left for one evaluation, and the regular expressions it has compiled. Clones are the same budget.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    left: AtomicU64,
    patterns: Mutex<HashMap<String, Regex>>,
}

impl Budget {
    pub(super) fn new(left: u64) -> Budget {
        Budget(Arc::new(Shared { left: AtomicU64::new(left), patterns: Mutex::default() }))
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.left.load(Ordering::Relaxed) == 0
    }

    pub(super) fn spend(&self, cost: u64) -> Result<(), ExecutionError> {
        let left = self.0.left.load(Ordering::Relaxed).saturating_sub(cost);
        self.0.left.store(left, Ordering::Relaxed);
        if left == 0 { Err(ExecutionError::InternalError("the budget is spent".to_owned())) } else { Ok(()) }
    }

    /// The pattern, compiled if it is new to this evaluation.
    pub(super) fn pattern(
        &self,
        text: &str,
        compile: impl FnOnce(&str) -> Result<Regex, ExecutionError>,
    ) -> Result<Regex, ExecutionError> {
        let mut patterns = self.0.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = patterns.get(text) {
            return Ok(found.clone());
        }
        let compiled = compile(text)?;
        patterns.insert(text.to_owned(), compiled.clone());
        Ok(compiled)
    }
}

impl Val for Budget {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &BUDGET_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}

pub(super) fn declare(env: &mut Env) {
    env.add_overload(TOLL, TOLL, vec![BUDGET_TYPE.to_owned(), INT_TYPE, DYN_TYPE], toll)
        .expect("nothing else has this name");
}

/// Takes what a value costs, and hands it on as it is. The second argument is what each of its entries costs besides.
fn toll<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (Some(value), Some(weight), Some(budget)) = (args.pop(), args.pop(), args.pop()) else {
        return Err(ExecutionError::MissingArgumentOrTarget);
    };
    let budget = budget.downcast_ref::<Budget>().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    if budget.is_spent() {
        budget.spend(0)?;
    }
    let weight = weight.downcast_ref::<CelInt>().map_or(0, |weight| weight.inner().unsigned_abs());
    let entries = value.as_sizer().map_or(0, |sized| sized.size().inner().unsigned_abs());
    budget.spend(size(value.as_ref()).saturating_add(weight.saturating_mul(entries)))?;
    Ok(value)
}

/// How much of the budget a value takes. As deep as JSON and an expression can be, no deeper.
fn size(value: &(dyn Val + '_)) -> u64 {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return 1 + text.inner().len() as u64 / PIECE_BYTES;
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        return 1 + bytes.inner().len() as u64 / PIECE_BYTES;
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return 1 + list.inner().iter().map(|entry| size(entry.as_ref())).sum::<u64>();
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return 1 + map.inner().iter().map(|(key, entry)| size(key.inner()) + size(entry.as_ref())).sum::<u64>();
    }
    1
}

/// How deep operations are inside of each other.
pub(super) fn depth(expr: &IdedExpr) -> usize {
    1 + parts(expr).into_iter().map(depth).max().unwrap_or_default()
}

fn nodes(expr: &IdedExpr) -> i64 {
    1 + parts(expr).into_iter().map(nodes).sum::<i64>()
}

fn parts(expr: &IdedExpr) -> Vec<&IdedExpr> {
    match &expr.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(message) => message.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Comprehension(all) => {
            vec![&all.iter_range, &all.accu_init, &all.loop_cond, &all.loop_step, &all.result]
        }
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// Puts the tolls into an expression, and notes the names it uses.
pub(super) fn meter(expr: &mut IdedExpr, names: &mut BTreeSet<String>) {
    match &mut expr.expr {
        Expr::Unspecified | Expr::Literal(_) => {}
        Expr::Ident(name) => {
            names.insert(name.trim_start_matches('.').to_owned());
        }
        Expr::Select(select) => meter(&mut select.operand, names),
        Expr::List(list) => list.elements.iter_mut().for_each(|element| operand(element, names)),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| entry_operands(&mut entry.expr, names)),
        Expr::Struct(message) => message.entries.iter_mut().for_each(|entry| entry_operands(&mut entry.expr, names)),
        Expr::Call(call) => {
            let free = FREE.contains(&call.func_name.as_str());
            for part in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
                if free { meter(part, names) } else { operand(part, names) }
            }
            if call.func_name == "matches" {
                call.args.push(budget());
            }
        }
        Expr::Comprehension(all) => {
            let weight = nodes(&all.loop_step);
            meter(&mut all.iter_range, names);
            charge(&mut all.iter_range, weight);
            // Macros put these together from what they were given and a result that no expression can name. Their
            // shape stays: the library knows by it that it may append to that result instead of copying it.
            for part in [&mut all.accu_init, &mut all.loop_cond, &mut all.loop_step, &mut all.result] {
                meter(part, names);
            }
        }
    }
}

fn operand(expr: &mut IdedExpr, names: &mut BTreeSet<String>) {
    meter(expr, names);
    match &expr.expr {
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => {}
        Expr::Ident(name) if name.starts_with('@') => {}
        _ => charge(expr, 0),
    }
}

fn entry_operands(entry: &mut EntryExpr, names: &mut BTreeSet<String>) {
    match entry {
        EntryExpr::StructField(field) => operand(&mut field.value, names),
        EntryExpr::MapEntry(entry) => {
            operand(&mut entry.key, names);
            operand(&mut entry.value, names);
        }
    }
}

fn charge(expr: &mut IdedExpr, weight: i64) {
    let weight = IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Int(CelInt::from(weight))) };
    let charged = mem::take(expr);
    let call = CallExpr { func_name: TOLL.to_owned(), target: None, args: vec![budget(), weight, charged] };
    *expr = IdedExpr { id: 0, expr: Expr::Call(call) };
}

fn budget() -> IdedExpr {
    IdedExpr { id: 0, expr: Expr::Ident(BUDGET.to_owned()) }
}

/// An error without the argument that nobody wrote.
pub(super) fn readable(error: &str) -> String {
    error.replace(&format!(", {BUDGET}"), "")
}
