//! The translation against its model, see `nat/tests/reference`.

#[path = "../../../nat/tests/reference/mod.rs"]
mod reference;

/// Any bytes as packets from both sides, changes of the rules, and time.
pub fn nat(data: &[u8]) {
    reference::drive(data);
}
