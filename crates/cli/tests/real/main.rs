//! The real binary, as a process.

mod bus;
mod house;
mod serve;
mod trouble;
