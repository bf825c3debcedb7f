//! Imaginary packets and what is told of real ones, in words.
//!
//! What a packet's [`Words`] leave open is [`assumed`](Assumed) as a guest would have it, and said. The switch's
//! [`Rehearsal`](vswitch::Rehearsal) walks it; each [`Step`](vswitch::Step) of a story, imagined or real, becomes a
//! line by [`telling`].

mod packet;
mod telling;

pub(crate) use packet::{Assumed, Surroundings, Words};
pub(crate) use telling::{Names, story};
