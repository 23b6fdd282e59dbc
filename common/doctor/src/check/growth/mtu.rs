//! Packets that are larger than the next link takes.

use super::Growth;
use crate::causes::{MTU_BLACK_HOLE, PACKET_TOO_BIG};
use crate::finding::{Layer, Rank};
use crate::report::Report;

/// What counts packets not sent on because of their size, and what counts that their senders were told.
const TOO_BIG: [&str; 2] = ["IpFragFails", "Ip6FragFails"];
const TOLD: [&str; 2] = ["IcmpOutDestUnreachs", "Icmp6OutPktTooBigs"];
/// As many as a sender has under way before it learns of it are how path MTU discovery works.
const LEARNING: u64 = 25;
/// Fewer say nothing about answers that are missing.
const FEW: u64 = 3;

pub(super) fn judge(growth: &Growth<'_>, report: &mut Report) {
    let (lost, told) = (growth.sum(&TOO_BIG), growth.sum(&TOLD));
    let cause = match () {
        () if lost >= FEW && told == 0 => (&MTU_BLACK_HOLE, Rank::Loss),
        () if lost >= LEARNING => (&PACKET_TOO_BIG, Rank::Symptom),
        () => return,
    };
    let names = [&TOO_BIG[..], &TOLD].concat();
    report.find(growth.found(cause.0, (Layer::Ip, cause.1), lost, &names).mended_by(
        "see that the senders get ICMP's answers (type 3 code 4, ICMPv6 type 2), which firewalls must let \
         pass; give all links of the way the same MTU, or bound TCP's segments (tcp option maxseg size \
         set rt mtu)",
    ));
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, interval};
    use super::*;

    #[test]
    fn path_mtu_discovery_is_healthy_until_it_does_not_end() {
        let growth = [("IpFragFails", 10), ("IcmpOutDestUnreachs", 10)];
        assert_eq!(found(&interval(growth), judge), []);
        let growth = [("IpFragFails", 40), ("IcmpOutDestUnreachs", 40)];
        assert_eq!(found(&interval(growth), judge), [("packet-too-big", Rank::Symptom, 40)]);
    }

    #[test]
    fn a_router_that_tells_nobody_is_a_black_hole() {
        assert_eq!(found(&interval([("IpFragFails", 3)]), judge), [("mtu-black-hole", Rank::Loss, 3)]);
    }
}
