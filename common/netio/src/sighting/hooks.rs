//! Counters at netfilter's hooks: nf_tables tables that belong to a socket (`NFT_TABLE_F_OWNER`, Linux 5.12).

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_bindings::nftables::{
    Chained, CmpOps, ExprListAttrs, ExprOps, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers,
    Request,
};
use netlink_bindings::traits::Pusher;
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::{Base, Condition, Packets};
use crate::guard::netlink::compare;
use crate::ruleset_dump::Point;

/// What the names of these tables begin with; the process id follows.
pub const TABLE_PREFIX: &str = "doctor_";
/// `NFT_TABLE_F_OWNER`.
const TABLE_OWNER: u32 = 2;
/// First register of 16 bytes.
const REGISTER: u32 = Registers::Reg1 as u32;
const INET: u8 = 1;
const NETDEV: u8 = 5;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// A place to count at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The hook.
    pub point: Point,
    /// After all others there rather than before.
    pub is_last: bool,
    /// The device, of [`Point::Ingress`] and [`Point::Egress`].
    pub device: Option<String>,
}

impl Place {
    /// A hook that is at no device.
    pub fn at(point: Point, is_last: bool) -> Self {
        Self { point, is_last, device: None }
    }

    /// A hook at a device.
    pub fn at_device(point: Point, is_last: bool, device: &str) -> Self {
        Self { point, is_last, device: Some(device.to_owned()) }
    }

    fn family(&self) -> u8 {
        if self.device.is_some() { NETDEV } else { INET }
    }

    /// The hook's number in its family; `None` if it has none there.
    fn number(&self) -> Option<u32> {
        match (self.point, self.device.is_some()) {
            (Point::Ingress, true) => Some(0),
            (Point::Egress, true) => Some(1),
            (Point::Prerouting, false) => Some(0),
            (Point::Input, false) => Some(1),
            (Point::Forward, false) => Some(2),
            (Point::Output, false) => Some(3),
            (Point::Postrouting, false) => Some(4),
            _ => None,
        }
    }

    fn priority(&self) -> i32 {
        if self.is_last { i32::MAX } else { i32::MIN }
    }
}

/// Counters in place. Dropping them removes them.
pub struct Hooks {
    socket: NetlinkSocket,
    table: CString,
    places: Vec<Place>,
    /// What the kernel said to those that it refused.
    refused: Vec<Option<io::Error>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("table", &self.table)
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl Hooks {
    /// Counts `packets` at `places` of the calling thread's network namespace. Places that the kernel refuses
    /// (egress before Linux 5.16) are left out, and tell so in [`Hooks::counts`].
    ///
    /// # Errors
    /// The kernel's if it takes none of them: `EPERM` without `CAP_NET_ADMIN`, `EPROTONOSUPPORT` without nf_tables.
    pub fn start(packets: &Packets, places: Vec<Place>) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let table = c_string(&format!("{TABLE_PREFIX}{}_{number}", std::process::id()))?;
        let mut hooks = Self { socket: NetlinkSocket::new(), table, places, refused: Vec::new() };
        let mut tables = Vec::new();
        for (index, place) in hooks.places.iter().enumerate() {
            let family = place.family();
            if !tables.contains(&family) {
                // If it can't be made, its chains can't either, and say so.
                let table = &hooks.table;
                let _ = transact(&mut hooks.socket, |batch| make_table(batch, family, table));
                tables.push(family);
            }
            let made = make_place(&mut hooks.socket, &hooks.table, index, place, packets);
            hooks.refused.push(made.err());
        }
        let is_any = hooks.refused.iter().any(Option::is_none) || hooks.refused.is_empty();
        if is_any { Ok(hooks) } else { Err(hooks.refused.swap_remove(0).unwrap_or_else(unknown)) }
    }

    /// Returns the packets seen so far at each place, in their order; why not, where the kernel refused.
    ///
    /// # Errors
    /// The kernel's if it does not answer.
    pub fn counts(&mut self) -> io::Result<Vec<Result<u64, String>>> {
        let mut counts: Vec<Result<u64, String>> = self
            .refused
            .iter()
            .map(|refused| refused.as_ref().map_or(Ok(0), |error| Err(error.to_string())))
            .collect();
        let mut families: Vec<u8> = self.places.iter().map(Place::family).collect();
        families.sort_unstable();
        families.dedup();
        for family in families {
            self.count(family, &mut counts)?;
        }
        Ok(counts)
    }

    fn count(&mut self, family: u8, counts: &mut [Result<u64, String>]) -> io::Result<()> {
        let mut request = Request::new().op_getrule_dump(&header(family));
        request.encode().push_table(&self.table);
        let mut replies = self.socket.request(&request)?;
        while let Some(reply) = replies.recv() {
            let (_, rule) = reply.map_err(io::Error::from)?;
            if rule.get_table() != Ok(&self.table) {
                continue;
            }
            let index = rule.get_chain().ok().and_then(place_index);
            let Some(Ok(total)) = index.and_then(|index| counts.get_mut(index)) else { continue };
            for ExprListAttrs::Elem(expression) in rule.get_expressions().into_iter().flatten().flatten() {
                if let Ok(ExprOps::Counter(counter)) = expression.get_data() {
                    *total += counter.get_packets().unwrap_or(0);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        // Closing the socket would do, unless a child process has inherited it.
        for family in [INET, NETDEV] {
            let table = &self.table;
            let _ = transact(&mut self.socket, |batch| {
                batch.request().op_deltable_do(&header(family)).encode().push_name(table);
            });
        }
    }
}

fn unknown() -> io::Error {
    io::Error::other("the kernel refused without a reason")
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

/// Chains have the numbers of their places for names.
fn place_index(chain: &CStr) -> Option<usize> {
    chain.to_str().ok()?.strip_prefix('p')?.parse().ok()
}

fn header(family: u8) -> Nfgenmsg {
    Nfgenmsg { nfgen_family: family, ..Nfgenmsg::default() }
}

fn transact(socket: &mut NetlinkSocket, write: impl FnOnce(&mut Chained<'static>)) -> io::Result<()> {
    let mut subsystem = Nfgenmsg::new();
    subsystem.set_res_id(libc::NFNL_SUBSYS_NFTABLES as u16);
    let mut batch = Chained::new(socket.reserve_seq(8));
    batch.request().op_batch_begin_do(&subsystem);
    write(&mut batch);
    batch.request().op_batch_end_do(&subsystem);
    let finished = batch.finalize();
    let answer: Result<(), ReplyError> = socket.request_chained(&finished)?.recv_all();
    answer.map_err(io::Error::from)
}

fn make_table(batch: &mut Chained<'static>, family: u8, table: &CStr) {
    let request = batch.request().set_create().set_excl();
    request.op_newtable_do(&header(family)).encode().push_name(table).push_flags(TABLE_OWNER);
}

fn make_place(
    socket: &mut NetlinkSocket,
    table: &CStr,
    index: usize,
    place: &Place,
    packets: &Packets,
) -> io::Result<()> {
    let number = place.number().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
    let name = c_string(&format!("p{index}"))?;
    let device = place.device.as_deref().map(c_string).transpose()?;
    transact(socket, |batch| {
        let header = header(place.family());
        let mut chain = batch.request().set_create().op_newchain_do(&header);
        let hook = chain
            .encode()
            .push_table(table)
            .push_name(&name)
            .push_type(c"filter")
            .nested_hook()
            .push_num(number)
            .push_priority(place.priority());
        match &device {
            Some(device) => hook.push_dev(device).end_nested(),
            None => hook.end_nested(),
        };
        let mut rule = batch.request().set_create().set_append().op_newrule_do(&header);
        let list = rule.encode().push_table(table).push_chain(&name).nested_expressions();
        let list = encode(list, packets, device.is_some());
        list.nested_elem().nested_data_counter().end_nested().end_nested().end_nested();
    })
}

fn encode<P: Pusher>(
    list: PushExprListAttrs<P>,
    packets: &Packets,
    is_at_device: bool,
) -> PushExprListAttrs<P> {
    let list = if is_at_device {
        let ether_type = if packets.is_v4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 } as u16;
        meta(list, MetaKeys::Protocol, &ether_type.to_be_bytes())
    } else {
        meta(list, MetaKeys::Nfproto, &[if packets.is_v4 { IPV4 } else { IPV6 }])
    };
    let list = meta(list, MetaKeys::L4Proto, &[packets.protocol]);
    packets.conditions.iter().fold(list, condition)
}

fn meta<P: Pusher>(list: PushExprListAttrs<P>, key: MetaKeys, value: &[u8]) -> PushExprListAttrs<P> {
    let load = list.nested_elem().nested_data_meta().push_dreg(REGISTER).push_key(key as u32);
    compare(load.end_nested().end_nested(), CmpOps::Eq, value)
}

fn condition<P: Pusher>(list: PushExprListAttrs<P>, condition: &Condition) -> PushExprListAttrs<P> {
    let length = usize::from(condition.length).min(4);
    let bytes = |value: u32| value.to_be_bytes()[4 - length..].to_vec();
    let base = match condition.base {
        Base::Network => PayloadBase::NetworkHeader,
        Base::Transport => PayloadBase::TransportHeader,
    };
    let mut list = list
        .nested_elem()
        .nested_data_payload()
        .push_dreg(REGISTER)
        .push_base(base as u32)
        .push_offset(condition.offset.into())
        .push_len(length as u32)
        .end_nested()
        .end_nested();
    let mask = bytes(condition.mask);
    if mask.iter().any(|byte| *byte != 0xff) {
        list = list
            .nested_elem()
            .nested_data_bitwise()
            .push_sreg(REGISTER)
            .push_dreg(REGISTER)
            .push_len(length as u32)
            .nested_mask()
            .push_value(&mask)
            .end_nested()
            .nested_xor()
            .push_value(&vec![0; length])
            .end_nested()
            .end_nested()
            .end_nested();
    }
    if condition.low == condition.high {
        return compare(list, CmpOps::Eq, &bytes(condition.low));
    }
    let list = compare(list, CmpOps::Gte, &bytes(condition.low));
    compare(list, CmpOps::Lte, &bytes(condition.high))
}
