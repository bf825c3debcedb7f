//! A connection that was decided on and is not yet one: nothing has been taken for it.

use crate::decision::Basis;
use crate::table::{Id, SlotId, Tuples};
use crate::tuple::{Endpoint, Side};

/// Everything that [`Book::admit`](crate::book::Book::admit) takes for a new connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) tuples: Tuples,
    /// The reason why it opens.
    pub(crate) basis: Basis,
    /// The hashes of both tuples.
    pub(crate) hashes: [u64; 2],
    /// A free slot for each tuple.
    pub(crate) slots: [SlotId; 2],
    /// The bridge port that its first packet came through.
    pub(crate) owner: u16,
    pub(crate) guest: GuestClaim,
    pub(crate) mapping: MappingClaim,
    /// A half-open connection whose place it takes.
    pub(crate) victim: Option<Id>,
}

impl Pending {
    /// The guest's endpoint.
    pub(crate) fn inside(&self) -> Endpoint {
        let Tuples { original, reply } = self.tuples;
        if original.side == Side::Inside { original.src } else { reply.src }
    }
}

/// The guest of a pending connection, and the outside address that it is paired with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GuestClaim {
    /// It has connections already.
    Known { number: u32, external: u8 },
    /// It has none.
    New { external: u8 },
}

impl GuestClaim {
    pub(crate) fn external(self) -> u8 {
        match self {
            GuestClaim::Known { external, .. } | GuestClaim::New { external } => external,
        }
    }
}

/// The mapping of a pending connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MappingClaim {
    /// It needs none.
    None,
    /// It uses this one.
    Known(u32),
    /// It gets a new one, with this outside port.
    New { external: u8, port: u16 },
}
