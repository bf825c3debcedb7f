//! Observation: traces of single frames, captures, and rehearsals of imagined frames.

mod boarded;
pub mod capture;
pub mod live;
pub mod rehearsal;
pub mod step;
pub mod story;
