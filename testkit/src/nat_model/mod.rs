//! A reference model of the translation, and a driver that keeps model and [`nat`] in step.
//!
//! The driver reads any bytes as a sequence of packets, rule changes and passing time. A property test and a fuzz
//! target both run it, so it needs no test harness: a broken promise panics.

mod choices;
mod drive;
mod few;
mod fragments;
mod model;
mod rewriting;

pub use drive::{Outcome, drive};
