//! Observation: traces of single frames, captures, and rehearsals of imagined frames.

pub mod capture;
pub mod live;
pub(crate) mod observer;
pub mod rehearsal;
mod seen;
pub mod step;
pub mod story;
pub(crate) mod unsent;
