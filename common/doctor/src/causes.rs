//! Everything that can be found, with the names that machines and the documentation know it by.
//!
//! `explains` names what is only a consequence: where both are found, that is folded into this.

use crate::finding::Cause;

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal, $title:literal, explains [$($effect:literal),*];)*) => {
        $($(#[doc = $doc])+ pub const $name: Cause = Cause { id: $id, title: $title, explains: &[$($effect),*] };)*

        /// All of them.
        pub const ALL: &[&Cause] = &[$(&$name),*];
    };
}

causes! {
    // Netfilter and BPF programs.

    /// A rule or a policy of nftables or iptables.
    FIREWALL_DROP = "firewall-drop", "a firewall rule drops packets",
        explains ["out-discards", "netfilter-drop", "lost-between-layers", "tcp-retransmissions", "tcp-timeouts", "emission-failed"];
    /// The kernel says netfilter dropped, and no rule is known that does.
    NETFILTER_DROP = "netfilter-drop", "netfilter drops packets, by no rule that was seen",
        explains ["out-discards", "tcp-retransmissions", "tcp-timeouts"];
    /// A BPF program at traffic control's hooks, tcx ones included, or a tc filter.
    TC_DROP = "tc-drop", "a program or filter of traffic control drops packets",
        explains ["out-discards", "lost-between-layers", "tcp-retransmissions", "tcp-timeouts"];
    /// An XDP program.
    XDP_DROP = "xdp-drop", "an XDP program drops packets",
        explains ["lost-between-layers", "tcp-retransmissions", "tcp-timeouts"];
    /// A BPF program of a control group.
    CGROUP_DROP = "cgroup-drop", "a BPF program of a control group drops packets",
        explains ["out-discards", "lost-between-layers", "socket-refused", "socket-filter", "tcp-retransmissions", "tcp-timeouts"];
    /// A filter that a program has put on its own socket.
    SOCKET_FILTER = "socket-filter", "a filter on the receiving socket drops packets",
        explains ["udp-receive-errors", "lost-between-layers", "tcp-retransmissions", "tcp-timeouts"];

    // Connection tracking.

    /// No room for another connection.
    CONNTRACK_FULL = "conntrack-full", "the table of tracked connections is full",
        explains ["netfilter-drop", "lost-between-layers"];
    /// insert_failed has grown: NAT has no port left, or two packets of one new connection came at once.
    CONNTRACK_INSERT_FAILED = "conntrack-insert-failed", "connection tracking could not enter connections",
        explains ["netfilter-drop", "lost-between-layers"];
    /// A rule drops what conntrack calls invalid.
    CONNTRACK_INVALID = "conntrack-invalid", "connection tracking calls packets invalid",
        explains ["firewall-drop", "netfilter-drop"];

    // IP, routes, neighbours.

    /// net.ipv4.ip_forward and its like.
    FORWARDING_OFF = "forwarding-off", "the kernel does not forward packets",
        explains ["address-errors", "no-route-for-received", "reverse-path-filter"];
    /// rp_filter.
    REVERSE_PATH_FILTER = "reverse-path-filter", "the reverse-path filter drops packets",
        explains ["asymmetric-route", "lost-between-layers"];
    /// Nothing leads there.
    NO_ROUTE = "no-route", "there is no route",
        explains ["no-route-for-received", "socket-refused", "address-errors", "lost-between-layers", "tcp-retransmissions", "tcp-timeouts"];
    /// A route of type blackhole, unreachable, prohibit or throw.
    ROUTE_REFUSES = "route-refuses", "a route or policy rule drops or refuses packets",
        explains ["no-route", "no-route-for-received", "socket-refused", "address-errors", "lost-between-layers", "emission-failed", "tcp-retransmissions", "tcp-timeouts"];
    /// IpInNoRoutes or IpOutNoRoutes has grown.
    NO_ROUTE_FOR_RECEIVED = "no-route-for-received", "packets had no route",
        explains [];
    /// A service is reached through an interface that the daemon does not watch.
    ROUTE_ELSEWHERE = "route-elsewhere", "packets leave by another interface than the daemon's",
        explains [];
    /// The way back is not the way there.
    ASYMMETRIC_ROUTE = "asymmetric-route", "packets come back by another interface",
        explains [];
    /// InAddrErrors has grown: martians, or not for this host while it does not forward.
    ADDRESS_ERRORS = "address-errors", "packets had addresses that this host does not take",
        explains [];
    /// ARP or neighbour discovery has no answer.
    NEIGHBOUR_FAILED = "neighbour-failed", "the next hop does not answer ARP or neighbour discovery",
        explains ["lost-between-layers", "socket-refused", "out-discards", "tcp-retransmissions", "tcp-timeouts"];
    /// IPv6's duplicate address detection has found another host (RFC 4862).
    DUPLICATE_ADDRESS = "duplicate-address", "another host has the same address",
        explains ["address-errors", "neighbour-failed"];
    /// Received with another host's Ethernet address.
    WRONG_MAC = "wrong-mac", "frames arrive with another host's Ethernet address",
        explains ["lost-between-layers", "lost-on-path"];
    /// The hop limit ran out.
    HOP_LIMIT = "hop-limit", "packets arrive with their hop limit used up: a routing loop, or too small a limit",
        explains ["header-errors"];
    /// InHdrErrors has grown.
    HEADER_ERRORS = "header-errors", "packets had broken IP headers",
        explains [];
    /// OutDiscards has grown.
    OUT_DISCARDS = "out-discards", "the kernel discarded packets that it was to send",
        explains [];
    /// ReasmFails, or ReasmTimeout.
    REASSEMBLY_FAILED = "reassembly-failed", "fragments could not be put together",
        explains [];
    /// Packets are larger than the link or the path takes, and nobody is told.
    MTU_BLACK_HOLE = "mtu-black-hole", "large packets vanish: too large for a link, and nobody says so",
        explains ["tcp-retransmissions", "tcp-timeouts", "lost-on-path", "packet-too-big"];
    /// Packets are larger than the next link, and the sender is told.
    PACKET_TOO_BIG = "packet-too-big", "packets are larger than the next link takes",
        explains [];
    /// The source/destination check of the cloud.
    SOURCE_DEST_CHECK = "source-dest-check", "the cloud's source/destination check is on",
        explains [];

    // Devices and queues.

    /// Named, and not there.
    INTERFACE_MISSING = "interface-missing", "there is no such interface",
        explains ["guard-missing", "daemon-not-running", "no-route", "guard-mismatch", "route-elsewhere"];
    /// Administratively down.
    INTERFACE_DOWN = "interface-down", "the interface is down",
        explains ["no-route", "route-elsewhere", "neighbour-failed", "socket-refused", "guard-missing", "daemon-not-running"];
    /// Up without a carrier.
    NO_CARRIER = "no-carrier", "the interface has no carrier",
        explains ["no-route", "neighbour-failed", "socket-refused", "qdisc-drop", "lost-between-layers", "route-elsewhere"];
    /// LRO on a host that forwards.
    LARGE_RECEIVE_OFFLOAD = "large-receive-offload", "the device merges received segments, which spoils forwarding", explains [];
    /// The queueing discipline is full, or of a kind that drops.
    QDISC_DROP = "qdisc-drop", "the queueing discipline drops packets",
        explains ["udp-send-buffer", "out-discards", "lost-between-layers", "socket-refused", "tcp-retransmissions", "tcp-timeouts", "emission-failed"];
    /// It lets nothing pass, so that not even ARP gets its answers.
    QDISC_BLACKHOLE = "qdisc-blackhole", "the queueing discipline lets nothing pass", explains ["qdisc-drop", "neighbour-failed"];
    /// The driver's transmit side.
    DEVICE_TX_DROP = "device-tx-drop", "the device or its driver drops packets that are to leave",
        explains ["udp-send-buffer", "out-discards", "lost-between-layers", "tcp-retransmissions", "tcp-timeouts"];
    /// The driver's receive side: rings, missed, no buffers.
    DEVICE_RX_DROP = "device-rx-drop", "the device or its driver drops received packets",
        explains ["lost-between-layers", "tcp-retransmissions", "tcp-timeouts"];
    /// Cyclic redundancy, framing, length.
    DEVICE_ERRORS = "device-errors", "the device reports broken frames",
        explains [];
    /// softnet_stat.
    BACKLOG_FULL = "backlog-full", "the queue of received packets is full (softnet)",
        explains ["lost-between-layers", "tcp-retransmissions", "tcp-timeouts"];
    /// The processor could not keep up for a while.
    SOFTNET_SQUEEZED = "softnet-squeezed", "the kernel's packet processing runs out of its time",
        explains [];

    // Transport and sockets.

    /// UdpInCsumErrors, TcpInCsumErrors, IpInCsumErrors.
    CHECKSUM_ERRORS = "checksum-errors", "packets arrive with wrong checksums",
        explains ["header-errors", "udp-receive-errors", "tcp-retransmissions", "tcp-timeouts", "lost-between-layers"];
    /// UdpNoPorts.
    UDP_NO_PORT = "udp-no-port", "datagrams arrive for a port at which nobody listens",
        explains ["lost-between-layers", "socket-refused"];
    /// A SYN for a closed port.
    TCP_NO_PORT = "tcp-no-port", "connections are refused: nobody listens at the port",
        explains ["socket-refused"];
    /// UdpRcvbufErrors.
    UDP_RECEIVE_BUFFER = "udp-receive-buffer", "a program is too slow for its datagrams: its receive buffer is full",
        explains ["udp-receive-errors", "lost-between-layers"];
    /// UdpInErrors without its more exact companions.
    UDP_RECEIVE_ERRORS = "udp-receive-errors", "datagrams arrive and can't be delivered",
        explains [];
    /// UdpSndbufErrors, or the call fails for want of room.
    UDP_SEND_BUFFER = "udp-send-buffer", "datagrams can't be sent: the send buffer is full",
        explains ["socket-refused"];
    /// ListenOverflows.
    LISTEN_OVERFLOW = "listen-overflow", "a program accepts connections too slowly: its listen queue is full",
        explains ["listen-drops", "syn-flood", "tcp-retransmissions", "tcp-timeouts", "lost-between-layers"];
    /// ListenDrops without overflow: no memory, no route back.
    LISTEN_DROPS = "listen-drops", "connections are dropped while they are made",
        explains ["tcp-retransmissions"];
    /// TCPReqQFullDoCookies, TCPReqQFullDrop.
    SYN_FLOOD = "syn-flood", "the queue of half-open connections is full",
        explains ["listen-drops", "tcp-timeouts"];
    /// PruneCalled, RcvPruned, TCPRcvQDrop, TCPRcvCollapsed.
    RECEIVE_BUFFER = "receive-buffer", "TCP's receive buffers are full: data is thrown away or squeezed together",
        explains ["tcp-retransmissions", "tcp-timeouts"];
    /// TCPMemoryPressures, TCPAbortOnMemory.
    MEMORY_PRESSURE = "memory-pressure", "TCP has reached its memory limit",
        explains ["receive-buffer", "tcp-retransmissions"];
    /// TCPAbortOnMemory by orphans.
    ORPHANS = "orphans", "too many closed connections wait for their last acknowledgement",
        explains [];
    /// PAWSActive, PAWSEstab, PAWS_OLD_ACK.
    PAWS = "paws", "segments are rejected for old timestamps (PAWS)",
        explains [];
    /// OutOfWindow, TCPACKSkipped…, challenge ACKs.
    OUT_OF_WINDOW = "out-of-window", "segments arrive outside their window",
        explains [];
    /// TcpBacklogDrop.
    SOCKET_BACKLOG = "socket-backlog", "the backlog of a busy socket is full",
        explains [];
    /// RetransSegs.
    TCP_RETRANSMISSIONS = "tcp-retransmissions", "TCP repeats many segments",
        explains [];
    /// TCPTimeouts.
    TCP_TIMEOUTS = "tcp-timeouts", "TCP's retransmission timer expires: segments or their answers are lost",
        explains ["tcp-retransmissions"];
    /// TCPSACKReorder, TCPTSReorder, TCPDSACKRecv.
    TCP_REORDERING = "tcp-reordering", "segments arrive out of order",
        explains [];
    /// A system call failed.
    SOCKET_REFUSED = "socket-refused", "the kernel refuses to send",
        explains [];
    /// A drop reason of the kernel's that no check knows better.
    KERNEL_DROP = "kernel-drop", "the kernel drops packets",
        explains [];
    /// Probes vanish between two places of this host, and nothing says why.
    LOST_BETWEEN_LAYERS = "lost-between-layers", "packets vanish inside this host",
        explains [];

    // The path.

    /// They leave here and do not arrive there.
    LOST_ON_PATH = "lost-on-path", "packets leave this host and do not arrive",
        explains ["tcp-retransmissions", "tcp-timeouts"];
    /// There is no answer, and nobody at the far end who could say why.
    NO_ANSWER = "no-answer", "packets leave this host and are not answered",
        explains [];
    /// The path takes the offer's option out.
    OPTION_STRIPPED = "option-stripped", "the path removes TCP options",
        explains [];
    /// Segments with the option vanish.
    OPTION_DROPPED = "option-dropped", "the path drops segments with the signalling option",
        explains ["lost-on-path"];
    /// A proxy or firewall changes sequence numbers.
    SEQUENCE_REWRITTEN = "sequence-rewritten", "the path changes sequence numbers",
        explains [];
    /// MSS clamping.
    MSS_REWRITTEN = "mss-rewritten", "the path changes the MSS",
        explains [];
    /// ECN bits cleared.
    ECN_CLEARED = "ecn-cleared", "the path clears ECN",
        explains [];
    /// Ports or addresses change: a NAT.
    ADDRESS_REWRITTEN = "address-rewritten", "the path changes addresses or ports",
        explains ["early-data-dropped"];
    /// Early data, which follows a SYN before its answer, vanishes.
    EARLY_DATA_DROPPED = "early-data-dropped", "the path drops data that comes before the handshake is done",
        explains ["lost-on-path"];
    /// The other doctor does not answer.
    PEER_SILENT = "peer-silent", "the other doctor does not answer",
        explains [];

    // The daemon.

    /// No process of it.
    DAEMON_NOT_RUNNING = "daemon-not-running", "the daemon does not run",
        explains ["guard-missing"];
    /// Its control socket is silent.
    DAEMON_NOT_ANSWERING = "daemon-not-answering", "the daemon runs and does not answer",
        explains ["capture-overrun"];
    /// No table of it.
    GUARD_MISSING = "guard-missing", "the kernel guard is missing: the kernel forwards besides the daemon",
        explains ["kernel-path-race"];
    /// Its rules are for other services or interfaces.
    GUARD_MISMATCH = "guard-mismatch", "the kernel guard does not match the services",
        explains ["kernel-path-race"];
    /// Something before the guard forwards or takes the packets.
    KERNEL_PATH_RACE = "kernel-path-race", "the kernel forwards packets that the daemon handles",
        explains [];
    /// A capability that the process needs.
    CAPABILITY_MISSING = "capability-missing", "the daemon lacks a capability",
        explains ["daemon-not-running"];
    /// On the file, and not in the process.
    CAPABILITY_LATE = "capability-late", "the program's file was given capabilities after the process started",
        explains ["capability-missing"];
    /// AppArmor, SELinux, seccomp.
    CONFINED = "confined", "a security module or seccomp confines the daemon",
        explains ["capability-missing"];
    /// Two of them on one interface.
    SECOND_INSTANCE = "second-instance", "two daemons serve the same interface",
        explains ["guard-mismatch"];
    /// A BPF program, pin, table or device of a daemon that is gone.
    LEFTOVER = "leftover", "something of a daemon that is gone is still in the kernel",
        explains [];
    /// Its capture queue.
    CAPTURE_OVERRUN = "capture-overrun", "the daemon is too slow: its capture queue is full",
        explains [];
    /// Its bounds.
    BOUND_REACHED = "bound-reached", "the daemon has reached one of its bounds",
        explains [];
    /// Offers whose signature is wrong.
    KEY_MISMATCH = "key-mismatch", "the NICs' keys differ: offers are not authentic",
        explains [];
    /// Its own packets are refused.
    EMISSION_FAILED = "emission-failed", "the kernel refuses the daemon's packets",
        explains [];
    /// Super-packets are cut in user space.
    SLOW_PATH = "slow-path", "super-packets can't go on whole, and are cut in user space",
        explains [];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_consequences_exist() {
        for (index, cause) in ALL.iter().enumerate() {
            assert!(cause.id.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", cause.id);
            assert!(!ALL[..index].iter().any(|other| other.id == cause.id), "{} twice", cause.id);
            for effect in cause.explains {
                assert!(ALL.iter().any(|other| other.id == *effect), "{} explains {effect}", cause.id);
                assert_ne!(cause.id, *effect);
            }
        }
    }
}
