//! Checks docs/rfc.md, which names the test for each requirement.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

pub(crate) fn trials(others: &[Trial]) -> Vec<Trial> {
    let names: HashSet<String> = others.iter().map(|trial| trial.name().to_owned()).collect();
    vec![Trial::test("conformance/tests_are_there", move || {
        tests_are_there(&names);
        Ok(())
    })]
}

/// Every test that the page names exists.
fn tests_are_there(end_to_end: &HashSet<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/rfc.md")).expect("the page");
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with('|')) {
        for name in row.split('`').skip(1).step_by(2) {
            if name.contains("::") {
                assert!(is_unit_test(root, name), "docs/rfc.md names {name}, which is no test: {row}");
                named += 1;
            } else if name.contains('/') {
                assert!(end_to_end.contains(name), "docs/rfc.md names {name}, which is no test: {row}");
                named += 1;
            }
        }
    }
    assert!(named > 60, "{named} names found");
}

/// `crate::module::tests::name` is in `crate/src/module.rs` or below `crate/src/module/`.
fn is_unit_test(root: &Path, name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [room, modules @ .., function] = parts.as_slice() else { return false };
    let Some(("tests", modules)) = modules.split_last().map(|(last, rest)| (*last, rest)) else { return false };
    let base: PathBuf = [room, "src"].iter().chain(modules).collect();
    let places = [base.with_extension("rs"), base.join("tests.rs")];
    places.iter().any(|place| {
        fs::read_to_string(root.join(place)).is_ok_and(|source| {
            let test = format!("fn {function}(");
            source.split("#[test]").skip(1).any(|after| after.trim_start().starts_with(&test))
        })
    })
}
