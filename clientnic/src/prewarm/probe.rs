//! One SYN, and what its answer teaches.

use rtt0_core::flow::FlowKey;
use rtt0_core::handshake::read_syn_ack;
use rtt0_core::offer::{Found, Keys, Kind, Offer, Promise};
use rtt0_core::profile::{Offered, SynAck};
use rtt0_core::seq::{Client, Seq};
use rtt0_core::service::Direction;
use rtt0_core::wire::build::Control;
use rtt0_core::wire::options::{SynOptions, Timestamps};
use rtt0_core::wire::segment::Endpoint;
use rtt0_core::wire::tcp::{Flags, Tcp};
use rtt0_core::wire::{ipv4, ipv6};

/// Offered to servers; what they answer does not depend on it.
const WINDOW_SCALE: u8 = 7;
const WINDOW: u16 = 64_240;

/// A SYN that asks for all that a client may ask for.
#[derive(Debug)]
pub(super) struct Probe {
    flow: FlowKey,
    isn: Seq<Client>,
    offered: Offered,
    segment: Vec<u8>,
}

/// What a server has answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It accepts.
    Accepted {
        /// Its SYN-ACK.
        answer: SynAck,
        /// Whether a ServerNIC has added its confirm.
        paired: bool,
    },
    /// It refuses.
    Refused,
}

impl Probe {
    /// Makes one. With `keys` it asks for a ServerNIC, with `ecn` for classic ECN. `isn` must be unpredictable.
    pub(super) fn new(
        (local, remote): (Endpoint, Endpoint),
        isn: u32,
        mss: u16,
        keys: Option<&Keys>,
        ecn: bool,
    ) -> Self {
        let (flow, isn) = (FlowKey::new(local, remote, Direction::ToServer), Seq::new(isn));
        let wanted = SynOptions {
            mss: Some(mss),
            window_scale: Some(WINDOW_SCALE),
            sack_permitted: true,
            // The kernel resets the handshake, so that nobody compares it with a later one.
            timestamps: Some(Timestamps { value: isn.get(), echo: 0 }),
        };
        let signal = keys.and_then(|keys| {
            let probe = Offer { kind: Kind::Probe, key: keys.signing(), promise: Promise::default() };
            probe.encode(keys, &flow, isn)
        });
        let mut options: Vec<u8> = signal.into_iter().flatten().collect();
        wanted.write(&mut options);
        let control = Control {
            source: local,
            destination: remote,
            sequence: isn.get(),
            acknowledgement: 0,
            flags: Flags::SYN | if ecn { Flags::ECE | Flags::CWR } else { Flags::default() },
            window: WINDOW,
        };
        let mut packet = Vec::new();
        control.write(&options, &mut packet);
        let header = if remote.0.is_ipv4() { ipv4::MIN_HEADER } else { ipv6::HEADER };
        Self { flow, isn, offered: Offered::new(&wanted, ecn), segment: packet.split_off(header) }
    }

    /// Returns the segment.
    pub(super) fn segment(&self) -> &[u8] {
        &self.segment
    }

    /// Returns what it offers.
    pub(super) fn offered(&self) -> Offered {
        self.offered
    }

    /// Reads a segment of the server's; `None` if it is not the answer.
    pub(super) fn read(&self, segment: &[u8], keys: Option<&Keys>) -> Option<Answer> {
        let tcp = Tcp::new(segment).ok()?;
        let (flags, next) = (tcp.flags(), self.isn.plus(1).get());
        if !flags.contains(Flags::ACK) || tcp.acknowledgement() != next {
            return None;
        }
        if flags.contains(Flags::RST) {
            return Some(Answer::Refused);
        }
        let answer = read_syn_ack(&tcp).filter(|_| flags.is_syn_ack())?;
        let found = keys.map(|keys| Offer::find(tcp.options(), keys, &self.flow, self.isn));
        let paired = matches!(found, Some(Found::Authentic(offer)) if offer.kind == Kind::Confirm);
        Some(Answer::Accepted { answer, paired })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Endpoint = (std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 1, 1)), 40_000);
    const REMOTE: Endpoint = (std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 10)), 443);

    fn keys() -> Keys {
        Keys::new((0, [7; 16]), None).unwrap()
    }

    fn answered(acknowledgement: u32, flags: Flags, confirm: Option<&Keys>) -> Vec<u8> {
        let flow = FlowKey::new(LOCAL, REMOTE, Direction::ToServer);
        let mut options = Vec::new();
        if let Some(keys) = confirm {
            let confirm = Offer { kind: Kind::Confirm, key: 0, promise: Promise::default() };
            options.extend(confirm.encode(keys, &flow, Seq::new(acknowledgement.wrapping_sub(1))).unwrap());
        }
        let timestamps = Some(Timestamps { value: 1, echo: 2 });
        let known = SynOptions { mss: Some(1400), window_scale: None, sack_permitted: true, timestamps };
        known.write(&mut options);
        let control = Control {
            source: REMOTE,
            destination: LOCAL,
            sequence: 9,
            acknowledgement,
            flags,
            window: 65_160,
        };
        let mut packet = Vec::new();
        control.write(&options, &mut packet);
        packet.split_off(ipv4::MIN_HEADER)
    }

    #[test]
    fn all_that_a_client_may_ask_for_fits_and_is_asked_for() {
        let probe = Probe::new((LOCAL, REMOTE), u32::MAX, 1460, Some(&keys()), true);
        let tcp = Tcp::new(probe.segment()).unwrap();
        assert_eq!((tcp.header_length(), tcp.sequence(), tcp.flags().is_syn()), (60, u32::MAX, true));
        let asked = Offered { window_scale: true, sack: true, timestamps: true, ecn: true };
        assert_eq!(probe.offered(), asked);
        let flow = FlowKey::new(LOCAL, REMOTE, Direction::ToServer);
        let found = Offer::find(tcp.options(), &keys(), &flow, Seq::new(u32::MAX));
        assert!(matches!(found, Found::Authentic(offer) if offer.kind == Kind::Probe));
    }

    #[test]
    fn only_its_own_answer_counts() {
        let keys = keys();
        let probe = Probe::new((LOCAL, REMOTE), u32::MAX, 1460, Some(&keys), false);
        let syn_ack = Flags::SYN | Flags::ACK;
        let read = |segment: &[u8]| probe.read(segment, Some(&keys));
        for (confirm, expected) in [(Some(&keys), true), (None, false)] {
            let Some(Answer::Accepted { answer, paired }) = read(&answered(0, syn_ack, confirm)) else {
                panic!("the answer is not taken for one");
            };
            assert_eq!(
                (answer.options.mss, answer.options.window_scale, paired),
                (Some(1400), None, expected)
            );
        }
        assert_eq!(read(&answered(0, Flags::RST | Flags::ACK, None)), Some(Answer::Refused));
        assert_eq!(read(&answered(1, syn_ack, None)), None, "another SYN's");
        assert_eq!(read(&answered(0, Flags::ACK, None)), None, "an old connection's challenge");
        assert_eq!(read(&answered(0, Flags::RST, None)), None, "acknowledges nothing");
        let stranger = Keys::new((0, [8; 16]), None).unwrap();
        let forged = read(&answered(0, syn_ack, Some(&stranger)));
        assert!(matches!(forged, Some(Answer::Accepted { paired: false, .. })), "{forged:?}");
    }
}
