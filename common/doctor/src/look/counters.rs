//! All counters of the kernel's that checks compare, read at one time.
//!
//! Most belong to the network namespace of the calling thread. Those of softnet, of TCP's memory and of the neighbour tables
//! are kept for all namespaces together, as their documentation says; checks must not hold another's traffic against this one.

pub mod conntrack;
pub mod datagrams;
pub mod drivers;
pub mod half_open;
pub mod links;
pub mod listeners;
pub mod memory;
pub mod neighbours;
pub mod owners;
pub mod per_cpu;
pub mod queues;
pub mod tables;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use crate::look::firewall::Firewall;
use crate::look::programs::Programs;
use crate::patient::Patient;

/// The longest file that is read whole, in bytes: a few hundred thousand sockets.
const LONGEST: u64 = 64 << 20;

/// What was seen, or why it wasn't.
pub type Seen<T> = Result<T, String>;

/// Counters at one time.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Of IP, ICMP, TCP and UDP.
    pub tables: Seen<tables::Tables>,
    /// Of the processors' work on received packets, all namespaces together.
    pub softnet: Seen<per_cpu::Softnet>,
    /// Of the memory that sockets and fragments hold.
    pub memory: Seen<memory::Memory>,
    /// Of connection tracking; none where it is not in use.
    pub conntrack: Seen<Option<conntrack::Conntrack>>,
    /// Of the network interfaces, by name.
    pub links: Seen<BTreeMap<String, links::Link>>,
    /// Of the queueing disciplines.
    pub queues: Seen<Vec<queues::Queue>>,
    /// Of the patient's interfaces' drivers.
    pub drivers: BTreeMap<String, Seen<BTreeMap<String, u64>>>,
    /// Of the neighbour tables, all namespaces together.
    pub neighbours: Seen<neighbours::Tables>,
    /// The TCP sockets that listen.
    pub listeners: Seen<Vec<listeners::Listener>>,
    /// The connections that are half open.
    pub half_open: Seen<half_open::HalfOpen>,
    /// The UDP sockets, by inode.
    pub datagrams: Seen<BTreeMap<u64, datagrams::Datagrams>>,
    /// What the daemon counts, if there is one.
    pub daemon: Seen<super::daemon::DaemonCounters>,
    /// The neighbour tables; empty if the kernel does not tell.
    pub neighbour_entries: Vec<super::neighbours::Neighbour>,
    /// Netfilter's rules, with what they have counted.
    pub firewall: Firewall,
    /// Programs and filters, with what they have counted.
    pub programs: Programs,
}

impl Default for Counters {
    /// An account that has nothing.
    fn default() -> Self {
        fn unseen<T>() -> Seen<T> {
            Err("not read".to_owned())
        }
        Self {
            tables: unseen(),
            softnet: unseen(),
            memory: unseen(),
            conntrack: unseen(),
            links: unseen(),
            queues: unseen(),
            drivers: BTreeMap::new(),
            neighbours: unseen(),
            listeners: unseen(),
            half_open: unseen(),
            datagrams: unseen(),
            daemon: unseen(),
            neighbour_entries: Vec::new(),
            firewall: Firewall::default(),
            programs: Programs::default(),
        }
    }
}

impl Counters {
    /// Reads them all. What can't be read is left out, and says so.
    pub fn read(patient: &Patient) -> Self {
        let queues = queues::read();
        let programs = Programs::among(&patient.interfaces, queues.as_deref());
        Self {
            tables: tables::read(),
            softnet: per_cpu::softnet(),
            memory: memory::read(),
            conntrack: conntrack::read(),
            links: links::read(),
            queues,
            drivers: patient.interfaces.iter().map(|name| (name.clone(), drivers::read(name))).collect(),
            neighbours: neighbours::read(),
            listeners: listeners::read(),
            half_open: half_open::read(),
            datagrams: datagrams::read(),
            daemon: super::daemon::read(patient),
            neighbour_entries: super::neighbours::read().unwrap_or_default(),
            firewall: Firewall::read(),
            programs,
        }
    }
}

/// Reads a file under `/proc/net` of the calling thread's namespace, which need not be its process's.
fn proc_net(name: &str) -> Seen<String> {
    let path = format!("/proc/thread-self/net/{name}");
    let file = File::open(&path).map_err(|error| format!("cannot open {path}: {error}"))?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| format!("cannot read {path}: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Words a failed netlink request.
fn refused(request: &str, error: impl Into<io::Error>) -> String {
    let error: io::Error = error.into();
    format!("netlink {request}: {error}")
}
