//! The queueing disciplines of all interfaces, over rtnetlink.

use rtt0_netio::attached;
pub use rtt0_netio::attached::{Limit, Queue};

use super::{Seen, refused};

/// Reads them all.
pub(in crate::look) fn read() -> Seen<Vec<Queue>> {
    attached::queues().map_err(|error| refused("RTM_GETQDISC", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_lists_them() {
        read().unwrap();
    }
}
