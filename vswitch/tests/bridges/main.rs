//! Several bridges in one pipeline: each is as if it were alone, and only the router leads from one to another.

mod alone;
mod routed;
