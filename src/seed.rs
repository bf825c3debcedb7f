//! Random keys for hash tables, so that strangers cannot choose addresses that collide.

use anyhow::Context;

/// Two random numbers, new with each start.
pub(crate) fn random_seed() -> anyhow::Result<[u64; 2]> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("drawing random numbers")?;
    let (first, second) = bytes.split_at(8);
    let number = |half: &[u8]| half.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok([number(first), number(second)])
}
