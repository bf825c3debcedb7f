//! Observation: traces of single frames, captures, and rehearsals of frames that nobody sent.

mod boarded;
pub mod capture;
mod live;
mod rehearsal;
pub mod story;

pub use live::{Live, MAX_LIVE, MAX_WAITING, Watch};
pub use rehearsal::Rehearsal;
pub(crate) use story::Addressed;
pub use story::{Step, Story, Verdict};
