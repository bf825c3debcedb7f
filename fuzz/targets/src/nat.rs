//! The translation against its reference model.

/// Any bytes as packets from both sides, rule changes and passing time; see [`testkit::nat_model`].
pub fn nat(data: &[u8]) {
    testkit::nat_model::drive(data);
}
