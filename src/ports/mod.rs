//! The ports that frames of guests come and go by: their devices and the life of each.

pub(crate) mod device;
mod managed;

pub(crate) use managed::{Found, ManagedPort};
