//! Who took what was to leave.

use rtt0_netio::attached::Attachment;
use rtt0_netio::links::Neighbour;

use super::super::Protocol;
use super::super::send::{errno, error_name};
use super::{Facts, Gap};
use crate::causes;
use crate::check::firewall::{accused as accused_rules, dropped_by_rule, grown};
use crate::check::programs::{accused as accused_programs, accused_cgroup, command, filter_drops};
use crate::finding::{Cause, Finding, Layer, Rank};
use crate::look::firewall::BaseChain;
use crate::look::programs::OnInterface;

impl Facts<'_> {
    /// Finds the cause of a gap on the way out.
    pub(super) fn leaving(&self, gap: &Gap<'_>) -> Finding {
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
        found.or_else(by_reason).unwrap_or_else(|| self.nobody(gap.layer(), lost))
    }

    /// Nothing is known that could have taken them.
    fn nobody(&self, layer: Layer, lost: u64) -> Finding {
        let (protocol, address) = (self.target.protocol.name(), self.target.address);
        Finding::new(&causes::LOST_BETWEEN_LAYERS, layer, Rank::Loss)
            .losing(lost)
            .because("no rule, program or queue is known that could have taken them there")
            .seen_by(format!("testbed doctor --probe {protocol} {address}"))
            .mended_by(
                "look for what else stands between these places: security modules, IPsec policies, drivers",
            )
    }

    /// The call failed before a packet was made.
    pub(super) fn refused(&self, lost: u64) -> Finding {
        let most = self.sent.errors.iter().max_by_key(|(_, count)| **count);
        let Some((&number, count)) = most else {
            return self.by_reason(lost).unwrap_or_else(|| self.nobody(Layer::Ip, lost));
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
    pub(super) fn can_count(&self) -> bool {
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
        self.refused_by_cgroup(lost)
            .or_else(|| self.neighbour(lost))
            .or_else(|| self.by_reason(lost))
            .or_else(|| accused_cgroup(&self.after.1, &[Attachment::CgroupEgress], lost))
            // Without counters at the egress hooks the gap reaches down to the tap.
            .or_else(|| if gap.to.place.starts_with("tap") { self.before_tap(gap, lost) } else { None })
    }

    /// A control group's egress program makes the call that sends fail.
    fn refused_by_cgroup(&self, lost: u64) -> Option<Finding> {
        let finding = accused_cgroup(&self.after.1, &[Attachment::CgroupEgress], lost)?;
        let is_refused = self.sent.has_failed_with(errno::EPERM);
        is_refused
            .then(|| finding.because(format!("the calls that send failed: {}", error_name(errno::EPERM))))
    }

    fn neighbour(&self, lost: u64) -> Option<Finding> {
        let words = match self.left.neighbour? {
            Neighbour::Known => return None,
            Neighbour::Failed => "has not answered",
            Neighbour::Asked => "has been asked, and has not answered yet",
        };
        let way = self.way.as_ref().ok()?;
        let hop = way.gateway.unwrap_or_else(|| self.target.address.ip());
        let device = self.interface;
        Some(
            Finding::new(&causes::NEIGHBOUR_FAILED, Layer::Neighbour, Rank::Loss)
                .of(format!("{hop} dev {device}"))
                .losing(lost)
                .because(format!("the next hop {hop} on {device} {words} ARP or neighbour discovery"))
                .seen_by(format!("ip neighbour show {hop} dev {device}; tcpdump -ni {device} arp or icmp6"))
                .mended_by(format!("see that {hop} is up, on this network, and not kept from answering")),
        )
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
        let queue_drops = |programs: &OnInterface| -> u64 {
            let queues =
                programs.queues.iter().filter(|queue| queue.kind != "clsact" && queue.kind != "ingress");
            queues.map(|queue| u64::from(queue.drops)).sum()
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
        let is_hook = gap.from.place.starts_with("netfilter");
        if !is_hook && !self.sent.errors.is_empty() {
            return Some(self.refused(lost));
        }
        let found = self
            .refused_by_cgroup(lost)
            .or_else(|| self.neighbour(lost))
            .or_else(|| self.rules(Layer::NetdevEgress, lost));
        if is_hook {
            return found;
        }
        found.or_else(|| self.rules(Layer::Output, lost)).or_else(|| self.rules(Layer::Postrouting, lost))
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
                .mended_by("look again: what dropped them has gone meanwhile")
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
                    bare(&causes::CGROUP_DROP, Layer::Cgroup).of("").seen_by("bpftool cgroup tree")
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
