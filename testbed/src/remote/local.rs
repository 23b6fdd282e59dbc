//! The hosts as network namespaces of this machine.

use super::bounded;
use super::interrupt::Interrupt;
use super::site::{Arms, Role, Site};
use super::transport::{Output, Transport};
use crate::address::{CLIENT, CLIENT_NIC_LAN, CLIENT_NIC_WAN, SERVER, SERVER_NIC_LAN, SERVER_NIC_WAN};
use crate::host::Host;
use crate::topology::{Topology, TopologyConfig};
use crate::wan;
use anyhow::Context;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The namespace testbed as four hosts. Files and processes are this machine's: only the network is a host's own.
#[derive(Debug)]
pub struct Local<'a> {
    topology: Topology,
    rtt: Duration,
    folder: TempDir,
    interrupt: &'a Interrupt,
}

impl<'a> Local<'a> {
    /// Raises the topology with this path RTT. Needs [`crate::privilege::acquire`].
    ///
    /// # Errors
    /// As [`Topology::raise`].
    pub fn raise(rtt: Duration, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("testbed-remote-").tempdir();
        let folder = folder.context("can't make the hosts' folders")?;
        let path = wan::Path::with_rtt(rtt);
        let topology = Topology::raise(&TopologyConfig { path, ..TopologyConfig::default() })?;
        Ok(Self { topology, rtt, folder, interrupt })
    }

    fn host(&self, role: Role) -> &Host {
        match role {
            Role::Client => &self.topology.client,
            Role::ClientNic => &self.topology.client_nic,
            Role::ServerNic => &self.topology.server_nic,
            Role::Server => &self.topology.server,
        }
    }

    fn path(&self, role: Role) -> PathBuf {
        self.folder.path().join(role.name())
    }
}

impl Transport for Local<'_> {
    fn description(&self) -> String {
        format!("local transport: network namespaces, a delay line of {:.0?}", self.rtt)
    }

    fn discover(&mut self) -> anyhow::Result<Site> {
        Ok(Site {
            client: CLIENT.v4,
            client_nic: Arms { lan: CLIENT_NIC_LAN.v4, wan: CLIENT_NIC_WAN.v4 },
            server_nic: Arms { lan: SERVER_NIC_LAN.v4, wan: SERVER_NIC_WAN.v4 },
            server: SERVER.v4,
        })
    }

    fn run(&self, role: Role, _purpose: &str, script: &str, bound: Duration) -> anyhow::Result<Output> {
        let mut command = self.host(role).command("sh");
        command.args(["-c", script]);
        bounded::run(command, bound, Some(self.interrupt))
    }

    fn put(&self, roles: &[Role], from: &Path, name: &str, mode: u32) -> anyhow::Result<()> {
        for role in roles {
            let to = self.path(*role).join(name);
            let put = || -> std::io::Result<()> {
                if to.exists() {
                    fs::remove_file(&to)?;
                }
                // A link spares a copy of the executable for every host, where the file system allows it.
                if from.metadata()?.permissions().mode() & 0o7777 == mode && fs::hard_link(from, &to).is_ok()
                {
                    return Ok(());
                }
                // Nobody else can enter the folder while the file has other permissions.
                fs::copy(from, &to)?;
                fs::set_permissions(&to, Permissions::from_mode(mode))
            };
            put().with_context(|| format!("can't copy {} to {}", from.display(), to.display()))?;
        }
        Ok(())
    }

    fn get(&self, role: Role, name: &str, to: &Path) -> anyhow::Result<()> {
        let from = self.path(role).join(name);
        let copied = fs::copy(&from, to);
        copied.with_context(|| format!("can't copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    fn folder(&self, role: Role) -> String {
        self.path(role).to_string_lossy().into_owned()
    }

    fn wants_delay(&self) -> bool {
        false
    }

    fn finish(&self) -> anyhow::Result<()> {
        Ok(())
    }
}
