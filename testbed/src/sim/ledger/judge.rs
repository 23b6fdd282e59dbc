//! What must be true of a segment that reaches an end.

use super::said::Said;
use super::{Account, End};
use rtt0_core::wire::tcp::Flags;

/// Tells whether a segment is an older connection's, come late and therefore no longer
/// translated, or translated by its successor. Its client has given the connection up, and any
/// old duplicate may reach it under plain TCP too.
pub(super) fn is_late_from_server(account: &Account, said: &Said) -> bool {
    let server = account.server.iter();
    let mut spaces =
        server.map(|end| (end.isn, end.sent)).chain(account.client.irs.map(|irs| (irs, 1 << 20)));
    let own_ack = said.ack.is_some_and(|ack| ack.wrapping_sub(account.client.isn) <= account.client.sent);
    own_ack || spaces.any(|(isn, sent)| said.seq.wrapping_sub(isn) <= sent + 1)
}

/// The same at the server: the client's numbers are never translated.
pub(super) fn is_from_client(account: &Account, said: &Said) -> bool {
    said.seq.wrapping_sub(account.client.isn) <= account.client.sent + 1
}

/// Tells whether a segment is one that the client sent before it heard anything but its
/// spoofed SYN-ACK, in the promised space.
pub(super) fn is_early(account: &Account, said: &Said) -> bool {
    let client = &account.client;
    let own = said.seq.wrapping_sub(client.isn) <= client.sent + 1;
    own && client.irs.is_some() && said.ack == client.irs.map(|irs| irs.wrapping_add(1))
}

/// Judges a segment that reaches the client.
///
/// # Errors
/// The invariant it breaks.
pub(super) fn judge_client(account: &mut Account, said: &Said, fair: bool) -> Result<(), &'static str> {
    let Account { client, server, reuses, .. } = account;
    let own_ack = said.ack.map(|ack| ack.wrapping_sub(client.isn));
    let Some(irs) = client.irs else {
        // SYN-SENT: only what acknowledges the SYN is looked at (RFC 9293 §3.10.7.3).
        if said.flags.is_syn_ack() && own_ack == Some(1) {
            client.irs = Some(said.seq);
            client.scales.1 = said.syn.and_then(|(_, scale)| scale);
            client.peer_tsval = said.timestamps.map(|(value, _)| value);
            return Ok(());
        }
        let harmless = own_ack.is_none_or(|ack| ack <= client.sent);
        return if harmless { Ok(()) } else { Err("an ACK of another space before the SYN-ACK") };
    };
    let refuses = said.flags.contains(Flags::RST) && own_ack == Some(1);
    let of_zero = |end: &End| said.seq.wrapping_sub(irs) == end.isn.wrapping_neg();
    if refuses && (server.is_empty() || !fair && (said.seq == 0 || server.iter().any(of_zero))) {
        // Untranslated or not, it is true: the server refuses the SYN, or a late copy of it. Its
        // number is outside of the window anyway.
        return Ok(());
    }
    if said.flags.is_syn_ack() && own_ack == Some(1) && !fair {
        // A late copy of the SYN has been answered anew, by the server or by ClientNIC. The client's
        // challenge ACK will end that; smoltcp will echo its TSval once.
        *reuses = true;
        return Ok(());
    }
    let relative = said.seq.wrapping_sub(irs);
    let sent = server.iter().map(|end| end.sent).max().unwrap_or(0).max(1);
    if relative > sent {
        return Err("SEG.SEQ of another space, or beyond what the server sent");
    }
    if said.flags.is_syn_ack() {
        let same = own_ack == Some(1) && relative == 0;
        return if same { Ok(()) } else { Err("another SYN-ACK than the first") };
    }
    if said.flags.contains(Flags::RST) {
        return Ok(());
    }
    let acknowledged = server.iter().map(|end| end.acknowledged).max().unwrap_or(0).max(1);
    match own_ack {
        Some(ack) if ack > client.sent => return Err("SEG.ACK of another space"),
        Some(ack) if ack > acknowledged => return Err("SEG.ACK of what the server has not acknowledged"),
        _ => {}
    }
    if !said.sack_within(client) {
        return Err("SACK of what was never sent");
    }
    let clocks = server.iter().filter_map(|end| end.tsval.map(|(_, span)| span)).max();
    judge_segment(client, said, clocks, *reuses)?;
    let edge = server.iter().map(|end| end.edge).max().unwrap_or(0);
    let floor = server.iter().filter_map(|end| end.floor).min();
    judge_window(client, said, own_ack, edge, floor)
}

/// Judges a segment that reaches the server.
///
/// # Errors
/// The invariant it breaks.
pub(super) fn judge_server(account: &Account, said: &Said) -> Result<(), &'static str> {
    let Account { client, server, reuses, .. } = account;
    let relative = said.seq.wrapping_sub(client.isn);
    if said.flags.is_syn() {
        return if relative == 0 { Ok(()) } else { Err("a SYN that the client never sent") };
    }
    if relative > client.sent + 1 {
        return Err("SEG.SEQ of another space, or beyond what the client sent");
    }
    if said.flags.contains(Flags::RST) {
        return Ok(());
    }
    let mut reason = "a segment before the handshake";
    for end in server.iter().rev() {
        match judge_server_end(client, end, said, *reuses) {
            Ok(()) => return Ok(()),
            Err(why) => reason = why,
        }
    }
    Err(reason)
}

fn judge_server_end(client: &End, end: &End, said: &Said, reuses: bool) -> Result<(), &'static str> {
    let own_ack = said.ack.map(|ack| ack.wrapping_sub(end.isn));
    match own_ack {
        Some(ack) if ack > end.sent => return Err("SEG.ACK of another space"),
        Some(ack) if ack > client.acknowledged.max(1) => {
            return Err("SEG.ACK of what the client has not acknowledged");
        }
        _ => {}
    }
    if !said.sack_within(end) {
        return Err("SACK of what was never sent");
    }
    let server = End { peer_tsval: client.tsval.map(|(first, _)| first), ..*end };
    judge_segment(&server, said, client.tsval.map(|(_, span)| span), reuses)?;
    judge_window(end, said, own_ack, client.edge, client.floor)
}

/// Timestamps within what either end has said, payload within the MSS. `clock` is how far the
/// sender's clock has come.
fn judge_segment(end: &End, said: &Said, clock: Option<u32>, reuses: bool) -> Result<(), &'static str> {
    if said.with_options > usize::from(end.mss) && said.payload > 0 {
        return Err("a segment larger than the MSS");
    }
    let Some((value, echo)) = said.timestamps else { return Ok(()) };
    if let (Some(first), Some(span)) = (end.peer_tsval, clock)
        && (value.wrapping_sub(first) as i32).unsigned_abs() > span
    {
        return Err("TSval of another clock");
    }
    let (first, span) = end.tsval.unwrap_or_default();
    if echo != 0 && end.tsval.is_some() && !reuses && echo.wrapping_sub(first) > span {
        return Err("TSecr of another clock");
    }
    Ok(())
}

/// No window reaches beyond what the other end has announced, nor is it smaller than any of
/// those, but for what a shift cuts off or the field can't hold.
fn judge_window(
    end: &End,
    said: &Said,
    own_ack: Option<u32>,
    edge: u64,
    floor: Option<u64>,
) -> Result<(), &'static str> {
    let Some(ack) = own_ack else { return Ok(()) };
    let shift = if let (Some(_), Some(peers)) = end.scales { peers } else { 0 };
    let window = u64::from(said.window) << shift;
    if said.window != u16::MAX && floor.is_some_and(|floor| window + (1 << shift) <= floor) {
        return Err("a window smaller than was announced");
    }
    if u64::from(ack) + window > edge { Err("a window wider than was announced") } else { Ok(()) }
}
