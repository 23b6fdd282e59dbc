//! Which tunnels are expected, at which UDP ports.

use super::Kind;
use std::collections::BTreeMap;

/// The largest virtual network identifier: it has 24 bits in both kinds of tunnel.
const MAX_VNI: u32 = 0xff_ffff;

/// One kind of tunnel that is expected at a UDP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Which.
    pub kind: Kind,
    /// The outer packets' UDP destination port; not 0.
    pub port: u16,
    /// Identifiers that are asked for, 24 bits each; if there are none, all are.
    pub vnis: Vec<u32>,
}

/// Why tunnels can't be listened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelsError {
    /// Nothing tells one from the other.
    #[error("both VXLAN and GENEVE are expected at UDP port {port}: it can be only one")]
    TwoKinds {
        /// The port.
        port: u16,
    },
    /// No identifier has more bits.
    #[error("VNI {vni} of UDP port {port} is above 16777215, the largest there is")]
    Vni {
        /// The port it is asked for at.
        port: u16,
        /// The identifier.
        vni: u32,
    },
    /// No datagram is sent to port 0.
    #[error("a tunnel is expected at UDP port 0, which is none")]
    PortZero,
}

/// The tunnels that are expected. A look-up is a binary search in the ports, of which there are one or two, and another
/// in the port's identifiers.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    /// In order of their ports.
    tunnels: Box<[Tunnel]>,
}

/// What is expected at one port.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    port: u16,
    kind: Kind,
    /// In order; empty for all.
    vnis: Box<[u32]>,
}

impl Tunnels {
    /// Takes what is expected. Where a port is named twice, what either asks for is.
    ///
    /// # Errors
    /// [`TunnelsError`] names what can't be.
    pub fn new(listening: &[Listening]) -> Result<Self, TunnelsError> {
        let mut tunnels: BTreeMap<u16, Tunnel> = BTreeMap::new();
        for Listening { kind, port, vnis } in listening {
            let port = *port;
            if port == 0 {
                return Err(TunnelsError::PortZero);
            }
            if let Some(&vni) = vnis.iter().find(|vni| **vni > MAX_VNI) {
                return Err(TunnelsError::Vni { port, vni });
            }
            let mut vnis = vnis.clone();
            if let Some(other) = tunnels.get(&port) {
                if other.kind != *kind {
                    return Err(TunnelsError::TwoKinds { port });
                }
                if other.vnis.is_empty() || vnis.is_empty() {
                    vnis.clear();
                } else {
                    vnis.extend(&other.vnis);
                }
            }
            vnis.sort_unstable();
            vnis.dedup();
            tunnels.insert(port, Tunnel { port, kind: *kind, vnis: vnis.into() });
        }
        Ok(Self { tunnels: tunnels.into_values().collect() })
    }

    /// Iterates over the ports, each once, in ascending order.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.tunnels.iter().map(|tunnel| tunnel.port)
    }

    /// Returns what is expected at `port`.
    pub(super) fn at(&self, port: u16) -> Option<&Tunnel> {
        let index = self.tunnels.binary_search_by_key(&port, |tunnel| tunnel.port).ok()?;
        self.tunnels.get(index)
    }
}

impl Tunnel {
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Tells whether an identifier is asked for.
    pub(super) fn wants(&self, vni: u32) -> bool {
        self.vnis.is_empty() || self.vnis.binary_search(&vni).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vxlan(port: u16, vnis: &[u32]) -> Listening {
        Listening { kind: Kind::Vxlan, port, vnis: vnis.to_vec() }
    }

    #[test]
    fn what_can_not_be_is_named() {
        let refused =
            |listening: &[Listening]| Tunnels::new(listening).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(refused(&[vxlan(4789, &[0, MAX_VNI])]), Ok(()));
        let error = refused(&[vxlan(4789, &[1, MAX_VNI + 1])]).unwrap_err();
        assert!(error.contains("16777216") && error.contains("4789"), "{error}");
        let geneve = Listening { kind: Kind::Geneve, ..vxlan(4789, &[]) };
        let error = refused(&[vxlan(6081, &[]), vxlan(4789, &[]), geneve.clone()]).unwrap_err();
        assert!(error.contains("4789"), "{error}");
        assert_eq!(refused(&[vxlan(6081, &[]), geneve]), Ok(()));
        assert!(refused(&[vxlan(0, &[])]).is_err());
    }

    #[test]
    fn a_port_named_twice_takes_what_either_asks_for() {
        let tunnels = Tunnels::new(&[vxlan(9, &[5, 1]), vxlan(4, &[]), vxlan(9, &[1, 3]), vxlan(4, &[7])]);
        let tunnels = tunnels.unwrap();
        assert_eq!(tunnels.ports().collect::<Vec<_>>(), [4, 9]);
        let wanted = |port| (0..9).filter(|vni| tunnels.at(port).unwrap().wants(*vni)).collect::<Vec<u32>>();
        assert_eq!(wanted(9), [1, 3, 5]);
        assert_eq!(wanted(4).len(), 9, "all");
        assert!(tunnels.at(5).is_none());
    }

    proptest! {
        #[test]
        fn look_up_is_what_the_list_says(
            list in prop::collection::vec((1u16..8, prop::collection::vec(0u32..6, 0..4)), 0..6),
            port in 0u16..9, vni in 0u32..7,
        ) {
            let listening: Vec<_> = list.iter().map(|(port, vnis)| vxlan(*port, vnis)).collect();
            let tunnels = Tunnels::new(&listening).unwrap();
            let found = tunnels.at(port).map(|tunnel| tunnel.wants(vni));
            let mut here = list.iter().filter(|(other, _)| *other == port).peekable();
            let expected = here.peek().is_some().then(|| here.any(|(_, v)| v.is_empty() || v.contains(&vni)));
            prop_assert_eq!(found, expected);
        }
    }
}
