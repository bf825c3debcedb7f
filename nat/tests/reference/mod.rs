//! The translation again, in the plainest way, and a driver that keeps the two in step.
//!
//! The driver reads any bytes as a sequence of packets, rule changes and moments. The fuzzer runs it
//! too, so nothing here needs a test harness: a broken promise panics.
#![allow(dead_code, reason = "each test uses some of it")]

mod choices;
mod drive;
mod fragments;
mod model;
pub(crate) mod packets;
mod rewriting;

pub(crate) use drive::drive;
