//! Every input of the committed corpus, and its prefixes.

use std::path::Path;

/// As many inputs as a corpus has at least.
const FEWEST: usize = 10;

/// Each input, and every `step`th prefix of it.
fn replay(name: &str, step: usize, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        assert!(data.len() < 2048, "{} is too large", path.display());
        for len in (0..data.len()).step_by(step).chain([data.len()]) {
            let outcome = std::panic::catch_unwind(|| target(&data[..len]));
            assert!(outcome.is_ok(), "{name}: the first {len} bytes of {}", path.display());
        }
        inputs += 1;
    }
    assert!(inputs >= FEWEST, "{name}: only {inputs} inputs");
}

#[test]
fn parse() {
    replay("parse", 1, fuzz_targets::parse);
}

#[test]
fn vnet_header() {
    replay("vnet_header", 1, fuzz_targets::vnet_header);
}

#[test]
fn coalesce() {
    replay("coalesce", 1, fuzz_targets::coalesce);
}

#[test]
fn pipeline() {
    replay("pipeline", 1, fuzz_targets::pipeline);
}

#[test]
fn nat() {
    replay("nat", 101, fuzz_targets::nat);
}

#[test]
fn router() {
    replay("router", 31, fuzz_targets::router);
}

#[test]
fn vxlan() {
    replay("vxlan", 1, fuzz_targets::vxlan);
}

#[test]
fn tunnel() {
    replay("tunnel", 3, fuzz_targets::tunnel);
}
