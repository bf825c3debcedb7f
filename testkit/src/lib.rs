//! What tests, benches and fuzz targets share: frames and packets, and switches in simulated time.
//!
//! | module | holds | feature |
//! |---|---|---|
//! | [`frames`], [`packets`] | Ethernet frames and IPv4 packets, field by field | |
//! | [`checksum`] | the Internet checksum by its definition | |
//! | [`wire`] | what the receiver of a write sees | |
//! | `strategies` | frames for property tests | `strategies` |
//! | `nat_model` | the reference model of the translation | `nat-model` |
//! | `bridge`, `lab`, `overlay` | a pipeline whose writes are kept; with a router; several, joined by tunnels | `lab` |
//! | `guests` | hosts with a TCP/IP stack on those switches | `lab` |
//!
//! Only for integration tests, benches and fuzz targets. A unit test inside `packet` or `nat` would see two copies of
//! its own crate, so those keep to literal bytes.
#![forbid(unsafe_code)]

#[cfg(feature = "lab")]
pub mod bridge;
pub mod checksum;
pub mod frames;
#[cfg(feature = "lab")]
pub mod guests;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "nat-model")]
pub mod nat_model;
#[cfg(feature = "lab")]
pub mod overlay;
pub mod packets;
#[cfg(feature = "strategies")]
pub mod strategies;
pub mod wire;

/// The number of cases of a property whose cases are whole switches: `usual`, or what `PROPTEST_CASES` says, as for other
/// properties.
#[must_use]
pub fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}
