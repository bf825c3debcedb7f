//! The switching fabric as the control thread sees it: the numbers of ports and what was counted by them.

pub(crate) mod report;
pub(crate) mod slots;
