//! Packets that arrive with wrong checksums.

use super::Growth;
use crate::causes::CHECKSUM_ERRORS;
use crate::finding::{Layer, Rank};
use crate::report::Report;

/// Fewer happen on every long path.
const FEW: u64 = 3;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let ip = ["IpExtInCsumErrors", "IcmpInCsumErrors", "Icmp6InCsumErrors"];
    let transport = ["TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"];
    for (layer, names) in [(Layer::Ip, ip), (Layer::Transport, transport)] {
        let wrong = growth.sum(&names);
        if wrong >= FEW {
            report.find(growth.found(&CHECKSUM_ERRORS, (layer, Rank::Loss), wrong, &names).mended_by(
                "if they come from a virtual machine or a packet socket, they were sent before their \
                 checksums were filled in: turn off the offload at their sender (ethtool -K DEVICE tx \
                 off); else look for what changes packets on the way without mending the checksum, or a \
                 broken device",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn each_layer_has_its_own() {
        let growth = [("TcpInCsumErrors", 2), ("UdpInCsumErrors", 1), ("IpExtInCsumErrors", 3)];
        let both = [("checksum-errors", Rank::Loss, 3), ("checksum-errors", Rank::Loss, 3)];
        assert_eq!(found(&interval(growth), judge), both);
        assert_eq!(found(&interval([("TcpInCsumErrors", 2)]), judge), []);
    }
}
