//! What is looked at while frames walk, and how it leaves: a filter, a bounded way out of the packet path, pcapng.
#![forbid(unsafe_code)]
