//! Frames as bytes: headers, checksums, offloads, batches. Every crate that handles frames uses it.
//!
//! Nothing here knows of sockets, clocks, threads or tables. A frame enters as untrusted bytes;
//! [`Headers::parse`] checks every length once, and its result can be used without checking again. Header files follow
//! one order: newtypes, offsets, view, checked constructor, getters, `Display`, tests on literal bytes.
#![forbid(unsafe_code)]

pub mod arp;
pub mod batch;
pub mod checksum;
pub mod coalesce;
pub mod datagram;
pub mod ethernet;
pub mod fragment;
pub mod head;
pub mod headers;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv4_options;
pub mod ipv6;
pub mod mac;
pub mod offload;
pub mod options;
pub mod port_set;
pub mod prefix;
pub mod segment;
pub mod tcp;
pub mod time;
pub mod udp;
pub mod vlan;
pub mod vnet;

pub use batch::{Batch, Span};
pub use checksum::Checksum;
pub use datagram::Datagram;
pub use ethernet::EtherType;
pub use headers::{Headers, Malformed, Network, Transport};
pub use mac::MacAddr;
pub use offload::{Features, Offload, Segmentation, SegmentationKind};
pub use port_set::PortSet;
pub use prefix::{Ipv4Prefix, Ipv6Prefix, Prefix};
pub use time::Timestamp;
pub use vlan::{Tag, VlanId};
pub use vnet::{VNET_LEN, VnetHeader};
