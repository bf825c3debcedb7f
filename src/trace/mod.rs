//! Imaginary packets, and the text of stories.
//!
//! Values that a packet's [`Words`] leave out are [`assumed`](Assumed) as a guest would set them, and reported. The switch's
//! [`Rehearsal`](vswitch::Rehearsal) processes the packet; [`telling`] turns each [`Step`](vswitch::Step) of a story, imagined
//! or real, into a line.

mod packet;
mod reach;
mod telling;

pub(crate) use packet::{Assumed, Surroundings, Words};
pub(crate) use reach::Elsewhere;
pub(crate) use telling::{Names, story};
