//! Isolated ports against a model: any ports, any frames.

use proptest::prelude::*;
use testkit::bridge::{Bridge, port};
use vswitch::{DropReason, Port, PortId, PortVlan};

const PORTS: u16 = 5;

/// Station `n` is behind port `n`; 9 is nowhere, and 255 is everybody.
fn mac(n: u8) -> [u8; 6] {
    if n == 255 { [255; 6] } else { [2, 0, 0, 0, 0, n] }
}

fn frame(src: u16, dst: u8) -> Vec<u8> {
    [&mac(dst)[..], &mac(src as u8), &[0x88, 0xb5], &[0; 46]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// A frame reaches whom it is for, or everybody if that is unknown; but never an isolated port from an isolated port.
    #[test]
    fn isolated_ports_reach_only_others(
        isolated in prop::collection::vec(any::<bool>(), usize::from(PORTS)),
        frames in prop::collection::vec((0..PORTS, prop::sample::select(vec![0u8, 1, 2, 3, 4, 9, 255])), 1..40),
    ) {
        let ports = isolated.iter().map(|isolated| Port { isolated: *isolated, ..port(PortVlan::default()) });
        let mut bridge = Bridge::new(ports);
        let mut known = [false; PORTS as usize];
        for (from, to) in frames {
            known[usize::from(from)] = true;
            let is_known = known.get(usize::from(to)).copied().unwrap_or(false);
            let reached = |port: u16| {
                let is_meant = if is_known { port == u16::from(to) } else { true };
                is_meant && port != from && !(isolated[usize::from(from)] && isolated[usize::from(port)])
            };
            let expected: Vec<PortId> = (0..PORTS).filter(|port| reached(*port)).map(PortId).collect();
            let before = bridge.dropped(DropReason::PortIsolated);
            let reality: Vec<PortId> = bridge.run(from, &[frame(from, to)]).into_iter().map(|(port, ..)| port).collect();
            prop_assert_eq!(&reality, &expected);
            let is_dropped = expected.is_empty() && !(is_known && u16::from(to) == from);
            prop_assert_eq!(bridge.dropped(DropReason::PortIsolated) - before, u64::from(is_dropped));
        }
    }
}
