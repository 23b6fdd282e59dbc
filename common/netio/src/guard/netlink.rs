//! The guard's rules as nf_tables netlink messages (`NETLINK_NETFILTER`; every change needs
//! `CAP_NET_ADMIN` in the network namespace's user namespace).

use std::ffi::{CStr, CString};
use std::net::IpAddr;

use netlink_bindings::nftables::{
    self, CmpOps, ExprListAttrs, ExprOps, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers,
    VerdictCode,
};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::ruleset::{Action, Base, Field, Match, Meta, Rule};
use super::text::mask;

/// `NFPROTO_UNSPEC`: every family.
pub(super) const ANY: u8 = 0;
/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;
/// `NFPROTO_NETDEV`.
pub(super) const NETDEV: u8 = 5;
/// `NF_NETDEV_INGRESS`.
pub(super) const HOOK_INGRESS: u32 = 0;
/// `NF_INET_LOCAL_OUT`.
pub(super) const HOOK_OUTPUT: u32 = 3;
/// `NF_INET_POST_ROUTING`.
pub(super) const HOOK_POSTROUTING: u32 = 4;
/// `NF_INET_PRE_ROUTING`.
pub(super) const HOOK_PREROUTING: u32 = 0;
/// Before connection tracking (-200): `NF_IP_PRI_RAW`.
pub(super) const PRIORITY_RAW: i32 = -300;
/// The kernel removes the table when the socket that made it is closed: `NFT_TABLE_F_OWNER`.
const TABLE_OWNER: u32 = 2;
/// `PACKET_HOST`.
const PACKET_HOST: u8 = 0;
/// Messages per transaction. Each is acknowledged, and a few hundred acknowledgements would
/// overflow the socket's receive buffer.
const BATCH: usize = 40;
/// First register of 16 bytes.
const REGISTER: u32 = Registers::Reg1 as u32;

/// One object to make.
pub(super) enum Message<'a> {
    Table,
    Chain(&'a CStr),
    /// A chain with a hook, and the device it listens on if it is an ingress hook.
    BaseChain {
        name: &'a CStr,
        hook: u32,
        device: Option<&'a CStr>,
    },
    Rule {
        chain: &'a CStr,
        rule: &'a Rule,
    },
}

/// Makes `messages` in `family`'s table `table`, in order. Each run of [`BATCH`] is one
/// transaction: all of it happens or none.
pub(super) fn make(
    socket: &mut NetlinkSocket,
    family: u8,
    table: &CStr,
    messages: &[Message<'_>],
) -> Result<(), ReplyError> {
    for run in messages.chunks(BATCH) {
        transact(socket, |batch| {
            for message in run {
                encode(batch, family, table, message)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Removes a table with all it holds.
pub(super) fn remove(socket: &mut NetlinkSocket, family: u8, table: &CStr) -> Result<(), ReplyError> {
    transact(socket, |batch| {
        batch.request().op_deltable_do(&header(family)).encode().push_name(table);
        Ok(())
    })
}

/// Removes the rules of a chain; fails with ENOENT if there are none.
pub(super) fn clear(
    socket: &mut NetlinkSocket,
    family: u8,
    table: &CStr,
    chain: &CStr,
) -> Result<(), ReplyError> {
    transact(socket, |batch| {
        batch.request().op_delrule_do(&header(family)).encode().push_table(table).push_chain(chain);
        Ok(())
    })
}

/// A rule as the kernel lists it.
pub(super) struct ListedRule {
    pub(super) chain: String,
    /// Packets and bytes, if the rule counts.
    pub(super) counter: Option<(u64, u64)>,
}

/// Lists the rules of a table.
pub(super) fn list_rules(
    socket: &mut NetlinkSocket,
    family: u8,
    table: &CStr,
) -> Result<Vec<ListedRule>, ReplyError> {
    let mut request = nftables::Request::new().op_getrule_dump(&header(family));
    request.encode().push_table(table);
    let mut replies = socket.request(&request)?;
    let mut rules = Vec::new();
    while let Some(reply) = replies.recv() {
        let (_, rule) = reply?;
        // Kernels that ignore the filter list every table's rules.
        if rule.get_table()? != table {
            continue;
        }
        let mut counter = None;
        for element in rule.get_expressions().into_iter().flatten().flatten() {
            let ExprListAttrs::Elem(expression) = element;
            if let Ok(ExprOps::Counter(count)) = expression.get_data() {
                counter = Some((count.get_packets()?, count.get_bytes()?));
            }
        }
        rules.push(ListedRule { chain: rule.get_chain()?.to_string_lossy().into_owned(), counter });
    }
    Ok(rules)
}

/// Lists the names of all tables of `family`, or of every one if it is [`ANY`], in this network
/// namespace.
pub(super) fn list_tables(socket: &mut NetlinkSocket, family: u8) -> Result<Vec<CString>, ReplyError> {
    let request = nftables::Request::new().op_gettable_dump(&header(family));
    let mut replies = socket.request(&request)?;
    let mut names = Vec::new();
    while let Some(reply) = replies.recv() {
        names.push(reply?.1.get_name()?.to_owned());
    }
    Ok(names)
}

fn header(family: u8) -> Nfgenmsg {
    Nfgenmsg { nfgen_family: family, ..Nfgenmsg::default() }
}

/// Sends what `write` puts between the begin and the end of a batch, and waits for the answers.
fn transact(
    socket: &mut NetlinkSocket,
    write: impl FnOnce(&mut nftables::Chained<'static>) -> Result<(), ReplyError>,
) -> Result<(), ReplyError> {
    let mut subsystem = Nfgenmsg::new();
    subsystem.set_res_id(libc::NFNL_SUBSYS_NFTABLES as u16);
    let first = socket.reserve_seq(BATCH as u32 + 2);
    let mut batch = nftables::Chained::new(first);
    batch.request().op_batch_begin_do(&subsystem);
    write(&mut batch)?;
    batch.request().op_batch_end_do(&subsystem);
    socket.request_chained(&batch.finalize())?.recv_all()
}

fn encode(
    batch: &mut nftables::Chained<'static>,
    family: u8,
    table: &CStr,
    message: &Message<'_>,
) -> Result<(), ReplyError> {
    let header = header(family);
    let request = batch.request().set_create();
    match message {
        Message::Table => {
            request.set_excl().op_newtable_do(&header).encode().push_name(table).push_flags(TABLE_OWNER);
        }
        Message::Chain(name) => {
            request.op_newchain_do(&header).encode().push_table(table).push_name(name);
        }
        Message::BaseChain { name, hook, device } => {
            let mut chain = request.op_newchain_do(&header);
            let hook = chain
                .encode()
                .push_table(table)
                .push_name(name)
                .push_type(c"filter")
                .nested_hook()
                .push_num(*hook)
                .push_priority(PRIORITY_RAW);
            match device {
                Some(device) => hook.push_dev(device).end_nested(),
                None => hook.end_nested(),
            };
        }
        Message::Rule { chain, rule } => {
            let mut request = request.set_append().op_newrule_do(&header);
            let mut list = request.encode().push_table(table).push_chain(chain).nested_expressions();
            for condition in &rule.matches {
                list = encode_match(list, condition);
            }
            encode_action(list, &rule.action)?.end_nested();
        }
    }
    Ok(())
}

fn encode_match<P: Pusher>(list: PushExprListAttrs<P>, condition: &Match) -> PushExprListAttrs<P> {
    match condition {
        Match::Meta(meta) => {
            // The kernel keeps the EtherType in network order, the mark in its own.
            let operation = match meta {
                Meta::LeavesElsewhere(_) => CmpOps::Neq,
                _ => CmpOps::Eq,
            };
            let (key, value) = match meta {
                Meta::PacketTypeHost => (MetaKeys::Pkttype, vec![PACKET_HOST]),
                Meta::Protocol(ether_type) => (MetaKeys::Protocol, ether_type.to_be_bytes().to_vec()),
                Meta::TransportProtocol(protocol) => (MetaKeys::L4Proto, vec![*protocol]),
                Meta::Mark(mark) => (MetaKeys::Mark, mark.to_ne_bytes().to_vec()),
                Meta::InputPrefix(prefix) => (MetaKeys::Iifname, prefix.as_bytes().to_vec()),
                Meta::LeavesElsewhere(index) => (MetaKeys::Oif, index.to_ne_bytes().to_vec()),
            };
            let load = list.nested_elem().nested_data_meta().push_dreg(REGISTER).push_key(key as u32);
            compare(load.end_nested().end_nested(), operation, &value)
        }
        Match::Within(field, prefix) => {
            let mask = mask(prefix.length(), field.length);
            match prefix.address() {
                IpAddr::V4(address) => masked(list, field, &mask, &address.octets()),
                IpAddr::V6(address) => masked(list, field, &mask, &address.octets()),
            }
        }
        Match::Is(field, IpAddr::V4(address)) => compare(load(list, field), CmpOps::Eq, &address.octets()),
        Match::Is(field, IpAddr::V6(address)) => compare(load(list, field), CmpOps::Eq, &address.octets()),
        Match::Between(field, low, high) if low == high => {
            compare(load(list, field), CmpOps::Eq, &low.to_be_bytes())
        }
        Match::Between(field, low, high) => {
            let list = compare(load(list, field), CmpOps::Gte, &low.to_be_bytes());
            compare(list, CmpOps::Lte, &high.to_be_bytes())
        }
        Match::Masked(field, mask, value) => masked(list, field, mask, value),
        Match::Differs(field, value) => compare(load(list, field), CmpOps::Neq, value),
        Match::NoFragmentHeader => {
            let mut expression = list.nested_elem().push_name(c"exthdr");
            push_fragment_header_presence(expression.as_vec_mut());
            compare(expression.end_nested(), CmpOps::Eq, &[0])
        }
        Match::Present(field) => {
            let zeros = [0; 16];
            let zeros = zeros.get(..usize::from(field.length)).unwrap_or(&zeros);
            compare(load(list, field), CmpOps::Gte, zeros)
        }
    }
}

/// Appends the data of an `exthdr` expression, which the bindings don't know: it stores 1 if the
/// packet has an IPv6 fragment header, else 0.
fn push_fragment_header_presence(out: &mut Vec<u8>) {
    const NFTA_EXPR_DATA: u16 = 2;
    const NFTA_EXTHDR_DREG: u16 = 1;
    const NFTA_EXTHDR_TYPE: u16 = 2;
    const NFTA_EXTHDR_OFFSET: u16 = 3;
    const NFTA_EXTHDR_LEN: u16 = 4;
    const NFTA_EXTHDR_FLAGS: u16 = 5;
    const NFT_EXTHDR_F_PRESENT: u32 = 1;
    const FRAGMENT_HEADER: u8 = 44;

    let data = push_nested_header(out, NFTA_EXPR_DATA);
    push_header(out, NFTA_EXTHDR_TYPE, 1);
    out.push(FRAGMENT_HEADER);
    for (attribute, value) in [
        (NFTA_EXTHDR_DREG, REGISTER),
        (NFTA_EXTHDR_OFFSET, 0),
        (NFTA_EXTHDR_LEN, 1),
        (NFTA_EXTHDR_FLAGS, NFT_EXTHDR_F_PRESENT),
    ] {
        push_header(out, attribute, 4);
        out.extend(value.to_be_bytes());
    }
    finalize_nested_header(out, data);
}

fn load<P: Pusher>(list: PushExprListAttrs<P>, field: &Field) -> PushExprListAttrs<P> {
    let base = match field.base {
        Base::Network => PayloadBase::NetworkHeader,
        Base::Transport => PayloadBase::TransportHeader,
    };
    list.nested_elem()
        .nested_data_payload()
        .push_dreg(REGISTER)
        .push_base(base as u32)
        .push_offset(field.offset.into())
        .push_len(field.length.into())
        .end_nested()
        .end_nested()
}

fn masked<P: Pusher>(
    list: PushExprListAttrs<P>,
    field: &Field,
    mask: &[u8],
    value: &[u8],
) -> PushExprListAttrs<P> {
    let mut list = load(list, field);
    if mask.iter().any(|byte| *byte != 0xff) {
        let zeros = vec![0; mask.len()];
        list = list
            .nested_elem()
            .nested_data_bitwise()
            .push_sreg(REGISTER)
            .push_dreg(REGISTER)
            .push_len(field.length.into())
            .nested_mask()
            .push_value(mask)
            .end_nested()
            .nested_xor()
            .push_value(&zeros)
            .end_nested()
            .end_nested()
            .end_nested();
    }
    compare(list, CmpOps::Eq, value)
}

/// Appends a comparison of the first register with `value`.
pub(crate) fn compare<P: Pusher>(
    list: PushExprListAttrs<P>,
    op: CmpOps,
    value: &[u8],
) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_cmp()
        .push_sreg(REGISTER)
        .push_op(op as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn encode_action<P: Pusher>(
    list: PushExprListAttrs<P>,
    action: &Action,
) -> Result<PushExprListAttrs<P>, ReplyError> {
    let list = match action {
        Action::CountedDrop | Action::CountedAccept => {
            list.nested_elem().nested_data_counter().end_nested().end_nested()
        }
        Action::Notrack => return Ok(list.nested_elem().push_name(c"notrack").end_nested()),
        Action::SetMark(mark) => return Ok(set_mark(list, *mark)),
        Action::Accept | Action::Goto(_) | Action::Jump(_) => list,
    };
    let verdict = list
        .nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict();
    let verdict = match action {
        Action::CountedDrop => verdict.push_code(VerdictCode::Drop as u32),
        Action::Goto(chain) | Action::Jump(chain) => {
            let code = if matches!(action, Action::Goto(_)) { VerdictCode::Goto } else { VerdictCode::Jump };
            let chain = CString::new(*chain).map_err(std::io::Error::from)?;
            verdict.push_code(code as u32).push_chain(&chain)
        }
        Action::Accept | Action::CountedAccept | Action::Notrack | Action::SetMark(_) => {
            verdict.push_code(VerdictCode::Accept as u32)
        }
    };
    Ok(verdict.end_nested().end_nested().end_nested().end_nested())
}

fn set_mark<P: Pusher>(list: PushExprListAttrs<P>, mark: u32) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_immediate()
        .push_dreg(REGISTER)
        .nested_data()
        .push_value(&mark.to_ne_bytes())
        .end_nested()
        .end_nested()
        .end_nested()
        .nested_elem()
        .nested_data_meta()
        .push_key(MetaKeys::Mark as u32)
        .push_sreg(REGISTER)
        .end_nested()
        .end_nested()
}
