//! What can be compared: modes, clients, servers, IP versions.

use crate::address::{self, Dual};
use clap::ValueEnum;
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Port of the server, and of the proxies in front of it.
const PORT: u16 = 8080;

/// A way to get from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The kernels of both NICs forward; nothing of ours runs.
    Kernel,
    /// ClientNIC alone speeds the handshake up; ServerNIC forwards.
    Solo,
    /// Both NICs.
    Paired,
    /// TCP Fast Open: both endpoints changed, the NICs forward.
    Tfo,
    /// HAProxy in TCP mode on both NICs.
    HaproxyTcp,
    /// HAProxy in HTTP mode on both NICs, with warm pooled connections between them.
    HaproxyHttp,
}

impl Mode {
    /// Every mode, in the order in which they are shown.
    pub const ALL: [Self; 6] =
        [Self::Kernel, Self::Solo, Self::Paired, Self::Tfo, Self::HaproxyTcp, Self::HaproxyHttp];

    /// Returns the name used on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Solo => "solo",
            Self::Paired => "paired",
            Self::Tfo => "tfo",
            Self::HaproxyTcp => "haproxy-tcp",
            Self::HaproxyHttp => "haproxy-http",
        }
    }

    /// Returns a title for readers of the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::Kernel => "Kernel forwarding",
            Self::Solo => "Solo: ClientNIC only",
            Self::Paired => "Paired: both NICs",
            Self::Tfo => "TCP Fast Open",
            Self::HaproxyTcp => "HAProxy, TCP",
            Self::HaproxyHttp => "HAProxy, pooled HTTP",
        }
    }

    /// Says in a sentence what happens to the handshake.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Kernel => {
                "Ordinary TCP: the handshake crosses the whole path before the request may leave."
            }
            Self::Solo => {
                "ClientNIC answers the SYN itself and holds the request until the real SYN-ACK is back: \
                 only the client's leg is saved."
            }
            Self::Paired => {
                "ClientNIC answers the SYN itself; the request follows it across the long leg, and \
                 ServerNIC releases it once the server has answered."
            }
            Self::Tfo => {
                "The request rides on the SYN. Client and server must both be changed, and a SYN may be \
                 replayed."
            }
            Self::HaproxyTcp => {
                "Each proxy ends the connection and opens another; the long leg still has a handshake for \
                 every client connection."
            }
            Self::HaproxyHttp => {
                "Each proxy ends the connection; requests share warm connections across the long leg. HTTP \
                 only, and the proxies acknowledge data for the server."
            }
        }
    }

    /// Tells whether HAProxy is needed.
    pub fn needs_haproxy(self) -> bool {
        matches!(self, Self::HaproxyTcp | Self::HaproxyHttp)
    }
}

/// A client program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientKind {
    /// The built-in client.
    Builtin,
    /// curl, where installed.
    Curl,
}

impl ClientKind {
    /// Returns the name used on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Curl => "curl",
        }
    }
}

/// A server program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// The built-in server.
    Builtin,
    /// nginx, where installed.
    Nginx,
}

impl ServerKind {
    /// Returns the name used on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Nginx => "nginx",
        }
    }
}

/// An IP version; written as the number 4 or 6 in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Returns 4 or 6.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// Returns the host's address of this version.
    pub fn of(self, host: Dual) -> IpAddr {
        match self {
            Self::V4 => host.v4.into(),
            Self::V6 => host.v6.into(),
        }
    }

    /// Returns where the server listens.
    pub fn server(self) -> SocketAddr {
        SocketAddr::new(self.of(address::SERVER), PORT)
    }

    /// Returns where a proxy on ClientNIC listens.
    pub fn client_nic(self) -> SocketAddr {
        SocketAddr::new(self.of(address::CLIENT_NIC_LAN), PORT)
    }

    /// Returns where a proxy on ServerNIC listens.
    pub fn server_nic(self) -> SocketAddr {
        SocketAddr::new(self.of(address::SERVER_NIC_WAN), PORT)
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv{}", self.number())
    }
}

impl Serialize for IpVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line_and_of_json() {
        for mode in Mode::ALL {
            let value = mode.to_possible_value().unwrap();
            assert_eq!(value.get_name(), mode.name());
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
        assert_eq!(serde_json::to_value(IpVersion::V6).unwrap(), 6);
    }
}
