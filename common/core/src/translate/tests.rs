//! The translator against etherparse: what must change changes, all else stays, checksums hold.

use super::*;
use crate::packet::{Offload, Packet};
use crate::wire::options::{SynOptions, Timestamps};
use etherparse::{PacketBuilder, SlicedPacket, TcpHeaderSlice, TcpOptionElement, TransportSlice};
use proptest::prelude::*;

const S: u32 = 0xffff_fff0;
const Y: u32 = 0x0000_1000;

fn promise() -> Promise {
    Promise { mss: 1460, window_scale: Some(7), sack: true, tsval: Some(1_000), ecn: false }
}

fn answer() -> SynAck {
    let timestamps = Some(Timestamps { value: 400, echo: 1 });
    let options = SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps };
    SynAck { options, window: 65_160, ecn: false }
}

fn translation(promise: Promise, answer: SynAck, hide: bool) -> (Translation, Repairs) {
    let agreement = Agreement {
        promised_isn: Seq::new(S),
        real_isn: Seq::new(Y),
        promise: &promise,
        answer: &answer,
        client_window_scale: 9,
    };
    Translation::new(agreement, hide).unwrap()
}

#[derive(Debug)]
struct Sample {
    seq: u32,
    ack: Option<u32>,
    window: u16,
    options: Vec<TcpOptionElement>,
    payload: Vec<u8>,
    v6: bool,
}

impl Sample {
    fn build(&self) -> Vec<u8> {
        let builder = match self.v6 {
            false => PacketBuilder::ipv4([10, 1, 0, 10], [10, 1, 2, 10], 60),
            true => PacketBuilder::ipv6([1; 16], [2; 16], 60),
        };
        let mut builder = builder.tcp(40_000, 80, self.seq, self.window).psh().urg(3);
        if let Some(ack) = self.ack {
            builder = builder.ack(ack);
        }
        let builder = builder.options(&self.options).unwrap();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &self.payload).unwrap();
        bytes
    }
}

fn rewrite(bytes: &mut [u8], needs_csum: bool, change: impl FnOnce(&mut Segment<'_>)) {
    let mut packet = Packet { bytes, offload: Offload { needs_csum, gso_size: 0 } };
    change(&mut Segment::parse(&mut packet).unwrap());
}

/// Parses with etherparse and verifies the checksum.
fn read<T>(bytes: &[u8], look: impl FnOnce(TcpHeaderSlice<'_>, &[u8]) -> T) -> T {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
    let ok = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
        }
        _ => panic!(),
    };
    assert_eq!(ok.unwrap(), tcp.checksum(), "checksum");
    look(TcpHeaderSlice::from_slice(tcp.header_slice()).unwrap(), tcp.payload())
}

prop_compose! {
    fn sample()(
        seq in any::<u32>(), ack in proptest::option::of(any::<u32>()), window in any::<u16>(),
        ts in proptest::option::of((any::<u32>(), 1u32..)),
        sacks in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..=3),
        nops in 0usize..=3,
        payload in proptest::collection::vec(any::<u8>(), 0..60), v6 in any::<bool>(),
    ) -> Sample {
        let mut options = vec![TcpOptionElement::Noop; nops];
        if let Some((a, b)) = ts {
            options.push(TcpOptionElement::Timestamp(a, b));
        }
        if let Some((first, rest)) = sacks.split_first() {
            let mut more = [None; 3];
            for (slot, block) in more.iter_mut().zip(rest) { *slot = Some(*block); }
            options.push(TcpOptionElement::SelectiveAcknowledgement(*first, more));
        }
        Sample { seq, ack, window, options, payload, v6 }
    }
}

proptest! {
    #[test]
    fn client_to_server_changes_ack_sack_and_echo_only(sample in sample()) {
        let before = sample.build();
        let mut bytes = before.clone();
        let (mut t, repairs) = translation(promise(), answer(), false);
        prop_assert_eq!(repairs, Repairs::default());
        rewrite(&mut bytes, false, |s| t.client_to_server(s));
        let delta = S.wrapping_sub(Y);
        let tau = 1_000u32.wrapping_sub(400);
        read(&bytes, |tcp, payload| {
            assert_eq!(tcp.sequence_number(), sample.seq);
            match sample.ack {
                Some(ack) => assert_eq!(tcp.acknowledgment_number(), ack.wrapping_sub(delta)),
                None => assert_eq!(tcp.acknowledgment_number(), 0),
            }
            assert_eq!(tcp.window_size(), sample.window);
            assert_eq!((tcp.urg(), tcp.psh(), tcp.urgent_pointer()), (true, true, 3));
            assert_eq!(payload, sample.payload);
            let expected: Vec<_> = sample.options.iter().map(|option| match option {
                TcpOptionElement::Timestamp(a, b) => TcpOptionElement::Timestamp(*a, b.wrapping_sub(tau)),
                TcpOptionElement::SelectiveAcknowledgement(first, rest) => {
                    let back = |(l, r): (u32, u32)| (l.wrapping_sub(delta), r.wrapping_sub(delta));
                    TcpOptionElement::SelectiveAcknowledgement(back(*first), rest.map(|b| b.map(back)))
                }
                other => other.clone(),
            }).collect();
            let found: Vec<_> = tcp.options_iterator().map(Result::unwrap).take(expected.len()).collect();
            assert_eq!(found, expected);
        });
    }

    #[test]
    fn server_to_client_changes_seq_and_tsval_only(sample in sample()) {
        let mut bytes = sample.build();
        let (t, _) = translation(promise(), answer(), true);
        rewrite(&mut bytes, false, |s| t.server_to_client(s));
        read(&bytes, |tcp, payload| {
            assert_eq!(tcp.sequence_number(), sample.seq.wrapping_add(S.wrapping_sub(Y)));
            assert_eq!(tcp.acknowledgment_number(), sample.ack.unwrap_or(0));
            assert_eq!(payload, sample.payload);
            let expected: Vec<_> = sample.options.iter().map(|option| match option {
                TcpOptionElement::Timestamp(a, b) =>
                    TcpOptionElement::Timestamp(a.wrapping_add(600), *b),
                other => other.clone(),
            }).collect();
            let found: Vec<_> = tcp.options_iterator().map(Result::unwrap).take(expected.len()).collect();
            assert_eq!(found, expected);
        });
    }

    #[test]
    fn a_corrupt_packet_stays_corrupt_and_a_partial_checksum_stays_partial(
        sample in sample(), flip in 0usize..20,
    ) {
        let mut bytes = sample.build();
        let tcp_at = if sample.v6 { 40 } else { 20 };
        let (mut t, _) = translation(promise(), answer(), false);
        let mut partial = bytes.clone();
        partial[tcp_at + 16..tcp_at + 18].copy_from_slice(&[0x12, 0x34]);
        rewrite(&mut partial, true, |s| t.client_to_server(s));
        prop_assert_eq!(&partial[tcp_at + 16..tcp_at + 18], &[0x12, 0x34]);
        if flip != 12 { // the data offset would make it another packet
            bytes[tcp_at + flip] ^= 0x01;
            rewrite(&mut bytes, false, |s| {
                assert!(!s.checksum_ok());
                t.client_to_server(s);
                assert!(!s.checksum_ok());
            });
        }
    }
}

fn data(ack: u32, echo: u32) -> Vec<u8> {
    let options = vec![TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(7, echo)];
    Sample { seq: 1, ack: Some(ack), window: 100, options, payload: vec![1], v6: false }.build()
}

fn echo(bytes: &[u8]) -> u32 {
    read(bytes, |tcp, _| match tcp.options_iterator().map(Result::unwrap).nth(2) {
        Some(TcpOptionElement::Timestamp(_, echo)) => echo,
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_syn_acks_echo_is_hidden_until_something_beyond_it_is_acknowledged() {
    let (mut t, _) = translation(promise(), answer(), true);
    let steps =
        [(1, 1_000, 0), (1, 1_000, 0), (1, 1_300, 700), (1, 1_000, 0), (2, 1_000, 400), (1, 1_000, 400)];
    for (ack, echoed, expected) in steps {
        let mut bytes = data(S.wrapping_add(ack), echoed);
        rewrite(&mut bytes, false, |s| t.client_to_server(s));
        assert_eq!(echo(&bytes), expected, "{ack} {echoed}");
    }
}

#[test]
fn a_different_window_scale_is_shifted_both_ways() {
    let mut real = answer();
    real.options.window_scale = Some(5);
    let (mut t, repairs) = translation(promise(), real, false);
    assert!(repairs.window_scale);
    let window = |bytes: &[u8]| read(bytes, |tcp, _| tcp.window_size());
    let mut bytes = data(1, 1);
    rewrite(&mut bytes, false, |s| t.server_to_client(s));
    assert_eq!(window(&bytes), 100 >> 2, "100 units of 32 bytes are 25 units of 128");
    let mut bytes = data(1, 1);
    rewrite(&mut bytes, false, |s| t.client_to_server(s));
    assert_eq!(window(&bytes), 100, "the client's own scale is in effect either way");
    // The server refuses scaling: then its windows are bytes, and so must the client's be.
    let mut real = answer();
    real.options.window_scale = None;
    let (mut t, _) = translation(promise(), real, false);
    let mut bytes = data(1, 1);
    rewrite(&mut bytes, false, |s| t.client_to_server(s));
    assert_eq!(window(&bytes), 51_200);
    rewrite(&mut bytes, false, |s| t.client_to_server(s));
    assert_eq!(window(&bytes), u16::MAX, "clamped, never wrapped");
}

#[test]
fn refused_sack_becomes_nops_and_refused_timestamps_are_an_error() {
    let mut real = answer();
    real.options.sack_permitted = false;
    let (mut t, repairs) = translation(promise(), real, false);
    assert!(repairs.sack);
    let options = vec![TcpOptionElement::SelectiveAcknowledgement((1, 2), [Some((3, 4)), None, None])];
    let sample = Sample { seq: 1, ack: Some(2), window: 3, options, payload: vec![], v6: true };
    let mut bytes = sample.build();
    rewrite(&mut bytes, false, |s| t.client_to_server(s));
    read(&bytes, |tcp, _| assert!(tcp.options_iterator().all(|o| o == Ok(TcpOptionElement::Noop))));
    real.options.timestamps = None;
    let (promise, agreed) = (promise(), real);
    let agreement = Agreement {
        promised_isn: Seq::new(S),
        real_isn: Seq::new(Y),
        promise: &promise,
        answer: &agreed,
        client_window_scale: 0,
    };
    assert_eq!(Translation::new(agreement, true), Err(BrokenTimestamps));
}

#[test]
fn a_smaller_mss_limits_the_payload() {
    let mut real = answer();
    real.options.mss = Some(1000);
    let (t, repairs) = translation(promise(), real, false);
    assert!(repairs.mss);
    assert_eq!(t.payload_limit(12), Some(988));
    assert_eq!(translation(promise(), answer(), false).0.payload_limit(12), None);
}

#[test]
fn an_icmp_quote_is_translated_back_and_both_checksums_hold() {
    let (mut t, _) = translation(promise(), answer(), false);
    for v6 in [false, true] {
        let options = vec![];
        let sent = Sample { seq: 77, ack: Some(S), window: 3, options, payload: vec![5; 40], v6 }.build();
        let router = if v6 { [9u8; 16].into() } else { std::net::IpAddr::from([10, 9, 9, 9]) };
        // Client to server: the far side saw a translated ACK.
        let mut seen = sent.clone();
        rewrite(&mut seen, false, |s| t.client_to_server(s));
        let mut error = Vec::new();
        assert!(crate::wire::icmp::write_error(
            crate::wire::icmp::Complaint::TooBig(1280),
            router,
            &seen,
            &mut error
        ));
        t.quote(&mut Quote::parse(&mut error).unwrap(), Direction::ToServer);
        let quoted_at = error.len() - sent.len();
        assert_eq!(error[quoted_at..], sent[..], "the sender reads what it sent");
        // Server to client likewise.
        let mut seen = sent.clone();
        rewrite(&mut seen, false, |s| t.server_to_client(s));
        let mut error = Vec::new();
        crate::wire::icmp::write_error(crate::wire::icmp::Complaint::HopLimit, router, &seen, &mut error);
        t.quote(&mut Quote::parse(&mut error).unwrap(), Direction::ToClient);
        assert_eq!(error[quoted_at..], sent[..]);
        let icmp = &error[if v6 { 40 } else { 20 }..];
        let pseudo = match v6 {
            true => crate::wire::checksum::pseudo_header(router, [1u8; 16].into(), 58, icmp.len()),
            false => 0,
        };
        let sum = crate::wire::checksum::add(pseudo, crate::wire::checksum::sum(icmp));
        assert_eq!(sum, 0xffff, "ICMP checksum");
    }
}
