//! What is told of probes: how they are sent, and who has seen how many.

/// How probes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

impl Protocol {
    /// Returns its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Returns its name, as `--probe` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How many of the probes a layer has seen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sighting {
    /// The place, in words, such as `nft output, first`.
    pub place: String,
    /// The layer's name ([`crate::finding::Layer::name`]) in which packets are lost that are seen before this place and not here.
    pub layer: String,
    /// How many were seen; none if it can't tell.
    pub packets: Option<u64>,
    /// What stands between the place before and this one and may drop them, such as rules or programs.
    pub suspects: Vec<String>,
}
