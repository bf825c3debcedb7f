//! The translation against its reference model.

/// Any bytes as packets from both sides, rule changes and passing time; see [`testkit::nat_model`].
pub fn nat(data: &[u8]) {
    let _ = testkit::nat_model::drive(data);
}

#[cfg(test)]
mod tests {
    use testkit::nat_model::drive;

    #[test]
    fn each_input_begins_in_the_same_state() {
        crate::check_state("nat", drive);
    }
}
