//! What is said on standard output. Whoever read it may be gone (`mainspring runs | head`), which keeps nothing from being
//! done: neither a server from serving nor a move from ending.

use std::fmt::Arguments;
use std::io::Write;

/// Says a line, as `println!` does, whether or not anybody reads it.
macro_rules! say {
    ($($line:tt)*) => { $crate::say::line(format_args!($($line)*)) };
}
pub(crate) use say;

pub(crate) fn line(line: Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
