//! `wait=`, `transient=`: what becomes of a port while its device or namespace is not there.
//!
//! A port outlives its device by default: whoever makes the device anew finds its VLANs, limits and counters. A device that is missing
//! when the port is made is an error, because a wrong name shows at once then.

use crate::keys::keys;

keys! {
    /// The keys of ports whose devices come and go.
    struct AbsenceKeys {
        /// The port waits for its device or namespace if that is not there yet, of tap and packet. Default: false, an error.
        "wait" => wait: bool,
        /// The port is removed when its device or namespace is gone, of tap and packet. Default: false, it waits for another.
        "transient" => transient: bool,
    }
}

/// What becomes of a port without its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Absence {
    /// It waits for a device that is not there yet.
    pub waits: bool,
    /// It goes with its device.
    pub is_transient: bool,
}

impl AbsenceKeys {
    pub(super) fn absence(&self) -> Absence {
        let is_on = |key: &Option<crate::problem::At<bool>>| key.as_ref().is_some_and(|key| key.value);
        Absence { waits: is_on(&self.wait), is_transient: is_on(&self.transient) }
    }
}

impl Absence {
    pub(super) fn keys_text(self) -> &'static str {
        match (self.waits, self.is_transient) {
            (false, false) => "",
            (true, false) => ", waits for its device",
            (false, true) => ", transient",
            (true, true) => ", waits for its device, transient",
        }
    }
}
