//! TCP and UDP.

use super::internet::checksum;
use super::{Blame, MANY, SOME, Verdict};
use crate::causes;
use crate::check::drops::{ICMP, ICMP6, TCP, UDP};
use crate::finding::Layer;
use crate::look::drops::Dropped;

/// TCP, UDP and their sockets.
pub(super) fn transport(reason: &str, dropped: &Dropped) -> Verdict {
    let paws = |least| {
        Blame::loss(
            &causes::PAWS,
            Layer::Transport,
            "nstat -az TcpExtPAWSEstab",
            "the sender's timestamps go back: several hosts behind one address, or a \
             middlebox that changes them",
        )
        .from(least)
    };
    let window = || {
        Blame::loss(
            &causes::OUT_OF_WINDOW,
            Layer::Transport,
            "nstat -az TcpExtTCPChallengeACK TcpExtTCPACKSkippedSeq",
            "something on the path changes sequence numbers, or connections are half open",
        )
        .symptom()
        .from(MANY)
    };
    let buffer = |cause, command| {
        Blame::loss(
            cause,
            Layer::Socket,
            command,
            "make the receive buffer larger (SO_RCVBUF, net.core.rmem_max, \
             net.ipv4.tcp_rmem), or the program faster",
        )
    };
    Some(Some(match reason {
        "NO_SOCKET" if dropped.protocol == UDP => Blame::loss(
            &causes::UDP_NO_PORT,
            Layer::Transport,
            "ss -lun; nstat -az UdpNoPorts",
            "start the program that should listen there, or correct the port or address it listens at",
        )
        .from(SOME),
        // Other segments without a socket are those of connections that are gone.
        "NO_SOCKET" if dropped.protocol == TCP && dropped.is_syn => Blame::loss(
            &causes::TCP_NO_PORT,
            Layer::Transport,
            "ss -ltn; nstat -az TcpOutRsts",
            "start the program that should listen there, or correct the port or address it listens at",
        )
        .symptom()
        .from(SOME),
        "NO_SOCKET" => return Some(None),
        "TCP_CSUM" | "UDP_CSUM" => checksum(Layer::Transport),
        "ICMP_CSUM" => checksum(Layer::Ip),
        "SOCKET_RCVBUFF" if dropped.protocol == UDP => {
            buffer(&causes::UDP_RECEIVE_BUFFER, "ss -uanm; nstat -az UdpRcvbufErrors")
        }
        "SOCKET_RCVBUFF" if matches!(dropped.protocol, ICMP | ICMP6) => return Some(None),
        "SOCKET_RCVBUFF" | "TCP_OFO_QUEUE_PRUNE" | "TCP_OFO_DROP" => {
            buffer(&causes::RECEIVE_BUFFER, "ss -tanm; nstat -az TcpExtRcvPruned TcpExtTCPRcvQDrop")
        }
        "PROTO_MEM" | "NOMEM" => Blame::loss(
            &causes::MEMORY_PRESSURE,
            Layer::Transport,
            "cat /proc/net/sockstat; sysctl net.ipv4.tcp_mem net.ipv4.udp_mem",
            "raise net.ipv4.tcp_mem or net.ipv4.udp_mem, or give the host more memory",
        ),
        "SOCKET_BACKLOG" => Blame::loss(
            &causes::SOCKET_BACKLOG,
            Layer::Socket,
            "nstat -az TcpExtTCPBacklogDrop",
            "the program keeps its socket busy; raise net.core.rmem_max or SO_RCVBUF",
        ),
        "TCP_LISTEN_OVERFLOW" => Blame::loss(
            &causes::LISTEN_OVERFLOW,
            Layer::Socket,
            "ss -ltn; nstat -az TcpExtListenOverflows",
            "let the program accept faster, or raise its backlog and net.core.somaxconn",
        ),
        "TCP_RFC7323_PAWS" | "TCP_RFC7323_TSECR" => paws(SOME),
        "TCP_OVERWINDOW"
        | "TCP_INVALID_SEQUENCE"
        | "TCP_INVALID_END_SEQUENCE"
        | "TCP_INVALID_ACK_SEQUENCE" => window(),
        "TCP_MD5NOTFOUND" | "TCP_MD5UNEXPECTED" | "TCP_MD5FAILURE" | "TCP_AUTH_HDR" | "TCP_AONOTFOUND"
        | "TCP_AOUNEXPECTED" | "TCP_AOKEYNOTFOUND" | "TCP_AOFAILURE" => Blame::loss(
            &causes::KERNEL_DROP,
            Layer::Transport,
            "nstat -az | grep -e MD5 -e TCPAO",
            "the ends' TCP-MD5 or TCP-AO keys differ, or only one has them",
        ),
        "TCP_MINTTL" => Blame::loss(
            &causes::KERNEL_DROP,
            Layer::Transport,
            "nstat -az TcpExtTCPMinTTLDrop",
            "segments come with a smaller hop limit than the program asks for (IP_MINTTL)",
        ),
        _ => return None,
    }))
}
