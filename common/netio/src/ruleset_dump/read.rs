//! Ruleset from netlink messages.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;

use netlink_bindings::nftables::{
    ExprListAttrs, ExprOps, HookDevAttrs, IterableDataAttrs, IterableExprAttrs, IterableExprLookupAttrs,
    IterableNftHookAttrs, IterableRuleAttrs, IterableVerdictAttrs, Nfgenmsg, NftHookAttrs, Registers,
    Request, SetelemListElemAttrs, VerdictCode,
};
use netlink_socket2::NetlinkSocket;

use super::text::Writer;
use super::{Chain, Hook, Point, Rule, Ruleset, Verdict};

/// Rules and chains that are read at most; more are an error, so that nobody takes a part for the whole.
const MOST: usize = 50_000;
/// Elements of verdict maps that are read at most, of each.
const MOST_ELEMENTS: usize = 4096;
const NETDEV: u8 = 5;
/// `NF_DROP`, the only policy besides to accept.
const POLICY_DROP: u32 = 0;

type Names = (u8, CString, CString);

/// A verdict map: its verdicts, and whether one of them is for what connection tracking calls invalid.
type Map = (Vec<Verdict>, bool);

/// Reads the nf_tables of the calling thread's network namespace.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_NET_ADMIN`; `EPROTONOSUPPORT` or `EOPNOTSUPP` if it has no nf_tables;
/// `EFBIG` if there are more than 50,000 rules.
pub fn dump() -> io::Result<Ruleset> {
    let mut socket = NetlinkSocket::new();
    let chains = chains(&mut socket)?;
    let mut maps = HashMap::new();
    // Rules are read twice: which maps they use has to be known before what they say.
    for name in maps_used(&mut socket)? {
        let elements = elements(&mut socket, &name)?;
        maps.insert(name, elements);
    }
    let mut rules = Vec::new();
    each_rule(&mut socket, |family, rule| {
        rules.extend(read_rule(family, &rule, &maps));
        if rules.len() > MOST { Err(too_many()) } else { Ok(()) }
    })?;
    Ok(Ruleset { chains, rules })
}

fn too_many() -> io::Error {
    io::Error::from_raw_os_error(libc::EFBIG)
}

fn chains(socket: &mut NetlinkSocket) -> io::Result<Vec<Chain>> {
    let request = Request::new().op_getchain_dump(&Nfgenmsg::default());
    let mut replies = socket.request(&request)?;
    let mut chains = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, chain) = reply.map_err(io::Error::from)?;
        let (Ok(table), Ok(name)) = (chain.get_table(), chain.get_name()) else { continue };
        let family = header.nfgen_family;
        let hook = chain.get_hook().ok().map(|hook| Hook {
            point: point(family, hook.get_num().unwrap_or(u32::MAX)),
            priority: hook.get_priority().unwrap_or(0),
            devices: devices(&hook),
            drops: chain.get_policy() == Ok(POLICY_DROP),
        });
        let (table, name) = (table.to_string_lossy().into_owned(), name.to_string_lossy().into_owned());
        chains.push(Chain { family: family_name(family), table, name, hook });
        if chains.len() > MOST {
            return Err(too_many());
        }
    }
    Ok(chains)
}

/// Returns the devices of a hook.
pub(crate) fn devices(hook: &IterableNftHookAttrs<'_>) -> Vec<String> {
    let mut devices = Vec::new();
    for attribute in (*hook).flatten() {
        match attribute {
            NftHookAttrs::Dev(name) => devices.push(name.to_string_lossy().into_owned()),
            NftHookAttrs::Devs(list) => {
                for HookDevAttrs::Name(name) in list.flatten() {
                    devices.push(name.to_string_lossy().into_owned());
                }
            }
            _ => {}
        }
    }
    devices.dedup();
    devices
}

fn each_rule(
    socket: &mut NetlinkSocket,
    mut take: impl FnMut(u8, IterableRuleAttrs<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let request = Request::new().op_getrule_dump(&Nfgenmsg::default());
    let mut replies = socket.request(&request)?;
    while let Some(reply) = replies.recv() {
        let (header, rule) = reply.map_err(io::Error::from)?;
        take(header.nfgen_family, rule)?;
    }
    Ok(())
}

fn maps_used(socket: &mut NetlinkSocket) -> io::Result<Vec<Names>> {
    let mut names = Vec::new();
    each_rule(socket, |family, rule| {
        let Ok(table) = rule.get_table() else { return Ok(()) };
        for expression in expressions(&rule) {
            let Some(map) = verdict_map(&expression) else { continue };
            let name = (family, table.to_owned(), map);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.len() > MOST_ELEMENTS { Err(too_many()) } else { Ok(()) }
    })?;
    Ok(names)
}

fn elements(socket: &mut NetlinkSocket, (family, table, map): &Names) -> io::Result<Map> {
    let header = Nfgenmsg { nfgen_family: *family, ..Nfgenmsg::default() };
    let mut request = Request::new().op_getsetelem_dump(&header);
    request.encode().push_table(table).push_set(map);
    let mut replies = socket.request(&request)?;
    let (mut verdicts, mut drops_invalid) = (Vec::new(), false);
    while let Some(reply) = replies.recv() {
        let (_, list) = match reply.map_err(io::Error::from) {
            // It has been removed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            reply => reply?,
        };
        for SetelemListElemAttrs::Elem(element) in list.get_elements().into_iter().flatten().flatten() {
            let Some(verdict) = element.get_data().ok().and_then(|data| verdict_of(&data)) else { continue };
            let key = element.get_key().ok().and_then(|key| key.get_value().ok()).and_then(host_word);
            drops_invalid |= verdict == Verdict::Drop && key.is_some_and(|key| key & CT_INVALID != 0);
            if verdicts.len() < MOST_ELEMENTS && !verdicts.contains(&verdict) {
                verdicts.push(verdict);
            }
        }
    }
    Ok((verdicts, drops_invalid))
}

/// The bit of `ct state invalid`: `NF_CT_STATE_INVALID_BIT`.
pub(super) const CT_INVALID: u32 = 1;

/// Reads a number that the kernel keeps in its own byte order.
pub(super) fn host_word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn expressions<'a>(rule: &IterableRuleAttrs<'a>) -> Vec<IterableExprAttrs<'a>> {
    let list = rule.get_expressions().into_iter().flatten().flatten();
    list.map(|ExprListAttrs::Elem(expression)| expression).collect()
}

/// Returns the registers that a lookup reads and writes. The bindings take NFTA_LOOKUP_SREG, _DREG and _SET_ID for the
/// set's id and the two registers (2, 3, 4 in linux/netfilter/nf_tables.h; all of one type), so each stands one further.
pub(super) fn lookup_registers(lookup: &IterableExprLookupAttrs<'_>) -> (Option<u32>, Option<u32>) {
    (lookup.get_set_id().ok(), lookup.get_sreg().ok())
}

/// Returns the name of the map, if this looks up a verdict.
fn verdict_map(expression: &IterableExprAttrs<'_>) -> Option<CString> {
    let Ok(ExprOps::Lookup(lookup)) = expression.get_data() else { return None };
    let (_, written) = lookup_registers(&lookup);
    (written == Some(Registers::RegVerdict as u32)).then(|| lookup.get_set().ok())?.map(Into::into)
}

fn read_rule(family: u8, rule: &IterableRuleAttrs<'_>, maps: &HashMap<Names, Map>) -> Option<Rule> {
    let (table, chain) = (rule.get_table().ok()?, rule.get_chain().ok()?);
    let mut writer = Writer::default();
    let (mut counter, mut verdict, mut forwards) = (None, Verdict::Continue, false);
    for expression in expressions(rule) {
        let data = expression.get_data();
        if let Ok(ExprOps::Counter(count)) = &data {
            counter = count.get_packets().ok();
        }
        if let Some(map) = verdict_map(&expression) {
            let (verdicts, drops_invalid) =
                maps.get(&(family, table.to_owned(), map)).cloned().unwrap_or_default();
            writer.finish_map(drops_invalid);
            verdict = Verdict::Map(verdicts);
            continue;
        }
        forwards |= expression.get_name().is_ok_and(|name| name == c"fwd");
        match expression_verdict(&data, expression.get_name().ok().map(|name| name.to_bytes())) {
            Some(found) => verdict = found,
            None => writer.push(&expression),
        }
    }
    let (is_of_invalid, text) = writer.finish(&verdict);
    Some(Rule {
        family: family_name(family),
        table: table.to_string_lossy().into_owned(),
        chain: chain.to_string_lossy().into_owned(),
        handle: rule.get_handle().unwrap_or(0),
        counter,
        verdict,
        forwards,
        is_of_invalid,
        text,
    })
}

fn expression_verdict<E>(data: &Result<ExprOps<'_>, E>, name: Option<&[u8]>) -> Option<Verdict> {
    match (data, name) {
        (Ok(ExprOps::Immediate(immediate)), _) => verdict_of(&immediate.get_data().ok()?),
        (Ok(ExprOps::Reject(_)), _) | (_, Some(b"reject")) => Some(Verdict::Reject),
        // iptables-nft: what has no expression of its own is a target of xtables.
        (Ok(ExprOps::Target(target)), _) => match target.get_name().ok()?.to_bytes() {
            b"REJECT" => Some(Verdict::Reject),
            b"DROP" => Some(Verdict::Drop),
            _ => None,
        },
        (_, Some(b"queue")) => Some(Verdict::Other),
        _ => None,
    }
}

fn verdict_of(data: &IterableDataAttrs<'_>) -> Option<Verdict> {
    let verdict: IterableVerdictAttrs<'_> = data.get_verdict().ok()?;
    let chain = || verdict.get_chain().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Some(match verdict.get_code().ok()? {
        code if code == VerdictCode::Drop as u32 => Verdict::Drop,
        code if code == VerdictCode::Accept as u32 => Verdict::Accept,
        code if code == VerdictCode::Jump as u32 => Verdict::Jump(chain()),
        code if code == VerdictCode::Goto as u32 => Verdict::Goto(chain()),
        code if code == VerdictCode::Continue as u32 => Verdict::Continue,
        _ => Verdict::Other,
    })
}

fn family_name(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        NETDEV => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

/// `enum nf_inet_hooks`, and those of the families that number otherwise.
fn point(family: u8, number: u32) -> Point {
    match (family, number) {
        (NETDEV, 0) | (1, 5) => Point::Ingress,
        (NETDEV, 1) => Point::Egress,
        (3, 0) => Point::Input,
        (3, 1) => Point::Output,
        (1 | 2 | 7 | 10, 0) => Point::Prerouting,
        (1 | 2 | 7 | 10, 1) => Point::Input,
        (1 | 2 | 7 | 10, 2) => Point::Forward,
        (1 | 2 | 7 | 10, 3) => Point::Output,
        (1 | 2 | 7 | 10, 4) => Point::Postrouting,
        _ => Point::Other,
    }
}
