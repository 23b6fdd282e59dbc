//! A newer SYN of a live flow's 4-tuple that goes to the server on its own.
//!
//! Anybody can send a SYN, and whoever can may send a SYN-ACK that answers it too. So the flow goes on
//! until an end carries on with the numbers of both: only then has a client accepted what a server
//! answered.

use crate::handshake::FIRST_FLIGHT;
use crate::seq::{Client, Real, Seq};
use crate::service::Direction;
use crate::wire::tcp::{Flags, Tcp};

/// Such a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    isn: Seq<Client>,
    /// The ISN of the SYN-ACK that answered it last.
    answer: Option<Seq<Real>>,
}

impl Rival {
    /// Begins with the SYN's ISN.
    pub fn new(isn: Seq<Client>) -> Self {
        Self { isn, answer: None }
    }

    /// Takes the place of `known`, unless that is the same SYN: a copy does not undo the answer.
    pub fn instead_of(isn: Seq<Client>, known: Option<Self>) -> Self {
        known.filter(|known| known.isn == isn).unwrap_or_else(|| Self::new(isn))
    }

    /// Returns the SYN's ISN.
    pub fn isn(&self) -> Seq<Client> {
        self.isn
    }

    /// Tells whether a segment from the server is a SYN-ACK that answers it.
    pub fn is_answered_by(&self, tcp: &Tcp<'_>) -> bool {
        tcp.flags().is_syn_ack() && tcp.acknowledgement() == self.isn.plus(1).get()
    }

    /// Takes note of the SYN-ACK that answers it.
    pub fn answered(&mut self, tcp: &Tcp<'_>) {
        self.answer = Some(Seq::new(tcp.sequence()));
    }

    /// Tells whether anything has answered it.
    pub fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Tells whether a segment that travels in `direction` shows that both ends have the newer
    /// connection: it is of its first flight.
    pub fn is_carried_on(&self, tcp: &Tcp<'_>, direction: Direction) -> bool {
        let Some(answer) = self.answer else { return false };
        let (client, server) = (self.isn.plus(1).get(), answer.plus(1).get());
        let within = |number: u32, first: u32, room: u32| number.wrapping_sub(first) <= room;
        let (sequence, acknowledgement) = (tcp.sequence(), tcp.acknowledgement());
        let fits = match direction {
            Direction::ToServer => within(sequence, client, FIRST_FLIGHT) && acknowledgement == server,
            Direction::ToClient => {
                within(sequence, server, FIRST_FLIGHT) && within(acknowledgement, client, FIRST_FLIGHT)
            }
        };
        fits && tcp.flags().contains(Flags::ACK) && !tcp.flags().intersects(Flags::SYN | Flags::RST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Offload, Packet};
    use crate::wire::build::Control;
    use crate::wire::segment::Segment;

    const ISN: u32 = u32::MAX;
    const ANSWER: u32 = 7;

    fn is_true(
        flags: Flags,
        sequence: u32,
        acknowledgement: u32,
        check: impl FnOnce(&Tcp<'_>) -> bool,
    ) -> bool {
        let end = ([10, 0, 0, 1].into(), 1);
        let mut bytes = Vec::new();
        Control { source: end, destination: end, sequence, acknowledgement, flags, window: 1 }
            .write(&[], &mut bytes);
        let mut packet = Packet { bytes: &mut bytes, offload: Offload::default() };
        check(&Segment::parse(&mut packet).unwrap().tcp())
    }

    fn answered() -> Rival {
        let mut rival = Rival::new(Seq::new(ISN));
        assert!(is_true(Flags::SYN | Flags::ACK, ANSWER, ISN.wrapping_add(1), |tcp| {
            let answers = rival.is_answered_by(tcp);
            rival.answered(tcp);
            answers
        }));
        rival
    }

    #[test]
    fn a_client_that_accepts_the_answer_carries_on() {
        let carried_on = |rival: Rival, sequence, acknowledgement| {
            is_true(Flags::ACK, sequence, acknowledgement, |tcp| {
                rival.is_carried_on(tcp, Direction::ToServer)
            })
        };
        assert!(carried_on(answered(), 0, ANSWER + 1));
        assert!(carried_on(answered(), 1000, ANSWER + 1), "its first ACK got lost");
        assert!(!carried_on(answered(), 0, ANSWER));
        assert!(!carried_on(answered(), ISN, ANSWER + 1));
        assert!(!carried_on(Rival::new(Seq::new(ISN)), 0, ANSWER + 1), "nobody has answered");
    }

    #[test]
    fn a_server_that_was_heard_carries_on() {
        let carried_on = |flags, sequence, acknowledgement| {
            is_true(flags, sequence, acknowledgement, |tcp| {
                answered().is_carried_on(tcp, Direction::ToClient)
            })
        };
        assert!(carried_on(Flags::ACK, ANSWER + 1, 100));
        assert!(!carried_on(Flags::ACK | Flags::SYN, ANSWER + 1, 0), "the SYN-ACK again");
        assert!(!carried_on(Flags::ACK, ANSWER + 1, ISN));
    }
}
