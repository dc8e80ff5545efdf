//! Functions on strings that Hatchet's expressions have beside those of the standard: `checksum`, and the well-known
//! extension of CEL. Positions count characters. What could make much of little has a limit of its own.
//!
//! What this module does not know: where a string comes from.

use cel::common::types::{CelBool, CelInt, CelList, CelString};
use cel::common::value::Val;
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload};
use regex::{Regex, RegexBuilder};
use sha2::{Digest, Sha256};

use super::work::Budget;

/// Bytes of a string that `replace` or `join` makes.
pub const RESULT_BYTES_MAX: usize = 1024 * 1024;
/// Strings that `split` makes.
pub const PIECES_MAX: usize = 100_000;
/// Bytes of a compiled regular expression. Enough for a few classes of Unicode; it bounds the time for one character.
pub const REGEX_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a text that `matches` looks at.
pub const REGEX_TEXT_BYTES_MAX: usize = 64 * 1024;
/// What compiling a regular expression costs, and what looking at a byte with one.
const COMPILE_COST: u64 = 20_000;
const MATCH_COST: u64 = 8;

pub(super) fn declare(env: &mut Env) {
    declared(env).expect("no function is declared twice");
}

fn declared(env: &mut Env) -> Result<(), DeclarationError> {
    add_member_overload!(env, fn checksum: (CelString) -> CelString)?;
    add_member_overload!(env, fn lower_ascii: (CelString) -> CelString)?;
    add_member_overload!(env, fn upper_ascii: (CelString) -> CelString)?;
    add_member_overload!(env, fn trim: (CelString) -> CelString)?;
    add_member_overload!(env, fn reverse: (CelString) -> CelString)?;
    add_member_overload!(env, fn char_at: (CelString, CelInt) -> Result<CelString>)?;
    add_member_overload!(env, fn index_of: (CelString, CelString) -> CelInt)?;
    add_member_overload!(env, fn last_index_of: (CelString, CelString) -> CelInt)?;
    add_member_overload!(env, fn substring: (CelString, CelInt) -> Result<CelString>)?;
    add_member_overload!(env, fn substring_to: (CelString, CelInt, CelInt) -> Result<CelString>, name = "substring")?;
    add_member_overload!(env, fn replace: (CelString, CelString, CelString) -> Result<CelString>)?;
    add_member_overload!(env, fn replace_some: (CelString, CelString, CelString, CelInt) -> Result<CelString>,
        name = "replace")?;
    add_member_overload!(env, fn split: (CelString, CelString) -> Result<CelList>)?;
    add_member_overload!(env, fn split_some: (CelString, CelString, CelInt) -> Result<CelList>, name = "split")?;
    add_member_overload!(env, fn join: (CelList) -> Result<CelString>)?;
    add_member_overload!(env, fn join_with: (CelList, CelString) -> Result<CelString>, name = "join")?;
    add_member_overload!(env, fn matches: (CelString, CelString, Budget) -> Result<CelBool>)?;
    add_overload!(env, fn matches: (CelString, CelString, Budget) -> Result<CelBool>)
}

fn checksum(text: &CelString<'_>) -> CelString<'static> {
    let digest = Sha256::digest(text.inner().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

fn lower_ascii(text: &CelString<'_>) -> CelString<'static> {
    text.inner().to_ascii_lowercase().into()
}

fn upper_ascii(text: &CelString<'_>) -> CelString<'static> {
    text.inner().to_ascii_uppercase().into()
}

fn trim(text: &CelString<'_>) -> CelString<'static> {
    text.inner().trim().to_owned().into()
}

fn reverse(text: &CelString<'_>) -> CelString<'static> {
    text.inner().chars().rev().collect::<String>().into()
}

fn char_at(text: &CelString<'_>, at: &CelInt) -> Result<CelString<'static>, ExecutionError> {
    let at = *at.inner();
    let end = at.saturating_add(1).min(text.inner().chars().count() as i64);
    part("charAt", text.inner(), at, end)
}

fn index_of(text: &CelString<'_>, wanted: &CelString<'_>) -> CelInt {
    position(text.inner(), text.inner().find(wanted.inner()))
}

fn last_index_of(text: &CelString<'_>, wanted: &CelString<'_>) -> CelInt {
    position(text.inner(), text.inner().rfind(wanted.inner()))
}

fn position(text: &str, found: Option<usize>) -> CelInt {
    CelInt::from(found.map_or(-1, |byte| text[..byte].chars().count() as i64))
}

fn substring(text: &CelString<'_>, start: &CelInt) -> Result<CelString<'static>, ExecutionError> {
    part("substring", text.inner(), *start.inner(), text.inner().chars().count() as i64)
}

fn substring_to(text: &CelString<'_>, start: &CelInt, end: &CelInt) -> Result<CelString<'static>, ExecutionError> {
    part("substring", text.inner(), *start.inner(), *end.inner())
}

fn part(function: &str, text: &str, start: i64, end: i64) -> Result<CelString<'static>, ExecutionError> {
    let length = text.chars().count() as i64;
    if start < 0 || start > end || end > length {
        let why = format!("{start} to {end} is no part of a text of {length} characters");
        return Err(ExecutionError::function_error(function, why));
    }
    Ok(text.chars().skip(start as usize).take((end - start) as usize).collect::<String>().into())
}

fn replace(
    text: &CelString<'_>,
    from: &CelString<'_>,
    to: &CelString<'_>,
) -> Result<CelString<'static>, ExecutionError> {
    replaced(text.inner(), from.inner(), to.inner(), usize::MAX)
}

fn replace_some(
    text: &CelString<'_>,
    from: &CelString<'_>,
    to: &CelString<'_>,
    count: &CelInt,
) -> Result<CelString<'static>, ExecutionError> {
    replaced(text.inner(), from.inner(), to.inner(), at_most(count))
}

fn replaced(text: &str, from: &str, to: &str, count: usize) -> Result<CelString<'static>, ExecutionError> {
    let found = text.matches(from).take(count).count();
    bounded("replace", text.len() + found.saturating_mul(to.len().saturating_sub(from.len())))?;
    Ok(text.replacen(from, to, count).into())
}

fn split(text: &CelString<'_>, at: &CelString<'_>) -> Result<CelList<'static>, ExecutionError> {
    pieces(text.inner(), at.inner(), usize::MAX)
}

fn split_some(text: &CelString<'_>, at: &CelString<'_>, count: &CelInt) -> Result<CelList<'static>, ExecutionError> {
    pieces(text.inner(), at.inner(), at_most(count))
}

fn pieces(text: &str, at: &str, count: usize) -> Result<CelList<'static>, ExecutionError> {
    let mut list: Vec<Box<dyn Val>> = Vec::new();
    let mut add = |piece: &str| {
        list.push(Box::new(CelString::from(piece.to_owned())));
        if list.len() <= PIECES_MAX {
            return Ok(());
        }
        Err(ExecutionError::function_error("split", format!("it gives more than {PIECES_MAX} pieces")))
    };
    if at.is_empty() && count > 0 {
        // Into its characters; the last piece is the rest.
        let mut rest = text;
        for _ in 1..count {
            let Some(first) = rest.chars().next().filter(|first| first.len_utf8() < rest.len()) else { break };
            let (piece, left) = rest.split_at(first.len_utf8());
            add(piece)?;
            rest = left;
        }
        if !rest.is_empty() {
            add(rest)?;
        }
    } else {
        text.splitn(count, at).try_for_each(add)?;
    }
    Ok(list.into())
}

/// A count as the extension has it: below 0 is no limit.
fn at_most(count: &CelInt) -> usize {
    usize::try_from(*count.inner()).unwrap_or(usize::MAX)
}

fn join(list: &CelList<'_>) -> Result<CelString<'static>, ExecutionError> {
    joined(list, "")
}

fn join_with(list: &CelList<'_>, between: &CelString<'_>) -> Result<CelString<'static>, ExecutionError> {
    joined(list, between.inner())
}

fn joined(list: &CelList<'_>, between: &str) -> Result<CelString<'static>, ExecutionError> {
    let mut text = String::new();
    for (index, entry) in list.inner().iter().enumerate() {
        let entry = entry.downcast_ref::<CelString>().ok_or_else(|| {
            let found = entry.get_type().name();
            ExecutionError::function_error("join", format!("the list has a {found} in it, and may only have strings"))
        })?;
        let between = if index == 0 { "" } else { between };
        bounded("join", text.len() + between.len() + entry.inner().len())?;
        text.push_str(between);
        text.push_str(entry.inner());
    }
    Ok(text.into())
}

fn bounded(function: &str, found: usize) -> Result<(), ExecutionError> {
    if found <= RESULT_BYTES_MAX {
        return Ok(());
    }
    let why = format!("it gives {found} bytes, at most {RESULT_BYTES_MAX} are allowed");
    Err(ExecutionError::function_error(function, why))
}

fn matches(text: &CelString<'_>, pattern: &CelString<'_>, budget: &Budget) -> Result<CelBool, ExecutionError> {
    let (text, pattern) = (text.inner(), pattern.inner());
    if text.len() > REGEX_TEXT_BYTES_MAX {
        let why = format!("the text has {} bytes, at most {REGEX_TEXT_BYTES_MAX} are allowed", text.len());
        return Err(ExecutionError::function_error("matches", why));
    }
    let compile = |pattern: &str| -> Result<Regex, ExecutionError> {
        budget.spend(COMPILE_COST)?;
        let compiled = RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build();
        // The library draws the pattern above what is wrong with it; the last line says it.
        compiled.map_err(|error| {
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            ExecutionError::function_error("matches", format!("the pattern can't be used: {why}"))
        })
    };
    let pattern = budget.pattern(pattern, compile)?;
    budget.spend(MATCH_COST * text.len() as u64)?;
    Ok(CelBool::from(pattern.is_match(text)))
}
