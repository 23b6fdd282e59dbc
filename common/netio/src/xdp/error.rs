//! Why packets can't be received by AF_XDP, and what to do about it.

use std::io;

use super::{FRAME_SIZES, MOST_PORTS, MOST_QUEUES};

/// Something that is not there and would be needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A capability is not in the effective set.
    #[error(
        "{capability} is missing, needed {purpose}: run as root, or setcap cap_net_raw,cap_net_admin,cap_bpf,cap_perfmon+ep PROGRAM \
         (what is set on the file reaches only processes started after that, not one that runs already)"
    )]
    Capability {
        /// Its name, as in capabilities(7).
        capability: &'static str,
        /// What for.
        purpose: &'static str,
    },
    /// The process's capabilities count only in a user namespace.
    #[error(
        "the process is in a user namespace, whose root may load no XDP program: run it outside, or in a container \
         without one (privileged)"
    )]
    InitialUserNamespace,
    /// There may not be so many locked pages.
    #[error(
        "too little memory may be locked: {needed} bytes of packet memory are needed and RLIMIT_MEMLOCK is {limit}; set \
         LimitMEMLOCK=infinity in the service's unit (ulimit -l), or give CAP_IPC_LOCK, or use less memory"
    )]
    LockedMemory {
        /// What is wanted, in bytes.
        needed: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The kernel was built without AF_XDP.
    #[error(
        "the kernel has no AF_XDP sockets (EAFNOSUPPORT): it needs CONFIG_XDP_SOCKETS; capture by AF_PACKET instead"
    )]
    Sockets,
    /// The kernel is older than BPF links for XDP.
    #[error(
        "the kernel is older than Linux 5.9 and would leave an XDP program behind when the process is killed; capture by \
         AF_PACKET instead"
    )]
    Links,
    /// The driver runs no XDP programs.
    #[error(
        "driver {driver} runs no XDP programs for '{interface}', or not with its present offloads (`ethtool -K {interface} \
         lro off rx-gro-hw off` may help)"
    )]
    Driver {
        /// The interface's name.
        interface: String,
        /// The driver's name.
        driver: String,
    },
    /// Packets may be longer than what the driver gives an XDP program.
    #[error(
        "driver {driver} runs no XDP program with an MTU as large as {mtu} (on a veth the peer's counts): `ip link set dev \
         {interface} mtu {within}`, or less"
    )]
    SmallerMtu {
        /// The interface's name.
        interface: String,
        /// The driver's name.
        driver: String,
        /// The present MTU in bytes.
        mtu: u16,
        /// What fits in a page on most drivers.
        within: u16,
    },
    /// The driver has too few queues left over for XDP.
    #[error("driver {driver} has no queues left for an XDP program on '{interface}': {remedy}")]
    Queues {
        /// The interface's name.
        interface: String,
        /// The driver's name.
        driver: String,
        /// What may help.
        remedy: &'static str,
    },
    /// The other end of a veth pair is gone.
    #[error("veth '{interface}' has lost its peer")]
    Peer {
        /// The interface's name.
        interface: String,
    },
    /// The driver refuses the program and does not say why.
    #[error("driver {driver} refuses an XDP program on '{interface}': {cause}; `dmesg` may have the reason")]
    Consent {
        /// The interface's name.
        interface: String,
        /// The driver's name.
        driver: String,
        /// What the kernel said.
        cause: String,
    },
}

/// Why a receiver can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// There is no such interface in this network namespace.
    #[error("interface '{interface}' not found; `/sys/class/net` lists the names there are")]
    UnknownInterface {
        /// The name asked for.
        interface: String,
    },
    /// Frames of the interface have no Ethernet header.
    #[error("frames of interface '{interface}' have no Ethernet header, which the XDP program needs")]
    NoEthernet {
        /// The interface's name.
        interface: String,
    },
    /// Something is not there; all that is known of.
    #[error("AF_XDP can't be used: {}", listed(.0))]
    Missing(Vec<Missing>),
    /// An XDP program stands on the interface.
    #[error("XDP program {id} '{name}' stands on interface '{interface}' already: {remedy}")]
    Occupied {
        /// The interface's name.
        interface: String,
        /// The program's id.
        id: u32,
        /// Its name; empty if it has none or may not be read.
        name: String,
        /// How to remove it.
        remedy: String,
    },
    /// Another AF_XDP socket has a queue.
    #[error(
        "queue {queue} of interface '{interface}' belongs to another AF_XDP socket: end the process that has it \
         (`ss --xdp -p` lists them where the kernel has CONFIG_XDP_SOCKETS_DIAG)"
    )]
    QueueTaken {
        /// The interface's name.
        interface: String,
        /// The queue's number, from 0.
        queue: u32,
    },
    /// The number of ports is not in 1 to [`MOST_PORTS`].
    #[error("{0} tunnel ports, and there have to be 1 to {MOST_PORTS}")]
    Ports(usize),
    /// A frame size that UMEM can't have.
    #[error("frames of {0} bytes, and they may have {smaller} or {larger}", smaller = FRAME_SIZES[0], larger = FRAME_SIZES[1])]
    FrameSize(u32),
    /// The interface has no such queue, or too many of them.
    #[error(
        "queue {queue} of interface '{interface}' can't be served: it has {present}, and at most {MOST_QUEUES} are served \
         (`ethtool -L {interface} combined N` sets how many it has)"
    )]
    Queue {
        /// The interface's name.
        interface: String,
        /// The queue's number, from 0.
        queue: u32,
        /// How many queues it has.
        present: u32,
    },
    /// There are more receivers than queues, and one without a queue would receive nothing.
    #[error(
        "{receivers} workers need a receive queue each, and interface '{interface}' has {queues}: {remedy}; or ask for at most \
         {queues}"
    )]
    TooFewQueues {
        /// The interface's name.
        interface: String,
        /// How many queues are there to be served.
        queues: usize,
        /// How many receivers are asked for, each for a worker.
        receivers: usize,
        /// How to get more queues.
        remedy: String,
    },
    /// The kernel does not take the program or a map.
    #[error("the kernel does not take the XDP program: {0}")]
    Program(String),
    /// A system call failed.
    #[error("{call} on interface '{interface}' failed")]
    System {
        /// The call and its notable argument.
        call: &'static str,
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn listed(missing: &[Missing]) -> String {
    missing.iter().map(Missing::to_string).collect::<Vec<_>>().join("; ")
}

impl From<Missing> for XdpError {
    fn from(missing: Missing) -> Self {
        Self::Missing(vec![missing])
    }
}
