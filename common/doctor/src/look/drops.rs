//! The packets that the kernel drops, by its own reasons (tracepoint skb:kfree_skb).

/// Packets dropped for one reason at one place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped {
    /// The kernel's name for it without `SKB_DROP_REASON_`, such as `NETFILTER_DROP`.
    pub reason: String,
    /// The kernel's function that dropped them, if known.
    pub location: Option<String>,
    /// Those that had called it, the nearest first, as far as known.
    pub callers: Vec<String>,
    /// The device that they were on, by index; 0 if none.
    pub interface: u32,
    /// The IP protocol; 0 if unknown.
    pub protocol: u8,
    /// Source and destination port; 0 if unknown.
    pub ports: (u16, u16),
    /// How many.
    pub packets: u64,
}

/// Watches this network namespace.
#[derive(Debug)]
pub struct DropMonitor {}

impl DropMonitor {
    /// Begins to count.
    ///
    /// # Errors
    /// Why this kernel or this user can't, and what would help.
    pub fn start() -> Result<Self, String> {
        Err("not built yet".to_owned())
    }

    /// Returns what was dropped since.
    ///
    /// # Errors
    /// As [`DropMonitor::start`].
    pub fn stop(self) -> Result<Vec<Dropped>, String> {
        Ok(Vec::new())
    }
}
