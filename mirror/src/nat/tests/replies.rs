use super::*;
use crate::inner;
use crate::reason::DropReason;
use rtt0_core::time::Instant;
use std::time::Duration;

const HOP_LIMIT: u8 = 64;

fn bytes_of(transport: Transport, source: Endpoint, destination: Endpoint) -> Vec<u8> {
    let payload = b"reply".to_vec();
    Sketch { transport, source, destination, hop_limit: HOP_LIMIT, payload, has_options: false }.bytes()
}

/// Returns the ends of a restored reply, which has to be one that is right in every checksum.
fn restored(
    replies: &mut Replies,
    now: Instant,
    transport: Transport,
    ends: (Endpoint, Endpoint),
) -> Result<(Endpoint, Endpoint), DropReason> {
    let mut bytes = bytes_of(transport, ends.0, ends.1);
    let before = bytes.clone();
    let inner = inner::parse(&bytes).unwrap();
    if let Err(reason) = replies.restore(now, &mut bytes, &inner, false) {
        assert_eq!(bytes, before);
        return Err(reason);
    }
    let inner = inner::parse(&bytes).unwrap();
    let ends = ((inner.source, inner.source_port), (inner.destination, inner.destination_port));
    let payload = b"reply".to_vec();
    let (source, destination) = ends;
    let expected =
        Sketch { transport, source, destination, hop_limit: HOP_LIMIT - 1, payload, has_options: false };
    assert_eq!(bytes, expected.bytes());
    Ok(ends)
}

/// A list of flows in the order of their use, searched from end to end.
#[derive(Default)]
struct Naive {
    flows: Vec<Flow>,
    count: RepliesCount,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Flow {
    transport: Transport,
    reply: (Endpoint, Endpoint),
    client: Endpoint,
    server: Endpoint,
    is_ambiguous: bool,
    used: Instant,
}

impl Naive {
    fn forget_idle(&mut self, now: Instant) {
        self.flows.retain(|flow| now - flow.used < IDLE);
    }

    fn take(&mut self, transport: Transport, reply: (Endpoint, Endpoint)) -> Option<Flow> {
        let at = self.flows.iter().position(|flow| (flow.transport, flow.reply) == (transport, reply))?;
        Some(self.flows.remove(at))
    }

    fn note(&mut self, bound: usize, mut new: Flow) {
        self.forget_idle(new.used);
        if let Some(old) = self.take(new.transport, new.reply) {
            new.is_ambiguous = old.is_ambiguous || old.client != new.client;
            self.count.ambiguous += u64::from(new.is_ambiguous && !old.is_ambiguous);
        } else if self.flows.iter().filter(|flow| flow.transport == new.transport).count() == bound {
            let oldest = self.flows.iter().position(|flow| flow.transport == new.transport).unwrap();
            self.flows.remove(oldest);
            self.count.replaced += 1;
        }
        self.flows.push(new);
    }

    fn restore(
        &mut self,
        now: Instant,
        transport: Transport,
        reply: (Endpoint, Endpoint),
    ) -> Option<(Endpoint, Endpoint)> {
        self.forget_idle(now);
        let at = self.flows.iter().position(|flow| (flow.transport, flow.reply) == (transport, reply))?;
        if self.flows[at].is_ambiguous {
            return None;
        }
        let flow = Flow { used: now, ..self.flows.remove(at) };
        self.flows.push(flow);
        Some((flow.server, flow.client))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Note(Transport, (Endpoint, Endpoint), usize),
    Restore(Transport, (Endpoint, Endpoint)),
    Wait(u64),
    Expire,
}

fn few(transport: Transport, (a, p, b, q): (u8, u16, u8, u16)) -> (Endpoint, Endpoint) {
    let port = |port| if transport == Transport::Icmp { 0 } else { port };
    ((IpAddr::from([192, 0, 2, a]), port(p)), (IpAddr::from([198, 51, 100, b]), port(q)))
}

fn step() -> impl Strategy<Value = Step> {
    let ends = || (0u8..3, 1u16..3, 0u8..2, 1u16..3);
    // What a reply may say: from an analyser to a client, or to the address that rule 2 puts in its place.
    let reply = |(a, p, b, q)| (a, p, b, if q == 1 { 8081 } else { p });
    prop_oneof![
        4 => (transport(), ends(), 0usize..4).prop_map(|(t, ends, rule)| Step::Note(t, few(t, ends), rule)),
        4 => (transport(), ends()).prop_map(move |(t, ends)| {
            let (client, analyser) = few(t, reply(ends));
            Step::Restore(t, (analyser, client))
        }),
        2 => prop_oneof![0u64..3, 30u64..60, 118u64..122].prop_map(Step::Wait),
        1 => Just(Step::Expire),
    ]
}

/// Rules that give the same and other ports and sources; the last wants no replies.
fn rules() -> [Rule; 4] {
    let (analyser, own) = (IpAddr::from([198, 51, 100, 0]), IpAddr::from([192, 0, 2, 0]));
    let with = |to, from, replies| Rule { replies, ..rule(to, from) };
    [
        with((analyser, Some(8081)), None, true),
        with((analyser, None), None, true),
        with((analyser, Some(8081)), Some((own, None)), true),
        with((analyser, Some(8081)), None, false),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn remembers_what_a_plain_list_remembers(steps in prop::collection::vec(step(), 1..80), bound in 1usize..6) {
        let (mut replies, mut naive) = (Replies::new(bound), Naive::default());
        let mut now = Instant::from_micros(1_000_000_000);
        for step in steps {
            match step {
                Step::Wait(seconds) => now = now + Duration::from_secs(seconds),
                Step::Expire => replies.expire(now),
                Step::Note(transport, (client, server), index) => {
                    let rule = &rules()[index];
                    let before = inner::parse(&bytes_of(transport, client, server)).unwrap();
                    replies.note(now, &before, rule);
                    if rule.replies {
                        let port = |port| if transport == Transport::Icmp { 0 } else { port };
                        let source = (rule.from.map_or(client.0, |from| from.0), client.1);
                        let destination = (rule.to.0, port(rule.to.1.unwrap_or(server.1)));
                        let reply = (destination, source);
                        let is_ambiguous = false;
                        naive.note(bound, Flow { transport, reply, client, server, is_ambiguous, used: now });
                    }
                }
                Step::Restore(transport, ends) => {
                    let expected = naive.restore(now, transport, ends).ok_or(DropReason::NoReply);
                    prop_assert_eq!(restored(&mut replies, now, transport, ends), expected);
                }
            }
            prop_assert!(replies.flows().iter().all(|flows| *flows <= bound));
            prop_assert_eq!(replies.count(), naive.count);
        }
        // What is idle takes no room for long.
        now = now + IDLE + Duration::from_secs(1);
        replies.expire(now);
        prop_assert!(replies.is_empty());
    }
}

#[test]
fn a_reply_goes_back_to_who_asked() {
    let client = (ip("192.0.2.7"), 40_000);
    let server = (ip("203.0.113.5"), 31_765);
    let rule = Rule { replies: true, ..rule((ip("198.51.100.9"), Some(8081)), None) };
    let now = Instant::from_micros(5);
    let mut replies = Replies::default();
    let asked = inner::parse(&bytes_of(Transport::Udp, client, server)).unwrap();
    replies.note(now, &asked, &rule);
    let analyser = (ip("198.51.100.9"), 8081);
    assert_eq!(restored(&mut replies, now, Transport::Udp, (analyser, client)), Ok((server, client)));
    let other = restored(&mut replies, now, Transport::Tcp, (analyser, client));
    assert_eq!(other, Err(DropReason::NoReply), "another transport");
    assert_eq!(replies.len(), 1);
}

#[test]
fn ipv4_within_ipv6_is_not_taken_for_ipv4() {
    let rule = Rule { replies: true, ..rule((ip("198.51.100.9"), None), None) };
    let (client, server) = ((ip("192.0.2.7"), 1), (ip("203.0.113.5"), 2));
    let now = Instant::from_micros(5);
    let mut replies = Replies::default();
    replies.note(now, &inner::parse(&bytes_of(Transport::Udp, client, server)).unwrap(), &rule);
    let mapped = ((ip("::ffff:198.51.100.9"), 2), (ip("::ffff:192.0.2.7"), 1));
    assert_eq!(restored(&mut replies, now, Transport::Udp, mapped), Err(DropReason::NoReply));
}

#[test]
fn a_flood_of_one_transport_leaves_the_others_alone() {
    let rule = Rule { replies: true, ..rule((ip("198.51.100.9"), None), None) };
    let server = (ip("203.0.113.5"), 31_765);
    let now = Instant::from_micros(5);
    let mut replies = Replies::new(100);
    let client = (ip("192.0.2.7"), 1);
    replies.note(now, &inner::parse(&bytes_of(Transport::Tcp, client, server)).unwrap(), &rule);
    for port in 1..=1_000 {
        let flood = bytes_of(Transport::Udp, (ip("192.0.2.7"), port), server);
        replies.note(now, &inner::parse(&flood).unwrap(), &rule);
    }
    assert_eq!((replies.len(), replies.count().replaced), (101, 900));
    let reply = ((ip("198.51.100.9"), 31_765), client);
    assert_eq!(restored(&mut replies, now, Transport::Tcp, reply), Ok((server, client)));
    let newest = (reply.0, (client.0, 1_000));
    assert!(restored(&mut replies, now, Transport::Udp, newest).is_ok());
    assert_eq!(
        restored(&mut replies, now, Transport::Udp, reply),
        Err(DropReason::NoReply),
        "the oldest has gone"
    );
}
