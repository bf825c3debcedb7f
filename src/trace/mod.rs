//! Imaginary packets, and the text of stories.
//!
//! Values that a packet's [`Words`] leave out are [`assumed`](Assumed) as a guest would set them, and reported. The switch's
//! [`Rehearsal`](vswitch::Rehearsal) processes the packet; [`telling`] turns each [`Step`](vswitch::Step) of a story, imagined
//! or real, into a line, and [`headers`] the start of its frame. Stories of real packets come from several workers, each in its own
//! order: [`Ordered`] sorts them by time.

mod headers;
mod ordered;
mod packet;
mod reach;
mod telling;

pub(crate) use ordered::Ordered;
pub(crate) use packet::{Assumed, Surroundings, Words};
pub(crate) use reach::Elsewhere;
pub(crate) use telling::{Names, story};
