//! What is found.

use std::fmt;

use serde::Serialize;

macro_rules! layers {
    ($($(#[doc = $doc:literal])+ $layer:ident = $name:literal,)+) => {
        /// Where on a host a packet is: the layers in the order in which a packet that is sent passes them, then those of one that
        /// is received.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Layer {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $layer,)+
        }

        impl Layer {
            /// Returns its name as it stands in JSON.
            pub fn name(self) -> &'static str {
                match self { $(Self::$layer => $name,)+ }
            }

            /// Returns the layer of this name, if there is one.
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$layer),)+ _ => None }
            }
        }
    };
}

layers! {
    /// A NIC daemon: whether it runs, what it may do, how it is configured.
    Daemon = "daemon",
    /// A program's socket: the system call's result, buffers, listen queues.
    Socket = "socket",
    /// TCP or UDP.
    Transport = "transport",
    /// IP: headers, fragments, the hop limit, forwarding.
    Ip = "ip",
    /// Routing tables, policy rules, reverse-path filters.
    Routing = "routing",
    /// Netfilter where packets arrive, before routing.
    Prerouting = "prerouting",
    /// Netfilter where packets are for this host.
    Input = "input",
    /// Netfilter where packets are forwarded.
    Forward = "forward",
    /// Netfilter where this host's packets leave.
    Output = "output",
    /// Netfilter after routing.
    Postrouting = "postrouting",
    /// Connection tracking.
    Conntrack = "conntrack",
    /// BPF programs of a control group.
    Cgroup = "cgroup",
    /// ARP and neighbour discovery.
    Neighbour = "neighbour",
    /// Netfilter at a device's egress.
    NetdevEgress = "netdev-egress",
    /// Traffic control's filters and tcx programs where packets leave.
    TcEgress = "tc-egress",
    /// The queueing discipline.
    Qdisc = "qdisc",
    /// The device and its driver: rings, carrier, offloads.
    Device = "device",
    /// XDP programs.
    Xdp = "xdp",
    /// The kernel's queue for packets that have been received (softnet).
    Backlog = "backlog",
    /// Traffic control's filters and tcx programs where packets arrive.
    TcIngress = "tc-ingress",
    /// Netfilter at a device's ingress.
    NetdevIngress = "netdev-ingress",
    /// Beyond this host: the path, or the host at its other end.
    Path = "path",
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How sure a finding is, and so how early it is told: the order is the report's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rank {
    /// Packets were lost here while the doctor looked, and this is why.
    Loss,
    /// Packets that need this are lost for certain, though none was seen meanwhile.
    Fault,
    /// Packets were lost while the doctor looked; the cause may be elsewhere, such as on the path.
    Symptom,
    /// Works, and is known to cause losses.
    Suspicion,
}

/// What may be wrong: a name for machines, which never changes its meaning.
#[derive(Debug, PartialEq, Eq)]
pub struct Cause {
    /// Kebab case, such as `forwarding-off`.
    pub id: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Names of causes that are only consequences of this one: where both are found, theirs is folded into this.
    pub explains: &'static [&'static str],
}

/// Something that is wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub cause: &'static Cause,
    /// Where.
    pub layer: Layer,
    /// How sure.
    pub rank: Rank,
    /// Which of several: an interface, a rule, a process; empty if there is but one.
    pub subject: String,
    /// Packets lost while the doctor looked, as far as known.
    pub lost: u64,
    /// What was seen, a sentence each, with the numbers.
    pub evidence: Vec<String>,
    /// The command by which anybody sees the same.
    pub command: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    /// Makes one without evidence of loss.
    pub fn new(cause: &'static Cause, layer: Layer, rank: Rank) -> Self {
        Self {
            cause,
            layer,
            rank,
            subject: String::new(),
            lost: 0,
            evidence: Vec::new(),
            command: String::new(),
            fix: String::new(),
        }
    }

    /// Says which of several it is.
    #[must_use]
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Says how many packets were lost meanwhile.
    #[must_use]
    pub fn losing(mut self, packets: u64) -> Self {
        self.lost = packets;
        self
    }

    /// Adds what was seen.
    #[must_use]
    pub fn because(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Says how to see it by hand.
    #[must_use]
    pub fn seen_by(mut self, command: impl Into<String>) -> Self {
        self.command = command.into();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn mended_by(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}
