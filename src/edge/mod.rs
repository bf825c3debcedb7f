//! The switch's edge: the uplink, and the control side of the router that translates behind it.

pub(crate) mod reserve;
pub(crate) mod router;
pub(crate) mod uplink;
