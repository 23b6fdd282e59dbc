//! The configuration, checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rtt0_core::gateway::RouterAddresses;
use rtt0_core::limits::Limits;
use rtt0_core::offer::Keys;
use rtt0_core::service::{Service, Services};
use rtt0_netio::emit::{DEVICE_PREFIX, EMIT_MARK};
use rtt0_netio::guard::Guard;
use rtt0_netio::interface::{self, Interface};
use rtt0_netio::privilege;

use crate::cli::RunArgs;
use crate::control;
use crate::failure::Failure;
use crate::key_file::{self, KeyFileError};
use crate::offload::Offloading;

/// What the command line asks for, with everything looked up that it names.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) services: Services,
    /// `None` only for a dry run without a key file.
    pub(crate) keys: Option<Keys>,
    /// The bounds of all workers together.
    pub(crate) limits: Limits,
    /// Folder of the state file, if there is to be one.
    pub(crate) state_dir: Option<PathBuf>,
    /// Who forwards established flows.
    pub(crate) offload: Offloading,
    /// Folder for what outlives the process in the kernel.
    pub(crate) bpf_dir: PathBuf,
    /// 0 for ordinary scheduling.
    pub(crate) realtime_priority: u8,
    /// Packet threads, 1 or more.
    pub(crate) workers: usize,
    /// Their processors; none for any.
    pub(crate) cpus: Vec<usize>,
    /// How long they look for packets before they sleep.
    pub(crate) busy_poll: Duration,
    /// How long they let packets gather while many come.
    pub(crate) gather: Duration,
    /// Whether the host's processors are kept from sleeping.
    pub(crate) awake: bool,
    /// Where what becomes of each packet is written, if anywhere, and how many packets.
    pub(crate) trace: Option<(PathBuf, u64)>,
    /// Whether the log cuts addresses of clients and servers to their networks.
    pub(crate) is_redacted: bool,
    /// Where operators talk to the daemon, if anywhere.
    pub(crate) control_socket: Option<PathBuf>,
    /// Where metrics are served, if anywhere.
    pub(crate) metrics_address: Option<SocketAddr>,
}

impl Setup {
    /// Checks the configuration first and then, except for a dry run, the privileges, so that an
    /// unprivileged user learns of every mistake. Changes nothing.
    pub(crate) fn new(program: &str, args: &RunArgs) -> Result<Self, Failure> {
        let (rules, interfaces) = (rules(args)?, interfaces(args)?);
        let state_dir = (!args.no_state).then(|| args.state_dir.clone());
        let keys = match &args.key_file {
            Some(path) => key_file::read(path).map(Some),
            None if args.dry_run => Ok(None),
            None => Err(KeyFileError::NotGiven),
        };
        // A key file that only root can read is no mistake: then the privileges are missing.
        if !args.dry_run && keys.as_ref().err().is_none_or(key_file::KeyFileError::is_permission_denied) {
            privilege::check()?;
        }
        Ok(Self {
            interfaces,
            services: Services::new(rules, interface::local_addresses()),
            keys: keys?,
            limits: args.bounds.limits(),
            state_dir: state_dir.clone(),
            offload: args.offload,
            bpf_dir: args.bpf_dir.clone(),
            realtime_priority: args.realtime_priority,
            workers: args.workers.into(),
            cpus: args.cpus.clone(),
            busy_poll: Duration::from_micros(args.busy_poll.into()),
            gather: Duration::from_micros(args.gather.into()),
            awake: args.awake,
            trace: args.pcap.clone().map(|file| (file, args.pcap_packets)),
            is_redacted: args.redact_addresses,
            control_socket: control_socket(program, args),
            metrics_address: args.metrics_address,
        })
    }

    /// Checks the configuration as [`Setup::new`] does, for which no privileges are needed. Returns why the key
    /// file can't be read, if that is for want of them.
    pub(crate) fn check(args: &RunArgs) -> Result<Option<KeyFileError>, Failure> {
        match Self::keys(args) {
            Ok(_) => Ok(None),
            Err(Failure::KeyFile(error)) if error.is_permission_denied() => Ok(Some(error)),
            Err(failure) => Err(failure),
        }
    }

    /// Checks what may have changed since, and returns the keys.
    pub(crate) fn keys(args: &RunArgs) -> Result<Keys, Failure> {
        rules(args)?;
        interfaces(args)?;
        let path = args.key_file.as_deref().ok_or(KeyFileError::NotGiven)?;
        Ok(key_file::read(path)?)
    }

    /// Returns the interfaces' names.
    pub(crate) fn interface_names(&self) -> Vec<String> {
        self.interfaces.iter().map(|interface| interface.name.clone()).collect()
    }

    /// Describes what [`serve`](crate::serve::serve) would change on this host.
    pub(crate) fn describe(&self, program: &str) -> String {
        let guard = Guard::describe(
            &self.interface_names(),
            &self.services,
            EMIT_MARK,
            self.offload != Offloading::Off,
        );
        let offload = match self.offload {
            Offloading::Auto | Offloading::Handshakes | Offloading::Established => format!(
                "a BPF program at the interfaces' ingress (tcx), if the kernel takes it; pinned under {}\n# while \
                 it has flows; and a device {DEVICE_PREFIX}N, out of which it copies what is to be captured",
                self.bpf_dir.display()
            ),
            Offloading::Off => "none".to_owned(),
        };
        let state = match &self.state_dir {
            Some(folder) => format!("{}/{program}.state, which stays", folder.display()),
            None => "none".to_owned(),
        };
        format!(
            "# Kernel guard, in nft syntax; it is removed when the daemon ends in whatever way:\n{guard}\
             # Offload changes: none. Super-packets (GRO, TSO) are routed whole through a device {DEVICE_PREFIX}N (TUN,\n\
             # else veth) that goes with the daemon; without it they are re-segmented.\n\
             # Established flows in the kernel: {offload}.\n\
             # State file: {state}.\n"
        )
    }

    /// Returns the smallest MTU of the named interfaces, in bytes.
    pub(crate) fn smallest_mtu(&self) -> Result<u16, Failure> {
        let mtus = self.interfaces.iter().map(Interface::mtu).collect::<Result<Vec<_>, _>>();
        let mtus = mtus.map_err(|source| Failure::Control { action: "read the interfaces' MTU", source })?;
        Ok(mtus.into_iter().min().unwrap_or(u16::MAX))
    }

    /// Picks the addresses for ICMP errors of our own: of the named interfaces, else of any.
    pub(crate) fn router_addresses(&self) -> RouterAddresses {
        let named = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        let addresses: Vec<IpAddr> =
            named.chain(self.services.local()).copied().filter(can_be_a_source).collect();
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        RouterAddresses { v4, v6 }
    }
}

/// Returns where operators talk to the daemon, if anywhere.
pub(crate) fn control_socket(program: &str, args: &RunArgs) -> Option<PathBuf> {
    match &args.control_socket {
        Some(path) => Some(path.clone()).filter(|path| !path.as_os_str().is_empty()),
        None if args.no_state => None,
        None => Some(control::usual(&args.state_dir, program)),
    }
}

/// Reads the services.
pub(crate) fn rules(args: &RunArgs) -> Result<Vec<Service>, Failure> {
    Ok(args.services.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// Looks up the named interfaces, each once.
fn interfaces(args: &RunArgs) -> Result<Vec<Interface>, Failure> {
    let mut names = args.interfaces.clone();
    names.sort_unstable();
    names.dedup();
    Ok(names.iter().map(|name| interface::by_name(name)).collect::<Result<_, _>>()?)
}

/// Link-local and loopback addresses mean nothing beyond the link.
fn can_be_a_source(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !link_local && !address.is_loopback() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_addresses_prefer_the_named_interfaces() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let interface = Interface {
            name: "lan0".to_owned(),
            index: 2,
            up: true,
            addresses: vec![address("fe80::1"), address("10.1.0.1")],
        };
        let local = ["127.0.0.1", "10.9.9.9", "::1", "fd00::9"].map(address).to_vec();
        let setup = Setup {
            interfaces: vec![interface],
            services: Services::new(Vec::new(), local),
            keys: None,
            limits: Limits::default(),
            state_dir: None,
            offload: Offloading::Off,
            bpf_dir: PathBuf::new(),
            realtime_priority: 0,
            workers: 1,
            cpus: Vec::new(),
            busy_poll: Duration::ZERO,
            gather: Duration::ZERO,
            awake: false,
            trace: None,
            is_redacted: false,
            control_socket: None,
            metrics_address: None,
        };
        let router = setup.router_addresses();
        assert_eq!(router.v4.map(IpAddr::from), Some(address("10.1.0.1")));
        assert_eq!(router.v6.map(IpAddr::from), Some(address("fd00::9")));
    }
}
