//! The simulator's own reading of a packet: what it is to the flow it meets.

use clientnic::engine::View as ClientView;
use rtt0_core::flow::FlowKey;
use rtt0_core::offer::{Found, Keys, Kind, Offer};
use rtt0_core::seq::{Client, Promised, Seq};
use rtt0_core::service::Direction;
use rtt0_core::wire::tcp::{Flags, Tcp};
use servernic::engine::View as ServerView;

macro_rules! events {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub(in crate::sim) enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every event, in order.
            pub(in crate::sim) const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant,)+];

            /// Returns its name in the printed matrix.
            pub(in crate::sim) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

events! {
    /// What a flow meets at ClientNIC.
    ClientEvent {
        /// A SYN whose ISN is not the flow's.
        Syn => "SYN, new ISN",
        /// The flow's SYN once more.
        SynAgain => "SYN, same ISN",
        /// Data or ACK from the client.
        ClientData => "client: data, ACK",
        /// FIN from the client.
        ClientFin => "client: FIN",
        /// RST from the client.
        ClientReset => "client: RST",
        /// A SYN-ACK to the flow's SYN with an authentic confirm.
        Confirm => "SYN-ACK + confirm",
        /// A SYN-ACK to the flow's SYN without one.
        SynAck => "SYN-ACK alone",
        /// A SYN-ACK to something else.
        OtherSynAck => "SYN-ACK, other ACK",
        /// RST that acknowledges the flow's SYN.
        Refusal => "RST to the SYN",
        /// Another RST from the server.
        ServerReset => "server: other RST",
        /// Data, ACK or FIN from the server that acknowledges the flow's SYN or what follows.
        ServerData => "server: data, ACK",
        /// ACK from the server of anything else: an older connection.
        OldConnection => "server: older ACK",
        /// A SYN repeated because nothing came.
        Repeat => "silence: SYN again",
        /// The flow's time is over.
        Silence => "silence: over",
    }
}

events! {
    /// What a flow meets at ServerNIC.
    ServerEvent {
        /// A SYN with an authentic offer and another ISN than the flow's.
        Offer => "SYN + offer, new ISN",
        /// The flow's offer once more.
        OfferAgain => "SYN + offer, same ISN",
        /// A SYN with an authentic probe.
        Probe => "SYN + probe, new ISN",
        /// The flow's probe once more, or a probe with the ISN of its offer.
        ProbeAgain => "SYN + probe, same ISN",
        /// A SYN alone.
        Syn => "SYN alone",
        /// A SYN whose option proves nothing.
        Forged => "SYN + forged option",
        /// The first segment of a client that was promised something, by its numbers.
        Proof => "client: verified data",
        /// Other data, ACK or FIN from the client.
        ClientData => "client: other data, ACK",
        /// RST from the client.
        ClientReset => "client: RST",
        /// A SYN-ACK to the flow's SYN.
        SynAck => "SYN-ACK",
        /// A SYN-ACK to the newer SYN beside a translated flow.
        NewerSynAck => "SYN-ACK to the newer SYN",
        /// A SYN-ACK to something else.
        OtherSynAck => "SYN-ACK, other ACK",
        /// RST that acknowledges the flow's SYN, or the newer one.
        Refusal => "RST to the SYN",
        /// Another RST from the server.
        ServerReset => "server: other RST",
        /// Data, ACK or FIN from the server.
        ServerData => "server: data, ACK",
        /// A SYN repeated because nothing came.
        Repeat => "silence: SYN again",
        /// The flow's time is over, or its handshake's.
        Silence => "silence: over",
    }
}

/// Says what a segment is to a flow at ClientNIC.
pub(in crate::sim) fn classify_at_client_nic(
    view: &ClientView,
    key: &FlowKey,
    keys: &Keys,
    tcp: &Tcp<'_>,
    to: Direction,
) -> ClientEvent {
    let flags = tcp.flags();
    let isn = view.client_isn.map(Seq::get);
    if to == Direction::ToServer {
        return match () {
            () if flags.is_syn() && isn == Some(tcp.sequence()) => ClientEvent::SynAgain,
            () if flags.is_syn() => ClientEvent::Syn,
            () if flags.contains(Flags::RST) => ClientEvent::ClientReset,
            () if flags.contains(Flags::FIN) => ClientEvent::ClientFin,
            () => ClientEvent::ClientData,
        };
    }
    // A flow that is not known has acknowledged whatever the server says.
    let beyond = isn.map_or(1, |isn| tcp.acknowledgement().wrapping_sub(isn));
    let answers = flags.contains(Flags::ACK) && beyond == 1;
    if flags.contains(Flags::RST) {
        return if answers { ClientEvent::Refusal } else { ClientEvent::ServerReset };
    }
    if flags.is_syn_ack() {
        let isn = Seq::<Client>::new(tcp.acknowledgement()).minus(1);
        let found = Offer::find(tcp.options(), keys, key, isn);
        return match found {
            _ if !answers => ClientEvent::OtherSynAck,
            Found::Authentic(offer) if matches!(offer.kind, Kind::Confirm | Kind::LateConfirm(_)) => {
                ClientEvent::Confirm
            }
            _ => ClientEvent::SynAck,
        };
    }
    if flags.contains(Flags::ACK) && (1..1 << 20).contains(&beyond) {
        ClientEvent::ServerData
    } else {
        ClientEvent::OldConnection
    }
}

/// Says what a segment is to a flow at ServerNIC.
pub(in crate::sim) fn classify_at_server_nic(
    view: &ServerView,
    key: &FlowKey,
    keys: &Keys,
    tcp: &Tcp<'_>,
    to: Direction,
) -> ServerEvent {
    let flags = tcp.flags();
    let known = |isn: Seq<Client>| view.client_isn == Some(isn) || view.newer_isn == Some(isn);
    if to == Direction::ToServer {
        if flags.is_syn() {
            let isn = Seq::new(tcp.sequence());
            return match (Offer::find(tcp.options(), keys, key, isn), known(isn)) {
                (Found::Authentic(offer), again) if offer.kind == Kind::Spoofed => {
                    if again {
                        ServerEvent::OfferAgain
                    } else {
                        ServerEvent::Offer
                    }
                }
                (Found::Authentic(offer), again) if offer.kind == Kind::Probe => {
                    if again {
                        ServerEvent::ProbeAgain
                    } else {
                        ServerEvent::Probe
                    }
                }
                (Found::Nothing, _) => ServerEvent::Syn,
                _ => ServerEvent::Forged,
            };
        }
        if flags.contains(Flags::RST) {
            return ServerEvent::ClientReset;
        }
        let isn = Seq::<Client>::new(tcp.sequence()).minus(1);
        let acknowledged = Seq::<Promised>::new(tcp.acknowledgement()).minus(1);
        let proof = flags.contains(Flags::ACK)
            && keys.ids().any(|id| keys.promised_isn(id, key, isn) == Some(acknowledged));
        return if proof { ServerEvent::Proof } else { ServerEvent::ClientData };
    }
    let answered = Seq::<Client>::new(tcp.acknowledgement()).minus(1);
    let answers = flags.contains(Flags::ACK) && known(answered);
    if flags.contains(Flags::RST) {
        return if answers { ServerEvent::Refusal } else { ServerEvent::ServerReset };
    }
    if flags.is_syn_ack() {
        return match () {
            () if flags.contains(Flags::ACK) && view.newer_isn == Some(answered) => ServerEvent::NewerSynAck,
            () if answers => ServerEvent::SynAck,
            () => ServerEvent::OtherSynAck,
        };
    }
    ServerEvent::ServerData
}
