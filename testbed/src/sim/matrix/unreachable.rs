//! Cells that can't be hit, and why. A hit in one of them fails the run as an empty one elsewhere does.

use super::{ClientEvent, ServerEvent};
use clientnic::engine::Phase as ClientPhase;
use servernic::engine::Phase as ServerPhase;

const NO_ISN: &str = "an unknown flow has no ISN to compare with";
const NO_TIMER: &str = "what is not known has no timer";
const NOTHING_TO_REPEAT: &str = "only a handshake of our own is repeated";

/// Returns why this can't happen at ClientNIC.
pub(super) fn at_client_nic(phase: ClientPhase, event: ClientEvent) -> Option<&'static str> {
    use ClientEvent as E;
    use ClientPhase as P;
    match (phase, event) {
        (P::None, E::SynAgain | E::OtherSynAck | E::OldConnection) => Some(NO_ISN),
        (P::None, E::Repeat | E::Silence) => Some(NO_TIMER),
        (P::Learning | P::Translated | P::Watching, E::Repeat) => Some(NOTHING_TO_REPEAT),
        _ => None,
    }
}

/// Returns why this can't happen at ServerNIC.
pub(super) fn at_server_nic(phase: ServerPhase, event: ServerEvent) -> Option<&'static str> {
    use ServerEvent as E;
    use ServerPhase as P;
    match (phase, event) {
        (P::None | P::Orphan, E::OfferAgain | E::ProbeAgain | E::SynAck | E::Refusal) => Some(NO_ISN),
        (P::None, E::Repeat | E::Silence) => Some(NO_TIMER),
        (P::Orphan | P::Probed | P::Translated | P::Rivalled | P::Ended, E::Repeat) => {
            Some(NOTHING_TO_REPEAT)
        }
        (P::Opening | P::Succeeded | P::Rivalled, E::NewerSynAck) => None,
        (_, E::NewerSynAck) => Some("nothing newer stands beside it"),
        _ => None,
    }
}
