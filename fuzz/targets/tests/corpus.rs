//! Replays every input of the committed corpus, and prefixes of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Least number of inputs in the corpus of a target.
const MIN_INPUTS: usize = 10;

/// Largest input of a corpus, in bytes.
const MAX_INPUT: usize = 2048;

/// The inputs of a target's corpus.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let paths = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Each input, and every `step`th prefix of it.
fn replay(name: &str, step: usize, target: fn(&[u8])) {
    let inputs = corpus(name);
    assert!(inputs.len() >= MIN_INPUTS, "{name}: only {} inputs", inputs.len());
    for (path, data) in inputs {
        assert!(data.len() < MAX_INPUT, "{} is too large", path.display());
        for len in (0..data.len()).step_by(step).chain([data.len()]) {
            let outcome = std::panic::catch_unwind(|| target(&data[..len]));
            assert!(outcome.is_ok(), "{name}: the first {len} bytes of {}", path.display());
        }
    }
}

/// Time that this thread has had a processor.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// Executions per second of processor time over the corpus: `cargo test --release -p fuzz-targets --test corpus -- --ignored
/// --nocapture`; with `RUSTFLAGS=-Zsanitizer=address cargo +nightly test --target x86_64-unknown-linux-gnu ...` those with
/// AddressSanitizer.
#[test]
#[ignore = "a measurement"]
fn executions_per_second() {
    type Target = (&'static str, fn(&[u8]));
    let targets: [Target; 8] = [
        ("parse", fuzz_targets::parse),
        ("vnet_header", fuzz_targets::vnet_header),
        ("coalesce", fuzz_targets::coalesce),
        ("pipeline", fuzz_targets::pipeline),
        ("nat", fuzz_targets::nat),
        ("router", fuzz_targets::router),
        ("vxlan", fuzz_targets::vxlan),
        ("tunnel", fuzz_targets::tunnel),
    ];
    for (name, target) in targets {
        let inputs = corpus(name);
        let (begin, mut executions) = (processor_time(), 0);
        let mut elapsed = Duration::ZERO;
        while elapsed < Duration::from_secs(2) {
            for _ in 0..10 {
                inputs.iter().for_each(|(_, data)| target(data));
            }
            executions += 10 * inputs.len();
            elapsed = processor_time() - begin;
        }
        println!("{name:12} {:8.0} executions/s", executions as f64 / elapsed.as_secs_f64());
    }
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
