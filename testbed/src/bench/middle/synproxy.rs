//! The kernel's SYNPROXY, as an administrator would set it up near the client.

use crate::host::Host;
use crate::program::nft;
use anyhow::Context;
use rtt0_netio::sysctl;

/// Only packets of the client's side are looked at. SYNs stay untracked, so that SYNPROXY answers
/// them; the ACK that completes a handshake is invalid to connection tracking, so that it gets that,
/// too.
const RULES: &str = "
table ip bench_synproxy {
  chain untracked {
    type filter hook prerouting priority raw; policy accept;
    iifname lan0 tcp flags & (syn|ack) == syn notrack
  }
  chain proxied {
    type filter hook forward priority filter; policy accept;
    iifname lan0 meta l4proto tcp ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
    ct state invalid drop
  }
}
";
const REMOVAL: &str = "delete table ip bench_synproxy\n";
/// Connection tracking must not adopt connections in the middle.
const LOOSE: &str = "net.netfilter.nf_conntrack_tcp_loose";

/// SYNPROXY on a host; its rules are removed when dropped.
#[derive(Debug)]
pub struct Synproxy<'a> {
    host: &'a Host,
}

impl<'a> Synproxy<'a> {
    /// Sets the rules.
    ///
    /// # Errors
    /// If `nft` is not installed or the kernel lacks SYNPROXY (`CONFIG_NFT_SYNPROXY`).
    pub(super) fn start(host: &'a Host) -> anyhow::Result<Self> {
        nft::apply(host, RULES).context("SYNPROXY can't be set up")?;
        let synproxy = Self { host };
        sysctl::set(host.namespace(), &[(LOOSE, "0")]).context("connection tracking can't be made strict")?;
        Ok(synproxy)
    }
}

impl Drop for Synproxy<'_> {
    fn drop(&mut self) {
        if let Err(error) = nft::apply(self.host, REMOVAL) {
            eprintln!("SYNPROXY's rules stay: {error:#}");
        }
    }
}
