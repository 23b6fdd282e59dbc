//! The handshake and the first request of a connection, as ServerNIC sees them.
#![allow(dead_code, unreachable_pub, reason = "each test crate that includes this uses a part of it")]

use super::packets::*;
use rtt0_core::offer::{Kind, Offer, Promise};
use rtt0_core::seq::Seq;

/// The client's ISN; its first byte is the last before the wrap.
pub const C: u32 = 0xffff_fffe;
/// The server's ISN.
pub const Y: u32 = 0x7fff_0000;
/// The server's clock at its SYN-ACK.
pub const TSVAL: u32 = 5_000;

pub fn s() -> u32 {
    isn_promised(C)
}

pub fn isn_promised(client_isn: u32) -> u32 {
    keys().promised_isn(1, &flow(), Seq::new(client_isn)).unwrap().get()
}

pub fn promised_tsval() -> u32 {
    keys().promised_tsval(1, &flow(), Seq::new(C)).unwrap()
}

pub fn offer_of(kind: Kind, client_isn: u32) -> [u8; 20] {
    let tsval = keys().promised_tsval(1, &flow(), Seq::new(client_isn));
    let promise = Promise { mss: 1460, window_scale: Some(7), sack: true, tsval, ecn: false };
    Offer { kind, key: 1, promise }.encode(&keys(), &flow(), Seq::new(client_isn)).unwrap()
}

pub fn offered_syn(client_isn: u32) -> Seg {
    Seg::from_client(SYN, client_isn, 0).raw(&offer_of(Kind::Spoofed, client_isn)).options(linux(100, 0))
}

/// The answer to the first of the two copies that the server gets of an offered SYN, and to the second if the server keeps state.
pub fn syn_ack() -> Seg {
    Seg::from_server(SYN | ACK, Y, C.wrapping_add(1)).options(linux(TSVAL, 99))
}

pub fn request() -> Seg {
    Seg::from_client(ACK | PSH, C.wrapping_add(1), s().wrapping_add(1))
        .ts(101, promised_tsval())
        .payload(b"GET /")
}
