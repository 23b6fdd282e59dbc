//! Who took the probes: a judgement over what was counted.

use rtt0_netio::attached::Attachment;
use rtt0_netio::links::{Neighbour, Way};

use super::leaving::Left;
use super::send::{Sent, errno, error_name};
use super::{Protocol, Sighting, Target};
use crate::causes;
use crate::check::firewall::{accused as accused_rules, dropped_by_rule, grown};
use crate::check::programs::{accused as accused_programs, accused_cgroup, command, filter_drops};
use crate::finding::{Cause, Finding, Layer, Rank};
use crate::look::drops::Dropped;
use crate::look::firewall::{BaseChain, Firewall};
use crate::look::programs::Programs;
use crate::report::Report;

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

    /// Finds the cause of a gap on the way out.
    fn leaving(&self, gap: &Gap<'_>) -> Finding {
        let lost = gap.lost();
        let by_reason = || self.by_reason(lost);
        let found = match gap.layer() {
            Layer::Routing => Some(self.refused(lost)),
            layer @ (Layer::Output | Layer::Postrouting | Layer::NetdevEgress) => self.rules(layer, lost),
            Layer::Ip if self.sent.has_failed_with(errno::EMSGSIZE) => Some(
                Finding::new(&causes::PACKET_TOO_BIG, Layer::Ip, Rank::Loss)
                    .of(self.interface)
                    .losing(lost)
                    .because(format!("the calls that send failed: {}", error_name(errno::EMSGSIZE)))
                    .seen_by(format!(
                        "ip link show dev {0}; ip route get {1}",
                        self.interface,
                        self.target.address.ip()
                    ))
                    .mended_by("raise the MTU of the link or of the route"),
            ),
            Layer::Neighbour => self.before_egress(gap, lost),
            Layer::Qdisc => self.before_tap(gap, lost),
            _ => None,
        };
        found.or_else(by_reason).unwrap_or_else(|| {
            let finding = Finding::new(&causes::LOST_BETWEEN_LAYERS, gap.layer(), Rank::Loss).losing(lost);
            finding
                .seen_by(format!("doctor --probe {} {}", self.target.protocol.name(), self.target.address))
                .mended_by("look for what stands between these two places: security modules, IPsec policies, drivers")
        })
    }

    /// The call failed before a packet was made.
    fn refused(&self, lost: u64) -> Finding {
        let most = self.sent.errors.iter().max_by_key(|(_, count)| **count);
        let Some((&number, count)) = most else {
            return self.by_reason(lost).unwrap_or_else(|| {
                Finding::new(&causes::LOST_BETWEEN_LAYERS, Layer::Ip, Rank::Loss).losing(lost)
            });
        };
        let evidence = format!("the calls that send failed {count} times: {}", error_name(number));
        let route = self.way.as_ref().err();
        let (cause, layer): (&'static Cause, Layer) = match number {
            errno::EPERM => {
                if let Some(finding) = accused_cgroup(&self.after.1, self.call_hooks(), lost) {
                    return finding.because(evidence);
                }
                if let Some(finding) = self.rules(Layer::Output, lost).filter(|_| !self.can_count()) {
                    return finding.because(evidence);
                }
                (&causes::SOCKET_REFUSED, Layer::Socket)
            }
            errno::ENETUNREACH => (&causes::NO_ROUTE, Layer::Routing),
            errno::EHOSTUNREACH | errno::EACCES | errno::EINVAL if route.is_some() => {
                (&causes::ROUTE_REFUSES, Layer::Routing)
            }
            errno::EMSGSIZE => (&causes::PACKET_TOO_BIG, Layer::Ip),
            _ => (&causes::SOCKET_REFUSED, Layer::Socket),
        };
        let address = self.target.address.ip();
        let finding = Finding::new(cause, layer, Rank::Loss).losing(lost).because(evidence);
        let finding =
            route.into_iter().fold(finding, |finding, why| finding.because(format!("routing says: {why}")));
        match layer {
            Layer::Routing => finding
                .of(address.to_string())
                .seen_by(format!("ip route get {address}; ip rule; ip route show table all"))
                .mended_by("add a route that leads there, or remove the one that refuses"),
            _ => finding
                .seen_by(format!("strace -e trace=network nc -u {address} {}", self.target.address.port()))
                .mended_by(
                    "see what the error means for this call; a security module or seccomp may refuse as well",
                ),
        }
    }

    /// Tells whether netfilter's hooks could be counted at.
    fn can_count(&self) -> bool {
        self.left.sightings.get(1).is_some_and(|sighting| sighting.packets.is_some())
    }

    /// Returns the programs of a control group that may refuse the calls that send probes.
    fn call_hooks(&self) -> &'static [Attachment] {
        use Attachment::{
            CgroupBind4, CgroupBind6, CgroupConnect4, CgroupConnect6, CgroupSend4, CgroupSend6, CgroupSocket,
        };
        match (self.target.protocol, self.target.address.is_ipv4()) {
            (Protocol::Udp, true) => &[CgroupSend4, CgroupBind4, CgroupSocket],
            (Protocol::Udp, false) => &[CgroupSend6, CgroupBind6, CgroupSocket],
            (Protocol::Tcp, true) => &[CgroupConnect4, CgroupBind4, CgroupSocket],
            (Protocol::Tcp, false) => &[CgroupConnect6, CgroupBind6, CgroupSocket],
        }
    }

    /// Finds rules that may have dropped at a hook: those that have counted meanwhile, or all.
    fn rules(&self, layer: Layer, lost: u64) -> Option<Finding> {
        let now = &self.after.0;
        let is_here = |chain: &BaseChain| match chain.family {
            "ip" => self.target.address.is_ipv4(),
            "ip6" => self.target.address.is_ipv6(),
            "inet" | "netdev" => true,
            _ => false,
        };
        let counted = grown(&self.before.0, now)
            .into_iter()
            .filter(|(chain, ..)| chain.layer == layer && is_here(chain));
        if let Some((chain, suspect, packets)) = counted.max_by_key(|(_, _, packets)| (*packets).min(lost)) {
            return Some(dropped_by_rule(chain, suspect, packets.min(lost)));
        }
        let chains: Vec<&BaseChain> = now
            .suspects(layer, self.interface)
            .filter(|chain| is_here(chain))
            .filter(|chain| {
                // Rules that count, and have not, are out of it.
                chain.policy_drops || chain.suspects.iter().any(|suspect| suspect.counter.is_none())
            })
            .collect();
        if let Some(finding) = accused_rules(&chains, lost) {
            return Some(finding);
        }
        if now.is_conntrack_full {
            let finding = Finding::new(&causes::CONNTRACK_FULL, Layer::Conntrack, Rank::Loss).losing(lost);
            return Some(
                finding
                    .because("no rule of this hook drops, and connection tracking has no room for another connection")
                    .seen_by("sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max")
                    .mended_by("raise net.netfilter.nf_conntrack_max, or do not track these packets (notrack)"),
            );
        }
        let legacy = now.legacy_tables.join(", ");
        (!legacy.is_empty()).then(|| {
            Finding::new(&causes::FIREWALL_DROP, layer, Rank::Loss)
                .losing(lost)
                .because(format!(
                    "no rule of nftables drops there, and tables of legacy iptables are loaded: {legacy}"
                ))
                .seen_by("iptables-legacy-save -c; ip6tables-legacy-save -c")
                .mended_by("accept what is meant to pass in those rules")
        })
    }

    /// Between postrouting and the device's egress: a control group's programs, and the neighbour's address.
    fn before_egress(&self, gap: &Gap<'_>, lost: u64) -> Option<Finding> {
        let cgroup = || accused_cgroup(&self.after.1, &[Attachment::CgroupEgress], lost);
        let is_refused = self.sent.has_failed_with(errno::EPERM);
        if is_refused && let Some(finding) = cgroup() {
            return Some(
                finding.because(format!("the calls that send failed: {}", error_name(errno::EPERM))),
            );
        }
        if let Some(state @ (Neighbour::Asked | Neighbour::Failed)) = self.left.neighbour {
            let way = self.way.as_ref().ok()?;
            let hop = way.gateway.unwrap_or_else(|| self.target.address.ip());
            let device = self.interface;
            let words = if state == Neighbour::Failed {
                "has not answered"
            } else {
                "has been asked, and has not answered yet"
            };
            return Some(
                Finding::new(&causes::NEIGHBOUR_FAILED, Layer::Neighbour, Rank::Loss)
                    .of(format!("{hop} dev {device}"))
                    .losing(lost)
                    .because(format!("the next hop {hop} on {device} {words} ARP or neighbour discovery"))
                    .seen_by(format!(
                        "ip neighbour show {hop} dev {device}; tcpdump -ni {device} arp or icmp6"
                    ))
                    .mended_by(format!("see that {hop} is up, on this network, and not kept from answering")),
            );
        }
        let found = self.by_reason(lost).or_else(cgroup);
        // Without counters at the egress hooks the gap reaches down to the tap.
        found.or_else(|| if gap.to.place.starts_with("tap") { self.before_tap(gap, lost) } else { None })
    }

    /// Between the egress hooks and the tap: traffic control's filters, then the queue.
    fn before_tap(&self, gap: &Gap<'_>, lost: u64) -> Option<Finding> {
        if !gap.from.place.starts_with("netfilter egress") {
            // Something above could not be counted at, and may as well be it.
            let above = self.by_reason(lost).or_else(|| self.above_tap(gap, lost));
            if above.is_some() {
                return above;
            }
        }
        let (then, now) = (self.before.1.on(self.interface), self.after.1.on(self.interface)?);
        let filters = filter_drops(now, true).saturating_sub(then.map_or(0, |then| filter_drops(then, true)));
        let tc = || accused_programs(now, &causes::TC_DROP, Layer::TcEgress, lost);
        let queue_drops = |programs: &crate::look::programs::OnInterface| -> u64 {
            let queues =
                programs.queues.iter().filter(|queue| queue.kind != "clsact" && queue.kind != "ingress");
            queues.map(|queue| queue.drops).sum()
        };
        let dropped = queue_drops(now).saturating_sub(then.map_or(0, queue_drops));
        let waiting: u32 = now.queues.iter().map(|queue| queue.length).sum();
        if let Some(finding) = self.by_reason(lost) {
            return Some(finding);
        }
        if filters > 0
            && let Some(finding) = tc()
        {
            return Some(
                finding.because(format!("the filters' actions dropped {filters} packets meanwhile")),
            );
        }
        if dropped > 0 || waiting > 0 {
            let finding = self.queue(lost)?;
            return Some(
                finding.because(format!("it dropped {dropped} packets meanwhile, and {waiting} wait in it")),
            );
        }
        tc().or_else(|| self.queue(lost))
    }

    /// What may have dropped above the egress hooks, if it could not be counted there.
    fn above_tap(&self, gap: &Gap<'_>, lost: u64) -> Option<Finding> {
        let egress = self.rules(Layer::NetdevEgress, lost);
        if gap.from.place.starts_with("netfilter") {
            return egress.or_else(|| accused_cgroup(&self.after.1, &[Attachment::CgroupEgress], lost));
        }
        if !self.sent.errors.is_empty() {
            return Some(self.refused(lost));
        }
        egress.or_else(|| self.rules(Layer::Output, lost)).or_else(|| self.rules(Layer::Postrouting, lost))
    }

    fn queue(&self, lost: u64) -> Option<Finding> {
        let on = self.after.1.on(self.interface)?;
        accused_programs(on, &causes::QDISC_DROP, Layer::Qdisc, lost)
    }

    /// Finds the cause by what the kernel says of these very packets.
    fn by_reason(&self, lost: u64) -> Option<Finding> {
        let most = self.drops.iter().max_by_key(|dropped| dropped.packets)?;
        let on = self.after.1.on(self.interface);
        let programs = |cause, layer| on.and_then(|on| accused_programs(on, cause, layer, lost));
        let bare = |cause: &'static Cause, layer: Layer| {
            Finding::new(cause, layer, Rank::Loss)
                .of(self.interface)
                .losing(lost)
                .seen_by(command(layer, self.interface))
        };
        let finding = match most.reason.as_str() {
            "TC_EGRESS" => programs(&causes::TC_DROP, Layer::TcEgress)
                .unwrap_or_else(|| bare(&causes::TC_DROP, Layer::TcEgress)),
            reason if reason.contains("QDISC") || reason.starts_with("TC_") || reason.starts_with("FQ_") => {
                programs(&causes::QDISC_DROP, Layer::Qdisc)
                    .unwrap_or_else(|| bare(&causes::QDISC_DROP, Layer::Qdisc))
            }
            "BPF_CGROUP_EGRESS" => accused_cgroup(&self.after.1, &[Attachment::CgroupEgress], lost)
                .unwrap_or_else(|| {
                    Finding::new(&causes::CGROUP_DROP, Layer::Cgroup, Rank::Loss).losing(lost)
                }),
            "NETFILTER_DROP" => {
                let hooks = [Layer::Output, Layer::Postrouting, Layer::NetdevEgress];
                let seen = hooks
                    .into_iter()
                    .find(|layer| self.after.0.suspects(*layer, self.interface).next().is_some());
                self.rules(seen?, lost)?
            }
            _ => return None,
        };
        Some(finding.because(format!(
            "the kernel dropped {} of the probes with the reason {}",
            most.packets, most.reason
        )))
    }
}

/// Finds the cause of a gap on the way in, on this host or at the far one.
fn arriving(gap: &Gap<'_>, is_elsewhere: bool, what: &str) -> Finding {
    let (cause, layer) = arriving_cause(gap);
    let place = if is_elsewhere { "on the far host" } else { "on this host" };
    let mut finding = Finding::new(cause, layer, Rank::Loss)
        .losing(gap.lost())
        .because(format!(
            "{place}, {} {what} were seen at '{}', and {} at '{}'",
            gap.seen, gap.from.place, gap.left, gap.to.place
        ))
        .seen_by(format!("{place}: {}", arriving_command(layer)))
        .mended_by(format!("{place}: {}", arriving_fix(cause)));
    if let Some(rule) = gap.to.suspects.first().filter(|_| layer_has_rules(layer)) {
        finding = finding.of(rule.split(": ").next().unwrap_or_default());
    }
    if is_elsewhere && finding.subject.is_empty() {
        finding = finding.of("far host");
    }
    gap.to
        .suspects
        .iter()
        .take(8)
        .fold(finding, |finding, suspect| finding.because(format!("{place}: {suspect}")))
}

fn layer_has_rules(layer: Layer) -> bool {
    matches!(layer, Layer::NetdevIngress | Layer::Prerouting | Layer::Input)
}

fn arriving_cause(gap: &Gap<'_>) -> (&'static Cause, Layer) {
    let says = |counter: &str| gap.to.suspects.iter().any(|suspect| suspect.contains(counter));
    let has_suspects = !gap.to.suspects.is_empty();
    match gap.layer() {
        Layer::Xdp => (&causes::XDP_DROP, Layer::Xdp),
        Layer::Device => (&causes::WRONG_MAC, Layer::Device),
        Layer::TcIngress if has_suspects => (&causes::TC_DROP, Layer::TcIngress),
        layer if layer_has_rules(layer) && has_suspects => (&causes::FIREWALL_DROP, layer),
        Layer::Ip if says("CsumErrors") => (&causes::CHECKSUM_ERRORS, Layer::Ip),
        Layer::Ip if says("InHdrErrors") => (&causes::HEADER_ERRORS, Layer::Ip),
        Layer::Routing if says("IPReversePathFilter") => (&causes::REVERSE_PATH_FILTER, Layer::Routing),
        Layer::Routing if says("InNoRoutes") => (&causes::NO_ROUTE_FOR_RECEIVED, Layer::Routing),
        Layer::Routing if says("InAddrErrors") => (&causes::ADDRESS_ERRORS, Layer::Routing),
        Layer::Transport if says("CsumErrors") => (&causes::CHECKSUM_ERRORS, Layer::Transport),
        Layer::Transport if says("RcvbufErrors") => (&causes::UDP_RECEIVE_BUFFER, Layer::Socket),
        Layer::Transport if says("NoPorts") => (&causes::UDP_NO_PORT, Layer::Socket),
        Layer::Transport if says("ListenOverflows") => (&causes::LISTEN_OVERFLOW, Layer::Socket),
        layer => (&causes::LOST_BETWEEN_LAYERS, layer),
    }
}

fn arriving_command(layer: Layer) -> &'static str {
    match layer {
        Layer::Xdp | Layer::TcIngress => "bpftool net; tc -s filter show dev INTERFACE ingress",
        Layer::NetdevIngress | Layer::Prerouting | Layer::Input => "nft -a list ruleset",
        Layer::Device => "tcpdump -eni INTERFACE, and ip link for the address that it should be",
        Layer::Routing => "nstat -az IpExtInNoRoutes IpInAddrErrors TcpExtIPReversePathFilter",
        _ => "nstat -az",
    }
}

fn arriving_fix(cause: &Cause) -> &'static str {
    match cause.id {
        "xdp-drop" => "ip link set dev INTERFACE xdp off, or mend the program",
        "tc-drop" => "detach the program or filter, or mend it",
        "firewall-drop" => "accept what is meant to pass before the rule that drops",
        "wrong-mac" => "correct the sender's neighbour entry, or what re-sends with these addresses",
        "reverse-path-filter" => "give it a route back by the same interface, or set rp_filter to 2 or 0",
        "checksum-errors" => {
            "switch off transmit checksum offload at the sender, or mend what changes packets"
        }
        _ => "see the evidence",
    }
}

/// Returns the layer of this name; what an older or newer doctor calls otherwise is on the path.
fn layer_named(name: &str) -> Layer {
    use Layer::{
        Backlog, Cgroup, Conntrack, Daemon, Device, Forward, Input, Ip, Neighbour, NetdevEgress,
        NetdevIngress, Output, Path, Postrouting, Prerouting, Qdisc, Routing, Socket, TcEgress, TcIngress,
        Transport, Xdp,
    };
    let all = [
        Daemon,
        Socket,
        Transport,
        Ip,
        Routing,
        Prerouting,
        Input,
        Forward,
        Output,
        Postrouting,
        Conntrack,
        Cgroup,
        Neighbour,
        NetdevEgress,
        TcEgress,
        Qdisc,
        Device,
        Xdp,
        Backlog,
        TcIngress,
        NetdevIngress,
        Path,
    ];
    all.into_iter().find(|layer| layer.name() == name).unwrap_or(Path)
}

#[cfg(test)]
mod tests {
    use super::super::sighting;
    use super::*;

    fn counted(counts: &[Option<u64>]) -> Vec<Sighting> {
        let places = counts.iter().enumerate();
        places.map(|(index, count)| sighting(index.to_string(), Layer::Output, *count)).collect()
    }

    fn found(counts: &[Option<u64>]) -> Option<(String, String, u64, u64)> {
        let sightings = counted(counts);
        gap(&sightings).map(|gap| (gap.from.place.clone(), gap.to.place.clone(), gap.seen, gap.left))
    }

    #[test]
    fn the_first_place_that_has_seen_fewer_is_found() {
        let gap = |from: &str, to: &str, seen, left| Some((from.to_owned(), to.to_owned(), seen, left));
        assert_eq!(found(&[Some(20), Some(20), Some(20)]), None);
        assert_eq!(found(&[Some(20), Some(20), Some(0)]), gap("1", "2", 20, 0));
        assert_eq!(found(&[Some(20), Some(15), Some(0)]), gap("0", "1", 20, 15));
        assert_eq!(found(&[Some(20), None, Some(3)]), gap("0", "2", 20, 3));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[None, Some(0)]), None);
    }

    #[test]
    fn what_is_seen_later_has_passed_before() {
        assert_eq!(found(&[Some(20), Some(0), Some(20)]), None);
        assert_eq!(found(&[Some(0), Some(20), Some(20)]), None);
    }

    #[test]
    fn layers_have_their_names() {
        for layer in [Layer::Daemon, Layer::NetdevIngress, Layer::TcEgress, Layer::Path] {
            assert_eq!(layer_named(layer.name()), layer);
        }
        assert_eq!(layer_named("something new"), Layer::Path);
    }
}
