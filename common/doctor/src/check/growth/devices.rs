//! Network devices: rings, broken frames, what the driver drops, and whose frames arrive.

use std::collections::BTreeMap;

use super::{Growth, STRAYS, grown, is_share, percent};
use crate::causes::{DEVICE_ERRORS, DEVICE_RX_DROP, DEVICE_TX_DROP, NO_CARRIER, WRONG_MAC};
use crate::finding::{Cause, Finding, Layer, Rank};
use crate::look::counters::Counters;
use crate::look::counters::links::{Counts, Link};
use crate::patient::Patient;
use crate::report::Report;

/// What the kernel calls frames that no protocol takes.
const UNHANDLED: [&str; 2] = ["UNHANDLED_PROTO", "PTYPE_ABSENT"];
/// Frames for others that a switch floods before it has learned.
const FLOODED: u64 = 10;
/// What the names of drivers' counters have in them that count drops, and not errors.
const DROPS: [&str; 9] =
    ["drop", "discard", "miss", "fifo", "overrun", "exceeded", "no_buf", "out_of_buf", "alloc_fail"];

/// Judges the patient's interfaces; `backlogged` packets were dropped after their devices had received them.
pub(super) fn judge(patient: &Patient, growth: &Growth<'_>, backlogged: u64, report: &mut Report) {
    for name in &patient.interfaces {
        if let Some(device) = Device::of(name, growth) {
            device.receiving(backlogged, report);
            device.sending(report);
            device.carrier(report);
        }
    }
}

/// One device, and what has grown.
struct Device<'a> {
    name: &'a str,
    link: &'a Link,
    was: &'a Link,
    /// The driver's own counters that have grown.
    driver: BTreeMap<&'a str, u64>,
    growth: &'a Growth<'a>,
}

impl<'a> Device<'a> {
    /// None if it is not there, down, or another by the same name.
    fn of(name: &'a str, growth: &'a Growth<'a>) -> Option<Self> {
        let link = |counters: &'a Counters| counters.links.as_ref().ok()?.get(name);
        let (was, link) = (link(growth.before())?, link(growth.after())?);
        let driver = driver(growth, name);
        (was.index == link.index && link.is_up).then_some(Self { name, link, was, driver, growth })
    }

    fn count(&self, counter: impl Fn(&Counts) -> u64) -> u64 {
        grown(counter(&self.was.counts), counter(&self.link.counts))
    }

    fn found(&self, cause: &'static Cause, rank: Rank, lost: u64) -> Finding {
        let name = self.name;
        Finding::new(cause, Layer::Device, rank)
            .of(name)
            .losing(lost)
            .seen_by(format!("ip -s -s link show dev {name}; ethtool -S {name}"))
    }

    /// Adds a sentence for each counter that has grown, the driver's of that direction (`rx` or `tx`) among them.
    fn told(&self, mut finding: Finding, direction: &str, counters: &[(&str, u64)]) -> Finding {
        for (name, count) in counters.iter().filter(|(_, count)| *count > 0) {
            finding = finding.because(self.growth.rate(&format!("{name} of {}", self.name), *count));
        }
        for (name, count) in self.drops(direction).take(5) {
            finding = finding.because(self.growth.rate(&format!("the driver's {name}"), count));
        }
        finding
    }

    /// Returns the driver's counters of drops in a direction that have grown. What XDP drops is meant to be dropped.
    fn drops(&self, direction: &str) -> impl Iterator<Item = (&'a str, u64)> {
        let is_tx = direction == "tx";
        self.driver.iter().map(|(name, count)| (*name, *count)).filter(move |(name, _)| {
            let name = name.to_ascii_lowercase();
            let sends = name.contains("tx") || name.contains("_out_");
            sends == is_tx && !name.contains("xdp") && DROPS.iter().any(|part| name.contains(part))
        })
    }

    fn receiving(&self, backlogged: u64, report: &mut Report) {
        let received = self.count(|counts| counts.rx_packets);
        let ring = [
            ("rx_missed_errors", self.count(|counts| counts.rx_missed_errors)),
            ("rx_fifo_errors", self.count(|counts| counts.rx_fifo_errors)),
            ("rx_over_errors", self.count(|counts| counts.rx_over_errors)),
        ];
        // Drivers count the same in several of them.
        let overrun = ring.iter().map(|(_, count)| *count).max().unwrap_or_default();
        if overrun >= STRAYS && is_share(overrun, received, 1) {
            let finding = self.found(&DEVICE_RX_DROP, Rank::Loss, overrun);
            report.find(self.told(finding, "rx", &ring).mended_by(
                "the host takes packets too slowly out of the device's ring: make it longer (ethtool -G), \
                 spread the work over more processors (RSS, irqbalance)",
            ));
        } else if let Some(finding) = self.rx_dropped(received, backlogged) {
            report.find(finding);
        }
        let broken = self.count(|counts| counts.rx_errors).saturating_sub(overrun);
        if broken >= STRAYS && is_share(broken, received, 1) {
            let finding = self.found(&DEVICE_ERRORS, Rank::Loss, broken);
            let counters = [
                ("rx_errors", broken),
                ("rx_crc_errors", self.count(|counts| counts.rx_crc_errors)),
                ("rx_length_errors", self.count(|counts| counts.rx_length_errors)),
                ("rx_frame_errors", self.count(|counts| counts.rx_frame_errors)),
            ];
            report.find(self.told(finding, "rx", &counters).mended_by(
                "wrong check sequences and framing: cable, connector, duplex; wrong lengths: the other \
                 side's MTU is larger",
            ));
        }
        self.others_frames(received, report);
    }

    fn rx_dropped(&self, received: u64, backlogged: u64) -> Option<Finding> {
        let unhandled = self.unhandled();
        let dropped = self.count(|counts| counts.rx_dropped);
        let dropped = dropped.saturating_sub(backlogged + unhandled.unwrap_or_default());
        let told = self.drops("rx").map(|(_, count)| count).max().unwrap_or_default();
        // Without the kernel's reasons, frames that no protocol takes can't be told from the others.
        let (few, share) = if unhandled.is_some() || told > 0 { (10, 10) } else { (50, 50) };
        let lost = dropped.max(told);
        if lost < few || !is_share(lost, received, share) {
            return None;
        }
        // A cloud's limits are the whole reason; else the packets may be such as nobody wants.
        let is_limit = self.drops("rx").any(|(name, count)| count > 0 && name.contains("exceeded"));
        let rank = if is_limit { Rank::Loss } else { Rank::Symptom };
        let finding = self.found(&DEVICE_RX_DROP, rank, lost);
        let mut finding = self.told(finding, "rx", &[("rx_dropped", dropped)]);
        if unhandled.is_none() {
            finding =
                finding.because("frames of protocols that this host does not have count as dropped, too");
        }
        Some(finding.mended_by(
            "see what the driver says (ethtool -S, dmesg); an allowance that is exceeded is the cloud's: \
             take a larger instance, or send less",
        ))
    }

    /// Returns the frames that no protocol took; none if the kernel's reasons are unknown.
    fn unhandled(&self) -> Option<u64> {
        let drops = self.growth.interval.drops.as_ref().ok()?;
        let here = drops.iter().filter(|drop| drop.interface == self.link.index);
        Some(here.filter(|drop| UNHANDLED.contains(&drop.reason.as_str())).map(|drop| drop.packets).sum())
    }

    fn others_frames(&self, received: u64, report: &mut Report) {
        let others = self.count(|counts| counts.rx_otherhost_dropped);
        if self.link.is_promiscuous || others < FLOODED || !is_share(others, received, 20) {
            return;
        }
        let finding = self
            .found(&WRONG_MAC, Rank::Loss, others)
            .because(self.growth.rate(&format!("rx_otherhost_dropped of {}", self.name), others))
            .because(format!(
                "that is {} of what it received, and it is not promiscuous",
                percent(others, received)
            ));
        report.find(finding.mended_by(format!(
            "see whose Ethernet address they have (tcpdump -eni {}): a sender with an old neighbour \
             entry, or one that sends frames on with the addresses they came with",
            self.name
        )));
    }

    fn sending(&self, report: &mut Report) {
        let sent = self.count(|counts| counts.tx_packets);
        let counters = [
            ("tx_dropped", self.count(|counts| counts.tx_dropped)),
            ("tx_errors", self.count(|counts| counts.tx_errors)),
            ("tx_carrier_errors", self.count(|counts| counts.tx_carrier_errors)),
            ("tx_aborted_errors", self.count(|counts| counts.tx_aborted_errors)),
            ("tx_fifo_errors", self.count(|counts| counts.tx_fifo_errors)),
        ];
        let own = self.drops("tx").map(|(_, count)| count).max().unwrap_or_default();
        let lost = counters.iter().map(|(_, count)| *count).max().unwrap_or_default().max(own);
        if lost < STRAYS || !is_share(lost, sent, 5) {
            return;
        }
        let finding = self.found(&DEVICE_TX_DROP, Rank::Loss, lost);
        report.find(self.told(finding, "tx", &counters).mended_by(
            "see what the driver says (dmesg, ethtool -S): no carrier, a peer that is down or takes only \
             smaller packets (MTU), a reader of a TUN device that is too slow, an offload that fails, a \
             cloud's limit",
        ));
    }

    fn carrier(&self, report: &mut Report) {
        let losses = |link: &Link| link.carrier_losses.map(u64::from);
        let (Some(before), Some(after)) = (losses(self.was), losses(self.link)) else { return };
        let lost = grown(before, after);
        if lost > 0 {
            let name = self.name;
            report.find(
                self.found(&NO_CARRIER, Rank::Symptom, 0)
                    .because(
                        self.growth
                            .rate(&format!("the number of times that {name} has lost its carrier"), lost),
                    )
                    .seen_by(format!(
                        "ip -d link show dev {name}; cat /sys/class/net/{name}/carrier_down_count"
                    ))
                    .mended_by("look at the cable, and at the device at its other end"),
            );
        }
    }
}

/// Returns a driver's counters that have grown.
fn driver<'a>(growth: &'a Growth<'a>, name: &str) -> BTreeMap<&'a str, u64> {
    let counters = |counters: &'a Counters| counters.drivers.get(name)?.as_ref().ok();
    let (Some(before), Some(after)) = (counters(growth.before()), counters(growth.after())) else {
        return BTreeMap::new();
    };
    after
        .iter()
        .filter_map(|(name, count)| Some((name.as_str(), grown(*before.get(name)?, *count))))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::interval;
    use super::*;
    use crate::look::interval::Interval;
    use crate::patient::Role;
    use rtt0_core::service::Services;

    /// An interval in which one device has received and sent a thousand packets, and lost some.
    fn losing(lost: Counts, driver: &[(&str, u64)]) -> Interval {
        let mut interval = interval([]);
        let counts = Counts { rx_packets: 1000, tx_packets: 1000, ..lost };
        let links = |counts| {
            let link = Link { index: 2, is_up: true, carrier_losses: Some(1), counts, ..Link::default() };
            Ok([("eth0".to_owned(), link)].into())
        };
        interval.before.links = links(Counts::default());
        interval.after.links = links(counts);
        let drivers = |times| {
            let counters = driver.iter().map(|(name, count)| ((*name).to_owned(), count * times)).collect();
            [("eth0".to_owned(), Ok(counters))].into()
        };
        interval.before.drivers = drivers(0);
        interval.after.drivers = drivers(1);
        interval
    }

    fn found(interval: &Interval) -> Vec<(&'static str, Rank, u64)> {
        let services = Services::new(Vec::new(), Vec::new());
        let patient =
            Patient { role: Role::Host, interfaces: vec!["eth0".to_owned()], services, daemon: None };
        super::super::tests::found(interval, |growth, report| judge(&patient, growth, 0, report))
    }

    #[test]
    fn rings_that_overrun_are_losses_and_a_few_of_many_are_not() {
        let ring = |rx_missed_errors| Counts { rx_missed_errors, ..Counts::default() };
        assert_eq!(found(&losing(ring(30), &[])), [("device-rx-drop", Rank::Loss, 30)]);
        assert_eq!(found(&losing(ring(4), &[])), []);
    }

    #[test]
    fn drops_without_a_reason_need_more_of_them() {
        let dropped = |rx_dropped| Counts { rx_dropped, ..Counts::default() };
        assert_eq!(found(&losing(dropped(49), &[])), []);
        assert_eq!(found(&losing(dropped(50), &[])), [("device-rx-drop", Rank::Symptom, 50)]);
        let known = |count| {
            let mut interval = losing(dropped(count), &[]);
            interval.drops = Ok(Vec::new());
            found(&interval)
        };
        assert_eq!(known(12), [("device-rx-drop", Rank::Symptom, 12)]);
        assert_eq!(known(9), []);
    }

    #[test]
    fn a_cloud_s_limits_are_losses_of_their_direction() {
        let limit = losing(Counts::default(), &[("bw_in_allowance_exceeded", 70)]);
        assert_eq!(found(&limit), [("device-rx-drop", Rank::Loss, 70)]);
        let limit = losing(Counts::default(), &[("bw_out_allowance_exceeded", 70)]);
        assert_eq!(found(&limit), [("device-tx-drop", Rank::Loss, 70)]);
        assert_eq!(found(&losing(Counts::default(), &[("rx_queue_0_xdp_drops", 70)])), []);
    }

    #[test]
    fn broken_frames_and_unsent_packets_are_losses() {
        let broken = Counts { rx_errors: 9, rx_crc_errors: 9, ..Counts::default() };
        assert_eq!(found(&losing(broken, &[])), [("device-errors", Rank::Loss, 9)]);
        let unsent = Counts { tx_dropped: 9, ..Counts::default() };
        assert_eq!(found(&losing(unsent, &[])), [("device-tx-drop", Rank::Loss, 9)]);
    }

    #[test]
    fn others_frames_are_wrong_unless_they_are_asked_for() {
        let others = Counts { rx_otherhost_dropped: 20, ..Counts::default() };
        let mut interval = losing(others, &[]);
        assert_eq!(found(&interval), [("wrong-mac", Rank::Loss, 20)]);
        interval.after.links.as_mut().unwrap().get_mut("eth0").unwrap().is_promiscuous = true;
        assert_eq!(found(&interval), []);
    }

    #[test]
    fn a_carrier_that_went_is_told() {
        let mut interval = losing(Counts::default(), &[]);
        assert_eq!(found(&interval), []);
        interval.after.links.as_mut().unwrap().get_mut("eth0").unwrap().carrier_losses = Some(2);
        assert_eq!(found(&interval), [("no-carrier", Rank::Symptom, 0)]);
    }
}
