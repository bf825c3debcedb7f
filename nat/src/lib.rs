//! Network address translation: a function of bytes and time, without sockets, clocks or threads.
#![forbid(unsafe_code)]

pub mod fragments;
pub mod tcp;
