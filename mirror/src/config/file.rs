//! The file as it is written, and what it comes to.

use super::place::{ConfigError, Source};
use super::text::{End, Interface, Ports, Text};
use super::{
    Backend, Config, LARGEST_PROCESSOR, MOST_SERVICES, MOST_TUNNELS, MOST_VNIS, MOST_WORKERS, Observe,
};
use crate::inner::Transport;
use crate::nat::{Matching, Rule, Rules, RulesError};
use crate::tunnel::{Kind, Listening};
use rtt0_core::service::{Prefix, Service};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Largest virtual network identifier: 24 bits (RFC 7348 §5, RFC 8926 §3.4).
const LARGEST_VNI: u32 = (1 << 24) - 1;
/// Registered ports (RFC 7348 §8, RFC 8926 §3.3).
const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;
/// Largest priority of SCHED_FIFO (sched(7)).
const LARGEST_PRIORITY: u8 = 99;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    interface: Text<Interface>,
    egress: Option<Spanned<Text<Interface>>>,
    replies_egress: Option<Spanned<Text<Interface>>>,
    allowlist: Option<Spanned<PathBuf>>,
    workers: Option<Spanned<usize>>,
    #[serde(default)]
    cpus: Vec<Spanned<usize>>,
    realtime_priority: Option<Spanned<u8>>,
    #[serde(default)]
    awake: bool,
    #[serde(default)]
    backend: Backend,
    metrics: Option<Text<SocketAddr>>,
    #[serde(default)]
    tunnel: Vec<Spanned<TunnelTable>>,
    #[serde(default)]
    rule: Vec<Spanned<RuleTable>>,
    #[serde(default)]
    observe: ObserveTable,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    Vxlan,
    Geneve,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelTable {
    kind: KindName,
    port: Option<Spanned<u16>>,
    #[serde(default)]
    vnis: Vec<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    name: String,
    protocol: Option<Text<Transport>>,
    source: Option<Text<Prefix>>,
    destination: Option<Text<Prefix>>,
    ports: Option<Text<Ports>>,
    to: Text<End>,
    from: Option<Text<End>>,
    replies: Option<Spanned<bool>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ObserveTable {
    #[serde(default)]
    services: Vec<Spanned<String>>,
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let source = Source { text, path };
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        source.wrong(at, error.message())
    })?;
    let interface = file.interface.0.0;
    let egress = exit(source, "egress", &interface, file.egress)?;
    let replies_egress = exit(source, "replies_egress", &interface, file.replies_egress)?;
    if replies_egress.is_none() {
        no_replies(source, &file.rule)?;
    }
    let allowlist = match file.allowlist {
        Some(list) if list.get_ref().as_os_str().is_empty() => {
            return Err(source
                .wrong(list.span().start, "allowlist is empty; name a file, or leave it out to observe"));
        }
        list => list.map(Spanned::into_inner),
    };
    let workers = match file.workers {
        None => 1,
        Some(workers) if (1..=MOST_WORKERS).contains(workers.get_ref()) => workers.into_inner(),
        Some(workers) => {
            return Err(
                source.wrong(workers.span().start, format!("workers is a number from 1 to {MOST_WORKERS}"))
            );
        }
    };
    let realtime_priority = match file.realtime_priority {
        Some(priority) if *priority.get_ref() > LARGEST_PRIORITY => {
            let problem =
                format!("realtime_priority is a number from 1 to {LARGEST_PRIORITY}, or 0 for none");
            return Err(source.wrong(priority.span().start, problem));
        }
        priority => priority.map(Spanned::into_inner).filter(|priority| *priority != 0),
    };
    Ok(Config {
        interface,
        egress,
        replies_egress,
        allowlist,
        workers,
        cpus: cpus(source, file.cpus)?,
        realtime_priority,
        awake: file.awake,
        backend: file.backend,
        metrics: file.metrics.map(|metrics| metrics.0),
        tunnels: tunnels(source, file.tunnel)?,
        rules: rules(source, file.rule)?,
        observe: observe(source, file.observe)?,
        path: path.to_owned(),
    })
}

/// Reads an interface by which packets leave.
fn exit(
    source: Source<'_>,
    key: &str,
    arrival: &str,
    named: Option<Spanned<Text<Interface>>>,
) -> Result<Option<String>, ConfigError> {
    match named {
        Some(named) if named.get_ref().0.0 == arrival => {
            let problem = format!(
                "{key} is '{arrival}', where the mirror arrives: what is sent there could be mirrored again and come back \
                 without end; name another interface"
            );
            Err(source.wrong(named.span().start, problem))
        }
        named => Ok(named.map(|named| named.into_inner().0.0)),
    }
}

/// Makes sure that no rule wants replies: nobody has said by which interface they are to leave.
fn no_replies(source: Source<'_>, tables: &[Spanned<RuleTable>]) -> Result<(), ConfigError> {
    let wanting = tables.iter().map(Spanned::get_ref).find_map(|table| {
        let replies = table.replies.as_ref().filter(|replies| *replies.get_ref())?;
        Some((replies.span().start, &table.name))
    });
    let Some((at, name)) = wanting else { return Ok(()) };
    let problem = format!(
        "rule '{name}' wants replies, and no interface is named by which they may leave: write replies_egress = \"ens7\" \
         before the first table (it may be the egress), or take replies out"
    );
    Err(source.wrong(at, problem))
}

fn cpus(source: Source<'_>, cpus: Vec<Spanned<usize>>) -> Result<Vec<usize>, ConfigError> {
    let is_none = |(place, cpu): &(usize, &Spanned<usize>)| {
        *place == MOST_WORKERS || *cpu.get_ref() > LARGEST_PROCESSOR
    };
    match cpus.iter().enumerate().find(is_none) {
        Some((_, cpu)) => {
            let problem =
                format!("cpus are up to {MOST_WORKERS} processors, numbered from 0 to {LARGEST_PROCESSOR}");
            Err(source.wrong(cpu.span().start, problem))
        }
        None => Ok(cpus.into_iter().map(Spanned::into_inner).collect()),
    }
}

fn tunnels(source: Source<'_>, tables: Vec<Spanned<TunnelTable>>) -> Result<Vec<Listening>, ConfigError> {
    if tables.is_empty() {
        return Err(
            source.wrong(0, "no tunnel to take packets out of; write [[tunnel]] with kind = \"vxlan\"")
        );
    }
    let mut tunnels: Vec<Listening> = Vec::with_capacity(tables.len().min(MOST_TUNNELS));
    for table in tables {
        let (at, table) = (table.span().start, table.into_inner());
        if tunnels.len() == MOST_TUNNELS {
            return Err(source.wrong(at, format!("there may be {MOST_TUNNELS} tunnels")));
        }
        let (kind, usual) = match table.kind {
            KindName::Vxlan => (Kind::Vxlan, VXLAN_PORT),
            KindName::Geneve => (Kind::Geneve, GENEVE_PORT),
        };
        let (at, port) = table.port.map_or((at, usual), |port| (port.span().start, port.into_inner()));
        if port == 0 {
            return Err(source.wrong(at, "a port is a number from 1 to 65535"));
        }
        if tunnels.iter().any(|tunnel| tunnel.port == port) {
            let problem = format!(
                "port {port} is another tunnel's; put the vnis of one kind into one, or change the port"
            );
            return Err(source.wrong(at, problem));
        }
        tunnels.push(Listening { kind, port, vnis: vnis(source, table.vnis)? });
    }
    Ok(tunnels)
}

fn vnis(source: Source<'_>, numbers: Vec<Spanned<u32>>) -> Result<Vec<u32>, ConfigError> {
    let mut vnis = Vec::with_capacity(numbers.len().min(MOST_VNIS));
    for number in numbers {
        let (at, vni) = (number.span().start, number.into_inner());
        if vnis.len() == MOST_VNIS {
            return Err(
                source.wrong(at, format!("there may be {MOST_VNIS} vnis; leave them out to take all"))
            );
        }
        if vni > LARGEST_VNI {
            return Err(source.wrong(at, format!("a vni is a number from 0 to {LARGEST_VNI}")));
        }
        vnis.push(vni);
    }
    vnis.sort_unstable();
    vnis.dedup();
    Ok(vnis)
}

fn rules(source: Source<'_>, tables: Vec<Spanned<RuleTable>>) -> Result<Rules, ConfigError> {
    let places: Vec<usize> = tables.iter().map(|table| table.span().start).collect();
    let rules: Vec<Rule> = tables.into_iter().map(|table| table.into_inner().into()).collect();
    let names: Vec<String> = rules.iter().map(|rule| rule.name.clone()).collect();
    Rules::new(rules).map_err(|error| {
        let index = match &error {
            RulesError::TooMany(_) => crate::nat::MOST_RULES,
            RulesError::Name(place) => place - 1,
            // The second one, which came to take the name.
            RulesError::SameName(name) => names.iter().rposition(|other| other == name).unwrap_or(0),
            RulesError::Rule { index, .. } => *index,
        };
        source.wrong(places.get(index).copied().unwrap_or(0), error)
    })
}

impl From<RuleTable> for Rule {
    fn from(table: RuleTable) -> Self {
        let matching = Matching {
            transport: table.protocol.map(|protocol| protocol.0),
            source: table.source.map(|prefix| prefix.0),
            destination: table.destination.map(|prefix| prefix.0),
            ports: table.ports.map(|ports| ports.0.0),
        };
        let from = table.from.map(|from| from.0.0);
        let replies = table.replies.is_some_and(Spanned::into_inner);
        Self { name: table.name, matching, to: table.to.0.0, from, replies }
    }
}

fn observe(source: Source<'_>, table: ObserveTable) -> Result<Observe, ConfigError> {
    let mut services = Vec::with_capacity(table.services.len().min(MOST_SERVICES));
    for text in table.services {
        let at = text.span().start;
        if services.len() == MOST_SERVICES {
            return Err(source
                .wrong(at, format!("there may be {MOST_SERVICES} services; leave them out to take all")));
        }
        services.push(text.get_ref().parse::<Service>().map_err(|error| source.wrong(at, error))?);
    }
    Ok(Observe { services })
}
