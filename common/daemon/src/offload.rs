//! Established flows in the kernel, where it takes them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rtt0_core::engine::Engine;
use rtt0_core::offer::Keys;
use rtt0_core::profile::Profiles;
use rtt0_core::spoof::mss_clamp;
use rtt0_doctor::Role;
use rtt0_netio::capture::CaptureError;
use rtt0_netio::capture::spread::place;
use rtt0_netio::clock;
use rtt0_netio::fast_path::{
    self, Attach, HandshakeOptions, Handshakes, KernelOffload, OffloadCounts, OffloadError, OffloadOptions,
    Served, Switch,
};
use rtt0_netio::interface::Interface;

use crate::failure::{Failure, chain};
use crate::setup::Setup;
use crate::stats::Offloaded;

/// Who forwards established flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Offloading {
    /// The kernel, if it takes the BPF programs, which then answers usual SYNs, too; else user space
    #[default]
    Auto,
    /// Likewise, and ServerNIC's makes usual handshakes with servers, too: the shortest first byte, on trial
    Handshakes,
    /// Likewise, but every handshake is made in user space
    Established,
    /// User space
    Off,
}

/// Calls of [`Offload::look`] between two looks at the MTUs: a second.
const LOOKS: u32 = 10;

/// The offload of a daemon, if there is one.
pub(crate) struct Offload {
    kernel: Option<KernelOffload>,
    interfaces: Vec<Interface>,
    looks: u32,
}

impl Offload {
    /// Starts the offload if it is wanted and possible, and has the engines go on with the flows that the
    /// kernel has kept. Says in one line which it is.
    ///
    /// The kernel also makes handshakes by itself: at a ClientNIC it answers SYNs to destinations that `profiles` know, at a ServerNIC it
    /// accepts offers.
    pub(crate) fn start(
        program: &str,
        setup: &Setup,
        engines: &mut [impl Engine],
        role: Role,
        profiles: Option<&Profiles>,
    ) -> Self {
        let pins = pins(program, setup);
        // Who records what becomes of packets wants to see all of a handshake.
        let which = handshakes(setup, role, profiles).filter(|_| setup.trace.is_none());
        let started = match setup.offload {
            Offloading::Auto | Offloading::Handshakes | Offloading::Established => {
                start(setup, pins.as_deref(), engines, which).map_err(|error| chain(&error))
            }
            Offloading::Off => Err("it is switched off".to_owned()),
        };
        match started {
            Ok(mut kernel) => {
                let handshakes = kernel.handshakes().is_some();
                if let (Some(profiles), Some(board)) = (profiles, kernel.board()) {
                    profiles.post_to(board);
                }
                let pinned = kernel.pinned().map_or("-".to_owned(), |folder| folder.display().to_string());
                let (attachment, outlet) = (kernel.attachment(), kernel.outlet());
                tracing::info!(
                    pinned,
                    outlet,
                    handshakes,
                    "established flows are forwarded by the kernel (BPF, {attachment})"
                );
                Self { kernel: Some(kernel), interfaces: setup.interfaces.clone(), looks: 0 }
            }
            Err(reason) => {
                // What an earlier daemon has left would go on with flows that are now ours.
                fast_path::remove(&setup.interface_names(), pins.as_deref());
                tracing::info!(reason, "established flows are forwarded in user space");
                Self { kernel: None, interfaces: Vec::new(), looks: 0 }
            }
        }
    }

    /// Returns the device at which all is captured, if the kernel's program decides what that is.
    pub(crate) fn outlet(&self) -> Option<&str> {
        self.kernel.as_ref().map(KernelOffload::outlet)
    }

    /// Returns what changes the kernel program's settings.
    pub(crate) fn switch(&self) -> Option<Switch> {
        self.kernel.as_ref().map(KernelOffload::switch)
    }

    /// Returns what each of `workers` workers tells with how far it has come, if the kernel forwards at all.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn served(&self, workers: usize) -> Result<Vec<Served>, OffloadError> {
        self.kernel.iter().flat_map(|kernel| (0..workers).map(|worker| kernel.served(worker))).collect()
    }

    /// Has the kernel use other keys.
    pub(crate) fn rekey(&mut self, keys: &Keys) {
        if let Some(kernel) = &mut self.kernel
            && let Err(error) = kernel.rekey(keys)
        {
            tracing::error!(
                error = chain(&error),
                "the kernel can't be given the new key, and uses the old one"
            );
        }
    }

    /// Tells whether the kernel forwards established flows.
    pub(crate) fn is_on(&self) -> bool {
        self.kernel.is_some()
    }

    /// Has the kernel leave to the engine what an interface no longer carries, and notices one that was deleted: no
    /// capture does, where there is an outlet. To be called every [`PERIOD`](crate::bypass::PERIOD).
    ///
    /// # Errors
    /// [`CaptureError::Gone`], [`OffloadError::OutletDown`].
    pub(crate) fn look(&mut self) -> Result<(), Failure> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        self.looks = (self.looks + 1) % LOOKS;
        if self.looks != 0 {
            return Ok(());
        }
        if let Some(gone) = self.interfaces.iter().find(|interface| !interface.exists()) {
            return Err(CaptureError::Gone { interface: gone.name.clone() }.into());
        }
        kernel.check()?;
        let Some(largest) = self.interfaces.iter().filter_map(|interface| interface.mtu().ok()).min() else {
            return Ok(());
        };
        if let Err(error) = kernel.switch().set_largest(largest) {
            tracing::error!(%error, largest, "the kernel can't be told of the smallest MTU");
        }
        Ok(())
    }

    /// Returns what the kernel has done, if it forwards at all.
    pub(crate) fn counts(&self) -> Option<Offloaded> {
        let counts = self.kernel.as_ref()?.counts().unwrap_or_default();
        let OffloadCounts { packets, bytes, left, forgotten } = counts;
        Some(Offloaded { packets, bytes, left, forgotten })
    }

    /// Takes leave; returns how many flows go on in the kernel.
    pub(crate) fn stop(self) -> usize {
        let Some(kernel) = self.kernel else { return 0 };
        let folder = kernel.pinned().map(|folder| format!("rm -r {}", folder.display()));
        let attachment = kernel.attachment();
        let flows = kernel.stop();
        if let (Some(folder), 1..) = (folder, flows) {
            let filters = self.interfaces.iter().filter_map(|interface| attachment.removal(&interface.name));
            let removal: Vec<_> = [folder].into_iter().chain(filters).collect();
            tracing::info!(
                flows,
                "established flows go on in the kernel until this daemon runs again; to end them: {}",
                removal.join("; ")
            );
        }
        flows
    }
}

/// Which handshakes the kernel may make at this NIC.
fn handshakes(setup: &Setup, role: Role, profiles: Option<&Profiles>) -> Option<Handshakes> {
    match (setup.offload, role) {
        (Offloading::Auto | Offloading::Handshakes, Role::ClientNic) => {
            profiles.map(|profiles| Handshakes::Answered {
                mss_clamp: mss_clamp(setup.smallest_mtu().unwrap_or(u16::MAX)),
                large_upload: profiles.large_upload(),
            })
        }
        (Offloading::Handshakes, Role::ServerNic) => Some(Handshakes::Accepted),
        _ => None,
    }
}

fn start(
    setup: &Setup,
    pins: Option<&Path>,
    engines: &mut [impl Engine],
    which: Option<Handshakes>,
) -> Result<KernelOffload, OffloadError> {
    let interfaces = setup.interface_names();
    let mtu = setup.smallest_mtu().unwrap_or(u16::MAX);
    let handshakes = which.zip(setup.keys.as_ref()).map(|(which, keys)| HandshakeOptions {
        keys,
        workers: setup.workers,
        which,
    });
    let kernel = KernelOffload::start(&OffloadOptions {
        interfaces: &interfaces,
        services: &setup.services,
        largest: mtu,
        flows: setup.limits.flows,
        pins,
        attach: Attach::Auto,
        outlet: None,
        handshakes,
    })?;
    for (worker, engine) in (0..).zip(&mut *engines) {
        engine.accelerate(Box::new(kernel.path(Some(worker))?));
    }
    let (now, workers) = (clock::now(), engines.len());
    let (kept, removed) = kernel.adopt(|flow| {
        let index = place(flow.key.client(), flow.key.server(), workers);
        engines.get_mut(index).is_some_and(|engine| engine.adopt(now, flow))
    })?;
    if kept + removed > 0 {
        tracing::info!(kept, removed, "flows were found in the kernel");
    }
    Ok(kernel)
}

/// Where what outlives the process is pinned: a folder for each program and network namespace.
fn pins(program: &str, setup: &Setup) -> Option<PathBuf> {
    // Nobody could go on with flows of which there is no record.
    setup.state_dir.as_ref()?;
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |metadata| metadata.ino());
    Some(setup.bpf_dir.join(format!("{program}_{namespace}")))
}
