//! Several bridges in one pipeline: each is as if it were alone, and only the router leads from one to another.

#[path = "../bridge/mod.rs"]
mod bridge;
#[path = "../../../packet/tests/frames/mod.rs"]
mod frames;
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../../../nat/tests/reference/packets.rs"]
#[allow(dead_code, reason = "some of the builders are used")]
mod packets;

mod alone;
mod routed;
