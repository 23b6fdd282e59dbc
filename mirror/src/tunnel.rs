//! Tunnels.
/// Which encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// VXLAN.
    Vxlan,
    /// GENEVE.
    Geneve,
}
/// A port that a tunnel's packets arrive at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Encapsulation.
    pub kind: Kind,
    /// UDP port.
    pub port: u16,
    /// VNIs; empty: all.
    pub vnis: Vec<u32>,
}
