//! Guards that stand in the kernel, of whichever process, read back into what they were made from.

use std::ffi::{CStr, CString};
use std::net::IpAddr;

use netlink_bindings::nftables::{
    self, CmpOps, ExprListAttrs, ExprOps, IterableExprListAttrs, Nfgenmsg, PayloadBase, VerdictCode,
};
use netlink_socket2::{NetlinkSocket, ReplyError};
use rtt0_core::service::{Prefix, Service};

use super::{GuardError, NETDEV};
use crate::ruleset_dump::devices;

/// A guard that stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The table's name.
    pub table: String,
    /// The netlink port of the socket with which it goes; `None` if it stays whatever becomes of its maker.
    pub owner: Option<u32>,
    /// The interfaces at whose ingress it drops.
    pub interfaces: Vec<String>,
    /// The services whose packets it drops.
    pub services: Vec<Service>,
    /// Addresses of the host's own, to and from which it drops nothing.
    pub local: Vec<IpAddr>,
}

/// Lists the guards in the calling thread's network namespace. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// [`GuardError::Refused`] if the kernel does not answer.
pub fn standing() -> Result<Vec<Standing>, GuardError> {
    let refused = |source| GuardError::Refused { action: "list guards", source };
    let mut socket = NetlinkSocket::new();
    let mut guards = tables(&mut socket).map_err(refused)?;
    for (name, guard) in &mut guards {
        guard.interfaces = interfaces(&mut socket, name).map_err(refused)?;
        read_rules(&mut socket, name, guard).map_err(refused)?;
    }
    Ok(guards.into_iter().map(|(_, guard)| guard).collect())
}

fn header() -> Nfgenmsg {
    Nfgenmsg { nfgen_family: NETDEV, ..Nfgenmsg::default() }
}

fn tables(socket: &mut NetlinkSocket) -> Result<Vec<(CString, Standing)>, ReplyError> {
    let request = nftables::Request::new().op_gettable_dump(&header());
    let mut replies = socket.request(&request)?;
    let mut guards = Vec::new();
    while let Some(reply) = replies.recv() {
        let (_, table) = reply?;
        let name = table.get_name()?.to_owned();
        let text = name.to_string_lossy().into_owned();
        if super::is_name(&text) {
            guards
                .push((name, Standing { table: text, owner: table.get_owner().ok(), ..Standing::default() }));
        }
    }
    Ok(guards)
}

fn interfaces(socket: &mut NetlinkSocket, table: &CStr) -> Result<Vec<String>, ReplyError> {
    let request = nftables::Request::new().op_getchain_dump(&header());
    let mut replies = socket.request(&request)?;
    let mut names: Vec<String> = Vec::new();
    while let Some(reply) = replies.recv() {
        let (_, chain) = reply?;
        if chain.get_table()? == table {
            names.extend(chain.get_hook().map(|hook| devices(&hook)).unwrap_or_default());
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn read_rules(socket: &mut NetlinkSocket, table: &CStr, guard: &mut Standing) -> Result<(), ReplyError> {
    let mut request = nftables::Request::new().op_getrule_dump(&header());
    request.encode().push_table(table);
    let mut replies = socket.request(&request)?;
    while let Some(reply) = replies.recv() {
        let (_, rule) = reply?;
        // Kernels that ignore the filter list every table's rules.
        if rule.get_table()? != table {
            continue;
        }
        let chain = rule.get_chain()?.to_string_lossy();
        if let Some(parts) = rule.get_expressions().ok().and_then(|list| parts(list)) {
            parts.tell(&chain, guard);
        }
    }
    Ok(())
}

/// The parts of a rule that say what is served, and what is the host's own.
#[derive(Debug, Default)]
struct Parts {
    destination: Option<Prefix>,
    ports: Option<(u16, u16)>,
    is_accepting: bool,
    goes_to: String,
}

impl Parts {
    /// Adds what the rule says to what is known of the guard.
    fn tell(self, chain: &str, guard: &mut Standing) {
        match (self.destination, self.ports) {
            (Some(prefix), Some((low, high)))
                if matches!(chain, "tcp4" | "tcp6") && self.goes_to.ends_with("_to_service") =>
            {
                guard.services.push(Service { prefix, ports: low..=high });
            }
            (Some(prefix), None)
                if matches!(chain, "tcp4_to_service" | "tcp6_to_service") && self.is_accepting =>
            {
                guard.local.push(prefix.address());
            }
            _ => {}
        }
    }
}

/// Reads a rule's expressions; `None` if they are not such as the guard has.
fn parts(expressions: IterableExprListAttrs<'_>) -> Option<Parts> {
    let mut parts = Parts::default();
    // What was loaded last: base, offset and length in bytes, and which bits of it count.
    let (mut field, mut mask) = ((0, 0, 0), None);
    for element in expressions {
        let ExprListAttrs::Elem(expression) = element.ok()?;
        match expression.get_data() {
            Ok(ExprOps::Payload(load)) => {
                field = (load.get_base().ok()?, load.get_offset().ok()?, load.get_len().ok()?);
                mask = None;
            }
            Ok(ExprOps::Bitwise(bits)) => mask = Some(bits.get_mask().ok()?.get_value().ok()?.to_vec()),
            Ok(ExprOps::Cmp(comparison)) => {
                let value = comparison.get_data().ok()?;
                let value = value.get_value().ok()?;
                parts.compare(field, mask.as_deref(), comparison.get_op().ok()?, value)?;
            }
            Ok(ExprOps::Immediate(end)) => {
                let Ok(verdict) = end.get_data().and_then(|data| data.get_verdict()) else { continue };
                parts.is_accepting = verdict.get_code().ok()? == VerdictCode::Accept as u32;
                parts.goes_to =
                    verdict.get_chain().map(|chain| chain.to_string_lossy().into_owned()).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(parts)
}

impl Parts {
    /// Takes note of a comparison, if it is of the destination's address or port.
    fn compare(
        &mut self,
        field: (u32, u32, u32),
        mask: Option<&[u8]>,
        operation: u32,
        value: &[u8],
    ) -> Option<()> {
        const NETWORK: u32 = PayloadBase::NetworkHeader as u32;
        const TRANSPORT: u32 = PayloadBase::TransportHeader as u32;
        let bits =
            mask.map_or(8 * value.len(), |mask| mask.iter().map(|byte| byte.count_ones() as usize).sum());
        let length = u8::try_from(bits).ok()?;
        match field {
            (NETWORK, 16, 4) => {
                let address: [u8; 4] = value.try_into().ok()?;
                self.destination = Prefix::new(address.into(), length);
            }
            (NETWORK, 24, 16) => {
                let address: [u8; 16] = value.try_into().ok()?;
                self.destination = Prefix::new(address.into(), length);
            }
            (TRANSPORT, 2, 2) => {
                let port = u16::from_be_bytes(value.try_into().ok()?);
                let (low, high) = self.ports.unwrap_or((port, port));
                self.ports = match operation {
                    operation if operation == CmpOps::Gte as u32 => Some((port, high)),
                    operation if operation == CmpOps::Lte as u32 => Some((low, port)),
                    _ => Some((port, port)),
                };
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Guard;
    use super::*;
    use crate::links::{Links, VethEnd};
    use crate::netns::Namespace;
    use rtt0_core::service::Services;

    #[test]
    fn a_guard_is_read_back_as_it_was_made() {
        let namespace = match Namespace::create() {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            outcome => outcome.unwrap(),
        };
        let end = |name| VethEnd { namespace: &namespace, name };
        Links::add_veth(end("lan0"), end("wan0"), 1500).unwrap();
        let rules =
            ["10.1.2.0/24:443", "10.7.0.0/13:80", "10.9.9.9/32:8000-8010", "0.0.0.0/0:22", "[fd00::/61]:443"];
        let rules: Vec<Service> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let local: Vec<IpAddr> = ["10.1.0.1", "fd00::1"].iter().map(|text| text.parse().unwrap()).collect();
        let services = Services::new(rules.clone(), local.clone());
        namespace
            .enter(|| {
                assert_eq!(standing().unwrap(), []);
                let names = ["lan0".to_owned(), "wan0".to_owned()];
                let guard = Guard::install(&names, &services, 7, true).unwrap();
                let found = standing().unwrap();
                assert_eq!(found.len(), 1);
                assert_eq!((&found[0].table, &found[0].interfaces[..]), (&guard.table(), &names[..]));
                assert_eq!((&found[0].services, &found[0].local), (&rules, &local));
                assert!(found[0].owner.is_some());
                drop(guard);
                assert_eq!(standing().unwrap(), []);
            })
            .unwrap();
    }
}
