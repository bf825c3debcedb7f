//! The translation against a reference model: see [`testkit::nat_model`].

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: testkit::cases(60), max_shrink_iters: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Packets of all kinds from both sides, rules that change, and time that passes.
    #[test]
    fn the_translation_is_what_the_model_says(data in prop::collection::vec(any::<u8>(), 0..6000)) {
        testkit::nat_model::drive(&data);
    }
}
