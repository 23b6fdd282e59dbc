//! The quick answers against the definitions.

use super::*;
use crate::offer::Promise;
use crate::packet::{Offload, Packet};
use crate::translate::Agreement;
use crate::wire::build::Control;
use crate::wire::options::SynOptions;
use proptest::prelude::*;

impl Translated {
    /// [`Translated::is_client_translated`] by its definition alone, without the quick answer.
    fn is_client_translated_by_definition(&self, tcp: &Tcp<'_>) -> bool {
        let acknowledged = tcp.acknowledgement();
        let translated = self.translation.to_real(Seq::new(acknowledged)).get();
        let first = self.translation.real_isn().plus(1).get();
        let is_sent = |number: u32| number.wrapping_sub(first) <= self.server.next.wrapping_sub(first);
        let is_own = is_sent(acknowledged) && !is_sent(translated) && !self.is_restored;
        let distance = |number: u32| (self.server.next.wrapping_sub(number) as i32).unsigned_abs();
        let is_of_server = self.server.is_known
            && distance(acknowledged) <= USUAL_FLIGHT
            && distance(translated) > LARGEST_FLIGHT;
        tcp.flags().contains(Flags::ACK) && (is_own || is_of_server)
    }
}

fn flow(promised: u32, real: u32) -> Translated {
    let promise = Promise { mss: 1460, ..Promise::default() };
    let answer = SynAck { options: SynOptions::default(), window: 500, ecn: false };
    let agreement = Agreement {
        promised_isn: Seq::new(promised),
        real_isn: Seq::new(real),
        promise: &promise,
        answer: &answer,
        client_window_scale: 0,
    };
    let (translation, _) = Translation::new(agreement, false).unwrap();
    Translated::new(translation, Seq::new(7), 0, answer, 0, &Limits::default(), Instant::ZERO)
}

/// Distances near all bounds that matter.
fn distance() -> impl Strategy<Value = u32> {
    let bound =
        prop_oneof![Just(0u32), Just(USUAL_FLIGHT), Just(LARGEST_FLIGHT), Just(1 << 31), any::<u32>()];
    (bound, 0u32..5).prop_map(|(bound, near)| bound.wrapping_add(near).wrapping_sub(2))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_quick_answer_is_that_of_the_definition(
        real in any::<u32>(),
        delta in distance(),
        sent in distance(),
        behind in distance(),
        is_promised in any::<bool>(),
        is_known in any::<bool>(),
        is_restored in any::<bool>(),
        has_ack in any::<bool>(),
    ) {
        let mut flow = flow(real.wrapping_add(delta), real);
        flow.server.next = real.wrapping_add(1).wrapping_add(sent);
        flow.server.is_known = is_known;
        flow.is_restored = is_restored;
        let number = flow.server.next.wrapping_sub(behind);
        let acknowledgement = if is_promised { number.wrapping_add(delta) } else { number };
        let control = Control {
            source: ([10, 0, 0, 1].into(), 1),
            destination: ([10, 0, 0, 2].into(), 2),
            sequence: 8,
            acknowledgement,
            flags: if has_ack { Flags::ACK } else { Flags::RST },
            window: 1,
        };
        let mut bytes = Vec::new();
        control.write(&[], &mut bytes);
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let segment = Segment::parse(&mut packet).unwrap();
        prop_assert_eq!(
            flow.is_client_translated(&segment.tcp()),
            flow.is_client_translated_by_definition(&segment.tcp())
        );
    }
}

/// Neither answer is all there is: else the comparison above would say nothing.
#[test]
fn both_answers_occur() {
    let (promised, real) = (1 << 31, 1_000);
    let flow = flow(promised, real);
    for (acknowledgement, expected) in [(promised + 1, false), (real + 1, true)] {
        let segment = Control {
            source: ([10, 0, 0, 1].into(), 1),
            destination: ([10, 0, 0, 2].into(), 2),
            sequence: 8,
            acknowledgement,
            flags: Flags::ACK,
            window: 1,
        };
        let mut bytes = Vec::new();
        segment.write(&[], &mut bytes);
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let segment = Segment::parse(&mut packet).unwrap();
        assert_eq!(segment.destination(), ([10, 0, 0, 2].into(), 2));
        assert_eq!(flow.is_client_translated(&segment.tcp()), expected);
    }
}

/// A fast path writes RCV.NXT first and then the edge of the window; who reads in between sees the edge behind it.
#[test]
fn an_edge_behind_what_was_received_leaves_no_room() {
    for distance in [1u32, 1000, 1 << 20] {
        let mut flow = flow(7, 9);
        flow.client.edge = flow.client.acknowledged.wrapping_sub(distance);
        let control = Control {
            source: ([10, 0, 0, 2].into(), 2),
            destination: ([10, 0, 0, 1].into(), 1),
            sequence: flow.server.next.wrapping_add(1 << 20),
            acknowledgement: flow.client.next,
            flags: Flags::FIN | Flags::ACK,
            window: 1,
        };
        let mut bytes = Vec::new();
        control.write(&[], &mut bytes);
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        let mut segment = Segment::parse(&mut packet).unwrap();
        let _ = flow.server_segment(&mut segment, &Limits::default(), Instant::ZERO);
        assert!(!flow.server.fin, "{distance}");
    }
}
