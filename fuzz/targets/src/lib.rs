//! The bodies of the fuzz targets. Each takes any bytes and panics where a promise is broken. `cargo test` replays the
//! committed corpus, prefix by prefix.
//!
//! Inputs are not restricted to what a kernel would send: the code under test must refuse the rest itself.

mod coalesce;
mod frame;
mod headers;
mod nat;
mod pipeline;
mod router;
mod tunnel;
mod vnet_header;
mod vxlan;

pub use coalesce::coalesce;
pub use headers::parse;
pub use nat::nat;
pub use pipeline::pipeline;
pub use router::router;
pub use tunnel::tunnel;
pub use vnet_header::vnet_header;
pub use vxlan::vxlan;

/// Checks that the outcome of an input does not depend on those before it: each of a corpus alone in a thread of its own, then
/// twice after others.
#[cfg(test)]
fn check_state<T: PartialEq + std::fmt::Debug + Send + 'static>(corpus: &str, run: fn(&[u8]) -> T) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(corpus);
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let inputs: Vec<Vec<u8>> = paths.map(|path| std::fs::read(path).unwrap()).collect();
    let alone: Vec<T> = inputs.iter().cloned().map(|input| std::thread::spawn(move || run(&input)).join().unwrap()).collect();
    for (input, alone) in inputs.iter().zip(&alone) {
        assert_eq!(run(input), *alone);
        assert_eq!(run(input), *alone);
    }
    for (input, alone) in inputs.iter().zip(&alone).rev() {
        assert_eq!(run(input), *alone);
    }
}

/// Reads an input from its front. At its end there are zeros, or fewer bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let front = self.bytes(N);
        array[..front.len()].copy_from_slice(front);
        array
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }
}
