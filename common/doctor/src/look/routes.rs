//! Routes and policy rules, rtnetlink(7): RTM_GETROUTE, RTM_GETRULE. Needs no privilege.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_bindings::rt_route::{self, IterableRouteAttrs, RtmType, Rtmsg};
use netlink_bindings::rt_rule::{self, FibRuleHdr, FrAct, IterableFibRuleAttrs};
use netlink_socket2::NetlinkSocket;
use rtt0_core::service::Prefix;

const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// RTM_F_CLONED: an exception that the kernel has learned, such as a path's MTU.
const CLONED: u32 = 0x200;
/// RTAX_MTU as a bit of RTAX_LOCK.
const MTU_LOCK: u32 = 1 << 2;
/// Most routes that are kept: of a full Internet table the first ones tell enough.
const MOST: usize = 4096;

// What the kernel answers for a refused address.
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// How a route or rule refuses packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Silently.
    Blackhole,
    /// With ICMP, host unreachable.
    Unreachable,
    /// With ICMP, administratively prohibited.
    Prohibit,
}

impl Refusal {
    /// Returns what ip(8) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        }
    }
}

/// A route, other than to the host's own, broadcast and multicast addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: Prefix,
    /// The table that it is in; 254 is `main`.
    pub table: u32,
    /// Who made it (RTPROT_…): 2 is the kernel.
    pub protocol: u8,
    /// Index of the interface it leaves by; 0 if it refuses, or has several next hops.
    pub interface: u32,
    /// The router, if it needs one.
    pub via: Option<IpAddr>,
    /// Whether it refuses.
    pub refusal: Option<Refusal>,
    /// The MTU that it says, in bytes.
    pub mtu: Option<u32>,
    /// The MTU is not to be found out, but taken as it stands.
    pub is_mtu_locked: bool,
}

/// A policy rule that refuses packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusingRule {
    /// Lower ones are asked first; `main` is asked at 32766.
    pub priority: u32,
    /// How it refuses.
    pub refusal: Refusal,
    /// Packets to there; all for `None`.
    pub to: Option<Prefix>,
    /// Packets from there; all for `None`.
    pub from: Option<Prefix>,
    /// It asks for more, such as an interface, a mark or ports.
    pub is_narrow: bool,
    /// For IPv4, else for IPv6.
    pub is_ipv4: bool,
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Out of an interface, by its index, through a router or straight to its destination.
    Out(u32, Option<IpAddr>),
    /// To this host.
    Here,
    /// Nowhere: a route or rule refuses it.
    Refused(Refusal),
    /// Nowhere: there is no route.
    Nowhere,
    /// The kernel says something else.
    Unknown(String),
}

/// Lists the routes of all tables, the first 4096 that there are.
///
/// # Errors
/// Why the kernel does not tell.
pub fn routes() -> Result<Vec<Route>, String> {
    let request = rt_route::Request::new().op_getroute_dump(&Rtmsg::new());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request).map_err(|error| error.to_string())?;
    let mut routes = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(|error| error.to_string())?;
        if routes.len() < MOST {
            routes.extend(route(&header, &attributes));
        }
    }
    Ok(routes)
}

fn route(header: &Rtmsg, attributes: &IterableRouteAttrs<'_>) -> Option<Route> {
    let refusal = match RtmType::from_value(header.rtm_type.into())? {
        RtmType::Unicast => None,
        RtmType::Blackhole => Some(Refusal::Blackhole),
        RtmType::Unreachable => Some(Refusal::Unreachable),
        RtmType::Prohibit => Some(Refusal::Prohibit),
        _ => return None,
    };
    if header.rtm_flags & CLONED != 0 {
        return None;
    }
    let to = attributes.get_dst().ok().or_else(|| unspecified(header.rtm_family))?;
    let metrics = attributes.get_metrics().ok();
    Some(Route {
        to: Prefix::new(to, header.rtm_dst_len)?,
        table: attributes.get_table().unwrap_or(header.rtm_table.into()),
        protocol: header.rtm_protocol,
        interface: if refusal.is_some() { 0 } else { attributes.get_oif().unwrap_or_default() },
        via: attributes.get_gateway().ok(),
        refusal,
        mtu: metrics.as_ref().and_then(|metrics| metrics.get_mtu().ok()),
        is_mtu_locked: metrics
            .and_then(|metrics| metrics.get_lock().ok())
            .is_some_and(|lock| lock & MTU_LOCK != 0),
    })
}

fn unspecified(family: u8) -> Option<IpAddr> {
    match family {
        IPV4 => Some(Ipv4Addr::UNSPECIFIED.into()),
        IPV6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

/// Lists the policy rules that refuse packets.
///
/// # Errors
/// Why the kernel does not tell.
pub fn refusing_rules() -> Result<Vec<RefusingRule>, String> {
    let request = rt_rule::Request::new().op_getrule_dump(&FibRuleHdr::new());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request).map_err(|error| error.to_string())?;
    let mut rules = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(|error| error.to_string())?;
        rules.extend(rule(&header, &attributes));
    }
    Ok(rules)
}

fn rule(header: &FibRuleHdr, attributes: &IterableFibRuleAttrs<'_>) -> Option<RefusingRule> {
    let refusal = match FrAct::from_value(header.action.into())? {
        FrAct::Blackhole => Refusal::Blackhole,
        FrAct::Unreachable => Refusal::Unreachable,
        FrAct::Prohibit => Refusal::Prohibit,
        _ => return None,
    };
    let prefix = |address: Option<IpAddr>, length| Prefix::new(address?, length);
    let is_narrow = attributes.get_iifname().is_ok()
        || attributes.get_oifname().is_ok()
        || attributes.get_fwmark().is_ok()
        || attributes.get_ip_proto().is_ok()
        || attributes.get_sport_range().is_ok()
        || attributes.get_dport_range().is_ok()
        || attributes.get_uid_range().is_ok();
    Some(RefusingRule {
        priority: attributes.get_priority().unwrap_or_default(),
        refusal,
        to: prefix(attributes.get_dst().ok(), header.dst_len),
        from: prefix(attributes.get_src().ok(), header.src_len),
        is_narrow,
        is_ipv4: header.family == IPV4,
    })
}

/// Asks the kernel which way a packet to `destination` goes that this host sends with `mark`, by all its rules and tables.
pub fn way(destination: IpAddr, mark: u32) -> Way {
    let (family, length) = if destination.is_ipv4() { (IPV4, 32) } else { (IPV6, 128) };
    let header = Rtmsg { rtm_family: family, rtm_dst_len: length, ..Rtmsg::new() };
    let mut request = rt_route::Request::new().op_getroute_do(&header);
    request.encode().push_dst(destination).push_mark(mark);
    let mut socket = NetlinkSocket::new();
    let mut reply = match socket.request(&request) {
        Ok(reply) => reply,
        Err(error) => return Way::Unknown(error.to_string()),
    };
    match reply.recv_one() {
        Ok((header, attributes)) => answered(&header, &attributes),
        Err(error) => refused(error.as_io_error().raw_os_error(), &error.to_string()),
    }
}

fn answered(header: &Rtmsg, attributes: &IterableRouteAttrs<'_>) -> Way {
    match RtmType::from_value(header.rtm_type.into()) {
        Some(RtmType::Local | RtmType::Anycast) => Way::Here,
        Some(RtmType::Blackhole) => Way::Refused(Refusal::Blackhole),
        Some(RtmType::Unreachable) => Way::Refused(Refusal::Unreachable),
        Some(RtmType::Prohibit) => Way::Refused(Refusal::Prohibit),
        _ => match attributes.get_oif() {
            Ok(interface) => Way::Out(interface, attributes.get_gateway().ok()),
            Err(_) => Way::Unknown("the kernel names no interface".to_owned()),
        },
    }
}

/// Reads an error as both IP versions give it for refusing routes and rules.
fn refused(errno: Option<i32>, text: &str) -> Way {
    match errno {
        Some(EINVAL) => Way::Refused(Refusal::Blackhole),
        Some(EHOSTUNREACH) => Way::Refused(Refusal::Unreachable),
        Some(EACCES) => Way::Refused(Refusal::Prohibit),
        Some(ENETUNREACH) => Way::Nowhere,
        _ => Way::Unknown(text.to_owned()),
    }
}
