//! Who took the probes: a judgement over what was counted.

mod way_in;
mod way_out;

#[cfg(test)]
mod tests;

use rtt0_netio::links::Way;

use super::leaving::Left;
use super::send::{Sent, error_name};
use super::{Protocol, Sighting, Target};
use crate::causes;
use crate::finding::{Finding, Layer, Rank};
use crate::look::drops::Dropped;
use crate::look::firewall::Firewall;
use crate::look::programs::Programs;
use crate::report::Report;
use way_in::arriving;

/// Everything that was looked at.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) target: &'a Target,
    /// The interface that packets leave by.
    pub(super) interface: &'a str,
    pub(super) way: &'a Result<Way, String>,
    pub(super) sent: &'a Sent,
    pub(super) left: &'a Left,
    pub(super) before: &'a (Firewall, Programs),
    pub(super) after: &'a (Firewall, Programs),
    /// Probes that the kernel says it has dropped.
    pub(super) drops: Vec<Dropped>,
    /// What arrived, and whether at another host.
    pub(super) far: Option<(Vec<Sighting>, bool)>,
    pub(super) answers: Vec<Sighting>,
}

/// Two places of which the later has seen fewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap<'a> {
    pub(super) from: &'a Sighting,
    pub(super) to: &'a Sighting,
    pub(super) seen: u64,
    pub(super) left: u64,
}

impl Gap<'_> {
    fn lost(&self) -> u64 {
        self.seen - self.left
    }

    fn layer(&self) -> Layer {
        layer_named(&self.to.layer)
    }

    fn words(&self) -> String {
        format!(
            "{} probes were seen at '{}', and {} at '{}'",
            self.seen, self.from.place, self.left, self.to.place
        )
    }
}

/// Finds the first place that has seen fewer than the one before. What a later place has seen has passed the earlier
/// ones, whatever those say; places that can't tell are left out.
pub(super) fn gap(sightings: &[Sighting]) -> Option<Gap<'_>> {
    let mut passed = 0;
    let mut known: Vec<(&Sighting, u64)> = Vec::new();
    for sighting in sightings.iter().rev() {
        if let Some(packets) = sighting.packets {
            passed = packets.max(passed);
            known.push((sighting, passed));
        }
    }
    known.reverse();
    known.windows(2).find_map(|pair| match *pair {
        [(from, seen), (to, left)] if left < seen => Some(Gap { from, to, seen, left }),
        _ => None,
    })
}

impl Facts<'_> {
    /// Writes down the way of the probes, place by place.
    pub(super) fn note(&self, report: &mut Report) {
        let count = |sighting: &Sighting| {
            sighting.packets.map_or("can't tell".to_owned(), |packets| packets.to_string())
        };
        let mut list = |prefix: &str, sightings: &[Sighting]| {
            for sighting in sightings {
                report.note(format!("{prefix}: {}", sighting.place), count(sighting));
            }
        };
        list("probe", &self.left.sightings);
        if let Some((sightings, is_elsewhere)) = &self.far {
            list(if *is_elsewhere { "far host" } else { "probe" }, sightings);
        }
        if self.answers.iter().any(|place| place.packets.is_some_and(|packets| packets > 0)) {
            list("answer", &self.answers);
        }
        let Sent { tried, accepted, refused, errors, unreachable } = self.sent;
        let (protocol, address) = (self.target.protocol.name(), self.target.address);
        report.note(
            format!("probes to {protocol} {address}"),
            format!("{tried} sent, {accepted} answered, {refused} answered by 'nobody listens'"),
        );
        for (what, errors) in [("sending failed", errors), ("errors that came later", unreachable)] {
            for (errno, count) in errors {
                report.note(format!("probe: {what}"), format!("{count} times {}", error_name(*errno)));
            }
        }
        for dropped in &self.drops {
            let place = dropped.location.as_deref().unwrap_or("unknown function");
            report.note(
                "probes dropped by the kernel",
                format!("{} with the reason {} in {place}", dropped.packets, dropped.reason),
            );
        }
    }

    /// Finds what took the probes.
    pub(super) fn judge(&self, report: &mut Report) {
        if let Some(gap) = gap(&self.left.sightings) {
            report.find(self.leaving(&gap).because(gap.words()));
            return;
        }
        let failed: u64 = self.sent.errors.values().sum();
        if failed > 0 && !self.can_count() {
            report.find(self.refused(failed));
            return;
        }
        if self.sent.answers() >= self.sent.tried {
            return;
        }
        match &self.far {
            Some((sightings, is_elsewhere)) => self.judge_far(sightings, *is_elsewhere, report),
            None => self.judge_silence(report),
        }
    }

    /// Judges what has left and did not arrive at the other end.
    fn judge_far(&self, sightings: &[Sighting], is_elsewhere: bool, report: &mut Report) {
        let known = self.left.sightings.iter().rev().find(|sighting| sighting.packets.is_some());
        let last: Vec<Sighting> = known.into_iter().chain(sightings).cloned().collect();
        match gap(&last) {
            Some(gap) if gap.layer() == Layer::Path => {
                // A lost packet is a path's usual business.
                if gap.lost() >= 2 && gap.lost() * 10 >= gap.seen {
                    report.find(self.on_path(&gap, "they"));
                }
            }
            Some(gap) => report.find(arriving(&gap, is_elsewhere, "probes")),
            None => self.judge_answers(report),
        }
    }

    /// Judges answers that came to this host and not to the program.
    fn judge_answers(&self, report: &mut Report) {
        let mut answers = self.answers.clone();
        if let Some(socket) = answers.last_mut() {
            socket.packets = Some(match self.target.protocol {
                Protocol::Udp => self.sent.accepted,
                Protocol::Tcp => self.sent.answers(),
            });
        }
        let came = gap(&answers);
        if let Some(gap) = came {
            report.find(arriving(&gap, false, "answers"));
            return;
        }
        // All probes have arrived; a TCP that has them answers.
        let none = self.answers.iter().all(|sighting| sighting.packets.unwrap_or(0) == 0);
        let is_elsewhere = self.far.as_ref().is_some_and(|(_, is_elsewhere)| *is_elsewhere);
        if self.target.protocol == Protocol::Tcp && self.sent.answers() == 0 && none && is_elsewhere {
            let finding = Finding::new(&causes::LOST_ON_PATH, Layer::Path, Rank::Symptom)
                .of(self.target.address.to_string())
                .losing(self.sent.tried)
                .because("all probes arrive at the far host, and none of its answers arrives here");
            report.find(finding.mended_by("probe the other way, from the far host to this one"));
        }
    }

    /// Judges a far side of which nothing is known.
    fn judge_silence(&self, report: &mut Report) {
        let mut answers = self.answers.clone();
        if let Some(socket) = answers.last_mut() {
            socket.packets = Some(self.sent.answers());
        }
        if let Some(gap) = gap(&answers) {
            report.find(arriving(&gap, false, "answers"));
            return;
        }
        let missing = self.sent.tried - self.sent.answers().min(self.sent.tried);
        let (protocol, address) = (self.target.protocol, self.target.address);
        if self.left.transmit_drops >= missing {
            report.find(
                Finding::new(&causes::DEVICE_TX_DROP, Layer::Device, Rank::Loss)
                    .of(self.interface)
                    .losing(missing)
                    .because(format!(
                        "the probes have reached the device, which meanwhile dropped {} packets that were to leave",
                        self.left.transmit_drops
                    ))
                    .seen_by(format!("ip -s -s link show dev {0}; ethtool -S {0}", self.interface))
                    .mended_by("look for the driver's reason among its own counters; is the other end of the cable up?"),
            );
            return;
        }
        if self.sent.answers() > 0 {
            // What is behind a port may well answer some datagrams only.
            if protocol == Protocol::Tcp && missing * 5 >= self.sent.tried {
                report.find(
                    Finding::new(&causes::LOST_ON_PATH, Layer::Path, Rank::Symptom)
                        .of(address.to_string())
                        .losing(missing)
                        .because(format!(
                            "all {} probes have left this host, {missing} were not answered",
                            self.sent.tried
                        ))
                        .mended_by("run a doctor with --listen on the far host, and give it as --agent"),
                );
            }
            return;
        }
        let rank = if protocol == Protocol::Udp { Rank::Suspicion } else { Rank::Symptom };
        let mut finding = Finding::new(&causes::NO_ANSWER, Layer::Path, rank)
            .of(address.to_string())
            .losing(missing)
            .because(self.left_in_words());
        if protocol == Protocol::Udp {
            finding = finding.because("what listens to datagrams need not answer them");
        }
        for (errno, count) in &self.sent.unreachable {
            finding =
                finding.because(format!("{count} errors came back from the path: {}", error_name(*errno)));
        }
        report.find(
            finding
                .seen_by(format!("tcpdump -ni {} host {} and port {}", self.interface, address.ip(), address.port()))
                .mended_by("run a doctor with --listen on the far host, and give it as --agent: it says what arrives there"),
        );
    }

    /// Says how far the probes have come, as far as that was seen.
    fn left_in_words(&self) -> String {
        let tried = self.sent.tried;
        match self.left.sightings.iter().rev().find(|sighting| sighting.packets.is_some()) {
            Some(last) if last.layer != Layer::Socket.name() => {
                format!("all {tried} probes have come as far as '{}'; none was answered", last.place)
            }
            _ => {
                format!("{tried} probes were sent, nobody could see how far they came, and none was answered")
            }
        }
    }

    fn on_path(&self, gap: &Gap<'_>, who: &str) -> Finding {
        Finding::new(&causes::LOST_ON_PATH, Layer::Path, Rank::Symptom)
            .of(self.target.address.to_string())
            .losing(gap.lost())
            .because(gap.words())
            .because(format!("{who} vanish between this host and the far one"))
            .seen_by(format!("on both hosts: tcpdump -ni any port {}", self.target.address.port()))
            .mended_by(
                "look at what is between: firewalls and security groups of the cloud, routers, switches",
            )
    }
}

/// Returns the layer of this name; what an older or newer doctor calls otherwise is on the path.
fn layer_named(name: &str) -> Layer {
    Layer::named(name).unwrap_or(Layer::Path)
}
