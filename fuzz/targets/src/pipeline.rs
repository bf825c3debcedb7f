//! The switch: any frames through four ports of different settings.

use std::io::IoSlice;
use std::sync::Arc;

use packet::offload::Judged;
use packet::vlan::VlanId;
use packet::{Batch, Features, Headers, Offload, Timestamp, VNET_LEN, VnetHeader};
use vswitch::{
    BridgeId, Coalesce, Counters, Egress, MacTable, MacTableConfig, Pipeline, Port, PortCounters, PortId, PortKind, PortVlan,
    SendError, StormLimits, VlanSet,
};

use crate::Reader;
use crate::frame::make_sound;

const PORTS: u16 = 4;

/// Records of a control byte, a virtio-net header and a frame. No frame leaves by its ingress port, all writes are
/// valid and within the features of their port, and the frame counters balance after every batch.
pub fn pipeline(data: &[u8]) {
    let mut input = Reader(data);
    let table = Arc::new(MacTable::new(MacTableConfig { size: 16, ports: usize::from(PORTS), ..MacTableConfig::default() }));
    let counters = Arc::new(Counters::new(usize::from(PORTS)));
    let mut pipeline = Pipeline::new(table, usize::from(PORTS), Arc::clone(&counters));
    for (index, port) in ports().into_iter().enumerate() {
        pipeline.set_port(PortId(index as u16), Some(port));
    }
    let mut egress = Egress::new(usize::from(PORTS));
    let mut batch = Batch::new();
    let mut now = 0;
    while !input.is_empty() {
        batch.clear();
        let control = input.u8();
        let ingress = PortId(u16::from(control & 3));
        for _ in 0..=control >> 4 {
            let Some((vnet, frame)) = read_frame(&mut input) else { break };
            if !batch.push(vnet, &frame) {
                break;
            }
        }
        now += u64::from(control & 4) * 30;
        let refuse = control & 8 != 0;
        pipeline.process(ingress, &mut batch, Timestamp::from_secs(now), &mut egress);
        let features: Vec<Features> =
            (0..PORTS).map(|id| pipeline.port_mut(PortId(id)).map_or(Features::NONE, |port| port.features)).collect();
        pipeline.transmit(&batch, &mut egress, |port: PortId, pieces: &[IoSlice<'_>]| {
            assert_ne!(port, ingress, "a frame went back");
            let is_super_frame = check_write(pieces, features[port.index()]);
            if refuse && is_super_frame { Err(SendError::Invalid) } else { Ok(()) }
        });
        assert_balance(&counters);
    }
}

fn ports() -> [Port; PORTS as usize] {
    let ten = VlanId::new(10).unwrap_or_default();
    let port = |vlan, features, coalesce| Port {
        bridge: BridgeId::default(),
        vlan,
        mtu: 1500,
        features,
        coalesce,
        bursts: false,
        kind: PortKind::Link,
        limits: StormLimits::NONE,
        guard: None,
        isolated: false,
    };
    [
        port(PortVlan::default(), Features::ALL, Coalesce::Flows),
        port(PortVlan::access(ten), Features::NONE, Coalesce::Flows),
        port(
            PortVlan::native_untagged(ten, VlanSet::all()),
            Features { tso6: false, tso_ecn: false, ..Features::ALL },
            Coalesce::Neighbours,
        ),
        Port { mtu: 576, ..port(PortVlan::default(), Features::ALL.without_segmentation(), Coalesce::Off) },
    ]
}

fn read_frame(input: &mut Reader<'_>) -> Option<(VnetHeader, Vec<u8>)> {
    if input.is_empty() {
        return None;
    }
    let control = input.u8();
    let mut vnet = VnetHeader::from_bytes(&input.array::<VNET_LEN>());
    let len = usize::from(input.u16()) & 0xfff;
    let mut frame = input.bytes(len).to_vec();
    if control & 1 != 0 {
        let sound = make_sound(&mut frame, control & 2 != 0);
        if control & 4 != 0 {
            vnet = sound;
        }
    }
    Some((vnet, frame))
}

/// Whether it is a super-frame.
fn check_write(pieces: &[IoSlice<'_>], features: Features) -> bool {
    let write: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
    let (front, frame) = write.split_at(VNET_LEN);
    let vnet = VnetHeader::from_bytes(front.try_into().unwrap_or(&[0; VNET_LEN]));
    assert_eq!(vnet.to_bytes(), front, "stale bytes in the header");
    let Ok(headers) = Headers::parse(frame) else { panic!("malformed frame written") };
    let Ok(Judged::Accept(offload)) = Offload::judge(vnet, &headers, frame.len()) else { panic!("bad header written: {vnet:?}") };
    assert!(features.take(offload), "{offload:?} for {features:?}");
    assert!(vnet.gso_type == 0 || offload.segmentation.is_some());
    offload.segmentation.is_some()
}

fn assert_balance(counters: &Counters) {
    let sum =
        |count: &dyn Fn(&PortCounters) -> u64| -> u64 { (0..PORTS).filter_map(|id| counters.port(PortId(id))).map(count).sum() };
    let entered = sum(&|port| port.rx_frames.load() + port.copies.load());
    let dropped = sum(&PortCounters::all_dropped);
    assert_eq!(
        entered,
        sum(&|port| port.tx_frames.load()) + dropped,
        "frames in + copies + made differ from frames out + drops + taken"
    );
}
