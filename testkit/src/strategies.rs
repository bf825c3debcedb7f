//! Generators of frames for property tests.

use proptest::prelude::*;

use crate::frames::Spec;

/// Any [`Spec`] with a payload of at most `payload` bytes.
pub fn specs(payload: usize) -> impl Strategy<Value = Spec> {
    let tag = (prop_oneof![Just(0x8100u16), Just(0x88a8)], any::<u16>());
    let ethernet = (any::<[u8; 6]>(), any::<[u8; 6]>(), prop::collection::vec(tag, 0..=2));
    let ip =
        (any::<bool>(), any::<(u8, u8)>(), any::<u8>(), any::<u8>(), any::<u16>(), prop_oneof![4 => Just(0), 1 => 1usize..=10]);
    let options = (0usize..=10).prop_flat_map(|words| prop::collection::vec(Just(1u8), 4 * words));
    let transport = (any::<bool>(), any::<(u16, u16)>(), any::<(u32, u32)>(), any::<u8>(), any::<u16>(), options);
    (ethernet, ip, transport, prop::collection::vec(any::<u8>(), 0..=payload)).prop_map(|(ethernet, ip, transport, payload)| {
        let (dst, src, tags) = ethernet;
        let (v6, hosts, traffic_class, ttl, id, ip_options) = ip;
        let (tcp, ports, (sequence, acknowledgment), flags, window, options) = transport;
        Spec {
            dst,
            src,
            tags,
            v6,
            tcp,
            hosts,
            ports,
            traffic_class,
            ttl,
            id,
            ip_options,
            sequence,
            acknowledgment,
            flags,
            window,
            options,
            payload,
        }
    })
}
