//! Observers: captures, traces, and events about tables.
//!
//! Each is an object of the control thread that tells the workers, through the [fabric](crate::fabric), what to show. Nothing here is
//! in the way of a frame.

pub(crate) mod alarms;
pub(crate) mod captures;
pub(crate) mod loops;
pub(crate) mod traces;

pub(crate) use alarms::Alarms;
pub(crate) use captures::Captures;
pub(crate) use loops::Loops;
pub(crate) use traces::Traces;
