//! Frames moved, cut and grown in place, compared with frames in vectors.

use packet::batch::{HEADROOM, MIN_FRAME_LEN};
use packet::{Batch, VnetHeader};
use proptest::prelude::*;

/// One change of a frame.
#[derive(Clone, Copy, Debug)]
enum Change {
    SetLen(usize),
    MoveStart(isize),
    Fill(u8),
}

fn changes() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let change = prop_oneof![
        (0usize..300).prop_map(Change::SetLen),
        (-70isize..300).prop_map(Change::MoveStart),
        any::<u8>().prop_map(Change::Fill),
    ];
    prop::collection::vec((0usize..9, change), 0..60)
}

fn vnet(index: usize) -> VnetHeader {
    VnetHeader { gso_size: index as u16 + 1, ..VnetHeader::default() }
}

/// The batch makes the change exactly if it reports so, and to this frame only.
fn apply(batch: &mut Batch, model: &mut [Vec<u8>], index: usize, change: Change) -> Result<(), TestCaseError> {
    let before = batch.spans().to_vec();
    match change {
        Change::SetLen(len) => {
            let span = batch.set_len(index, len);
            prop_assert!(span.is_some() || index >= model.len() || len > model[index].len());
            if span.is_some() {
                model[index].resize(len, 0);
            }
            prop_assert_eq!(span, span.map(|_| batch.spans()[index]));
        }
        Change::MoveStart(by) => {
            let span = batch.move_start(index, by);
            prop_assert_eq!(span, span.map(|_| batch.spans()[index]));
            match (span, usize::try_from(by)) {
                (Some(_), Ok(by)) => drop(model[index].drain(..by)),
                (Some(_), Err(_)) => drop(model[index].splice(0..0, vec![0; by.unsigned_abs()])),
                (None, Ok(by)) => prop_assert!(index >= model.len() || by > model[index].len()),
                (None, Err(_)) => prop_assert_eq!(batch.spans(), &before[..]),
            }
        }
        Change::Fill(byte) => {
            if let Some(span) = before.get(index) {
                batch.frame_mut(*span).fill(byte);
                model[index].fill(byte);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn frames_never_touch_each_other(
        lens in prop::collection::vec(0usize..200, 1..8),
        changes in changes(),
        strided in any::<bool>(),
    ) {
        let mut batch = if strided { Batch::strided(lens.len()) } else { Batch::new() };
        let mut model: Vec<Vec<u8>> = lens.iter().enumerate().map(|(at, len)| vec![0xa0 + at as u8; *len]).collect();
        for (index, frame) in model.iter().enumerate() {
            prop_assert!(batch.push(vnet(index), frame));
        }
        for (index, change) in changes {
            apply(&mut batch, &mut model, index, change)?;
            for (index, (span, frame)) in batch.spans().iter().zip(&model).enumerate() {
                prop_assert_eq!(batch.frame(*span), &frame[..]);
                prop_assert_eq!(batch.vnet(*span), vnet(index));
            }
        }
    }

    #[test]
    fn what_is_promised_fits(lens in prop::collection::vec(0usize..200, 1..8), index in any::<prop::sample::Index>()) {
        let mut batch = Batch::new();
        for len in &lens {
            prop_assert!(batch.push(VnetHeader::default(), &vec![0xaa; *len]));
        }
        let index = index.index(lens.len());
        prop_assert!(batch.set_len(index, MIN_FRAME_LEN).is_some());
        prop_assert!(batch.move_start(index, -(HEADROOM as isize)).is_some());
        prop_assert!(batch.set_len(index, MIN_FRAME_LEN + HEADROOM).is_some());
    }
}
