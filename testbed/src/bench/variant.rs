//! What is measured: kernel forwarding, the middlebox in its forms, and what people use instead.

use crate::compare::plan::Installed;
use crate::nic::{self, NicMode, NicOptions};
use crate::program::{nft, nginx};
use clap::ValueEnum;
use serde::Serialize;

/// A way to get packets from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The kernels of both NICs forward; nothing of ours runs. All else is measured against it.
    Kernel,
    /// Both NICs, every packet through user space.
    Nics,
    /// Both NICs; ServerNIC translates in user space, ClientNIC is out of the way after the handshake.
    NicsMixed,
    /// Both NICs, established flows translated by the kernel (BPF).
    NicsOffload,
    /// ClientNIC alone, every packet through user space.
    Solo,
    /// HAProxy in TCP mode on both NICs.
    HaproxyTcp,
    /// nginx's stream proxy on both NICs.
    NginxStream,
    /// The kernel's SYNPROXY on ClientNIC: it answers SYNs near the client, too.
    Synproxy,
    /// A plain loop of `pnet` captures and raw `sendto` on both NICs, which changes nothing.
    Pnet,
}

impl Variant {
    /// Every variant, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Kernel,
        Self::Nics,
        Self::NicsMixed,
        Self::NicsOffload,
        Self::Solo,
        Self::HaproxyTcp,
        Self::NginxStream,
        Self::Synproxy,
        Self::Pnet,
    ];

    /// Returns the name used on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Nics => "nics",
            Self::NicsMixed => "nics-mixed",
            Self::NicsOffload => "nics-offload",
            Self::Solo => "solo",
            Self::HaproxyTcp => "haproxy-tcp",
            Self::NginxStream => "nginx-stream",
            Self::Synproxy => "synproxy",
            Self::Pnet => "pnet",
        }
    }

    /// Says in a sentence what it is.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Kernel => "Both NICs forward with the kernel alone: the measure of all else.",
            Self::Nics => "Both NICs, paired; every packet goes through user space.",
            Self::NicsMixed => {
                "Both NICs, paired; ServerNIC translates in user space, ClientNIC's kernel forwards what only passes by."
            }
            Self::NicsOffload => {
                "Both NICs, paired; user space makes the handshake, a BPF program translates what follows."
            }
            Self::Solo => "ClientNIC alone; ServerNIC forwards with its kernel.",
            Self::HaproxyTcp => {
                "HAProxy on both NICs, one thread each: ends the client's connection and opens others."
            }
            Self::NginxStream => "nginx's stream proxy on both NICs, one process each: likewise.",
            Self::Synproxy => {
                "The kernel's SYNPROXY on ClientNIC: answers the SYN near the client, and holds the client \
                 back by a window of zero until the server has answered."
            }
            Self::Pnet => {
                "A forwarder as one would write it first: pnet_datalink captures, a raw socket sends, packet by packet; \
                 it changes nothing and speeds nothing up."
            }
        }
    }

    /// Tells whether it ends connections instead of forwarding their packets.
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::HaproxyTcp | Self::NginxStream)
    }

    /// Tells whether it is this project's.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Nics | Self::NicsMixed | Self::NicsOffload | Self::Solo)
    }

    /// Returns its colour as `#rrggbb`: after Okabe and Ito, apart for every kind of colour vision.
    pub fn colour(self) -> &'static str {
        match self {
            Self::Kernel => "#8a93a0",
            Self::Nics => "#1f7ae0",
            Self::NicsMixed => "#20a8c8",
            Self::NicsOffload => "#12a078",
            Self::Solo => "#e0a020",
            Self::HaproxyTcp => "#d8602a",
            Self::NginxStream => "#c065a8",
            Self::Synproxy => "#5b4fc0",
            Self::Pnet => "#8a6a3c",
        }
    }
}

/// What this build and this machine can do.
#[derive(Debug, Clone)]
pub struct Abilities {
    /// Programs found.
    pub installed: Installed,
    /// nginx has its stream module.
    pub nginx_stream: Option<nginx::StreamModule>,
    /// `nft` is installed.
    pub nft: bool,
    /// The daemons know `--offload`.
    pub offload: bool,
    /// The daemons know `--workers`.
    pub workers: bool,
}

impl Abilities {
    /// Looks around.
    ///
    /// # Errors
    /// If the daemons can't be asked for their options.
    pub fn look() -> anyhow::Result<Self> {
        let installed = Installed::look();
        Ok(Self {
            nginx_stream: installed.nginx.as_deref().and_then(nginx::StreamModule::find),
            nft: nft::is_installed(),
            offload: nic::has_option("--offload")?,
            workers: nic::has_option("--workers")?,
            installed,
        })
    }

    /// Returns why a variant can't be measured at all, or `None` if it can as far as is known.
    pub fn absence(&self, variant: Variant) -> Option<&'static str> {
        match variant {
            Variant::Kernel | Variant::Nics | Variant::Solo | Variant::Pnet => None,
            Variant::NicsMixed | Variant::NicsOffload => {
                (!self.offload).then_some("this build has no kernel offload")
            }
            Variant::HaproxyTcp => self.installed.haproxy.is_none().then_some("haproxy is not installed"),
            Variant::NginxStream if self.installed.nginx.is_none() => Some("nginx is not installed"),
            Variant::NginxStream => self.nginx_stream.is_none().then_some("nginx lacks its stream module"),
            Variant::Synproxy => (!self.nft).then_some("nft is not installed"),
        }
    }

    /// Returns how the daemons are run for a variant.
    pub fn options(&self, variant: Variant, mode: NicMode, workers: Option<u32>) -> NicOptions {
        let offload = |choice: &str| match self.offload {
            true => vec!["--offload".to_owned(), choice.to_owned()],
            false => Vec::new(),
        };
        let (mut arguments, server_arguments) = match variant {
            Variant::Nics | Variant::Solo => (offload("off"), Vec::new()),
            Variant::NicsMixed => (Vec::new(), offload("off")),
            Variant::NicsOffload => (offload("auto"), Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        if let Some(workers) = workers.filter(|_| self.workers) {
            arguments.extend(["--workers".to_owned(), workers.to_string()]);
        }
        NicOptions { mode, arguments, server_arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(offload: bool) -> Abilities {
        Abilities { installed: Installed::default(), nginx_stream: None, nft: false, offload, workers: true }
    }

    #[test]
    fn names_are_those_of_the_command_line_and_of_json() {
        for (index, variant) in Variant::ALL.into_iter().enumerate() {
            assert_eq!(variant.to_possible_value().unwrap().get_name(), variant.name());
            assert_eq!(serde_json::to_value(variant).unwrap(), variant.name());
            assert!(Variant::ALL[..index].iter().all(|other| other.colour() != variant.colour()));
        }
    }

    #[test]
    fn user_space_stays_user_space_where_a_build_could_offload() {
        let told = |is_new, variant, workers| {
            let options = abilities(is_new).options(variant, NicMode::Paired, workers);
            format!("{}|{}", options.arguments.join(" "), options.server_arguments.join(" "))
        };
        assert_eq!(told(false, Variant::Nics, None), "|");
        assert!(abilities(false).absence(Variant::NicsOffload).is_some());
        assert_eq!(told(true, Variant::Solo, None), "--offload off|");
        assert_eq!(told(true, Variant::NicsOffload, Some(2)), "--offload auto --workers 2|");
        assert_eq!(told(true, Variant::NicsMixed, None), "|--offload off");
        assert_eq!(told(true, Variant::Kernel, None), "|");
        assert_eq!(abilities(true).absence(Variant::NicsOffload), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let nothing = abilities(false);
        assert_eq!(nothing.absence(Variant::Kernel), None);
        assert!(nothing.absence(Variant::HaproxyTcp).unwrap().contains("haproxy"));
        assert!(nothing.absence(Variant::Synproxy).unwrap().contains("nft"));
    }
}
