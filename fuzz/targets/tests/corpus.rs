//! Every input of the committed corpus, and every prefix of it.

use std::path::Path;

/// As many inputs as a corpus has at least.
const FEWEST: usize = 10;

fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        assert!(data.len() < 2048, "{} is too large", path.display());
        for len in 0..=data.len() {
            let outcome = std::panic::catch_unwind(|| target(&data[..len]));
            assert!(outcome.is_ok(), "{name}: the first {len} bytes of {}", path.display());
        }
        inputs += 1;
    }
    assert!(inputs >= FEWEST, "{name}: only {inputs} inputs");
}

#[test]
fn parse() {
    replay("parse", fuzz_targets::parse);
}

#[test]
fn vnet_header() {
    replay("vnet_header", fuzz_targets::vnet_header);
}

#[test]
fn coalesce() {
    replay("coalesce", fuzz_targets::coalesce);
}

#[test]
fn pipeline() {
    replay("pipeline", fuzz_targets::pipeline);
}
