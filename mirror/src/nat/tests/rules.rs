use super::*;
use crate::nat::rules::RuleProblem;

fn inner(source: IpAddr, destination: IpAddr, transport: Transport, port: u16) -> Inner {
    let destination_port = if transport == Transport::Icmp { 0 } else { port };
    Inner {
        source,
        destination,
        transport,
        source_port: 7,
        destination_port,
        upper: 20,
        length: 40,
        hop_limit: 64,
    }
}

/// The definition, rule by rule and word by word.
fn naive(rules: &[Rule], packet: &Inner) -> Option<usize> {
    rules.iter().position(|rule| {
        let is_version = rule.to.0.is_ipv4() == packet.source.is_ipv4();
        let some_port =
            rule.matching.ports.is_some() || rule.to.1.is_some() || matches!(rule.from, Some((_, Some(_))));
        let is_transport = match rule.matching.transport {
            None if some_port => packet.transport != Transport::Icmp,
            None => true,
            Some(transport) => transport == packet.transport,
        };
        let is_port = match &rule.matching.ports {
            None => true,
            Some(ports) => {
                *ports.start() <= packet.destination_port && packet.destination_port <= *ports.end()
            }
        };
        let is_source = rule.matching.source.is_none_or(|prefix| prefix.contains(packet.source));
        let is_destination =
            rule.matching.destination.is_none_or(|prefix| prefix.contains(packet.destination));
        is_version && is_transport && is_port && is_source && is_destination
    })
}

fn prefix(is_ipv4: bool) -> impl Strategy<Value = Prefix> {
    let length = if is_ipv4 { 28u8..=32 } else { 124u8..=128 };
    (address(is_ipv4), length).prop_map(|(address, length)| Prefix::new(address, length).unwrap())
}

/// Rules that differ in what they match; a port only where it is allowed.
fn some_rule() -> impl Strategy<Value = Rule> {
    any::<bool>().prop_flat_map(|v4| {
        let ports = (port(), port()).prop_map(|(a, b)| a.min(b)..=a.max(b));
        let prefixes = (prop::option::of(prefix(v4)), prop::option::of(prefix(v4)));
        let to = (prop::option::of(Just(8081u16)), prop::option::of(Just(None::<u16>)));
        (prop::option::of(transport()), prefixes, prop::option::of(ports), to).prop_map(
            move |(transport, (source, destination), ports, (to, from))| {
                let analyser = if v4 { ip("198.51.100.9") } else { ip("2001:db8::9") };
                let is_icmp = transport == Some(Transport::Icmp);
                let ports = ports.filter(|_| !is_icmp);
                let matching = Matching { transport, source, destination, ports };
                let to = (analyser, to.filter(|_| !is_icmp));
                Rule { matching, ..rule(to, from.map(|port| (analyser, port))) }
            },
        )
    })
}

proptest! {
    #[test]
    fn the_first_match_is_that_of_a_linear_scan(
        mut rules in prop::collection::vec(some_rule(), 0..12),
        packets in prop::collection::vec(
            any::<bool>().prop_flat_map(|v4| (address(v4), address(v4), transport(), 0u16..7)), 24),
    ) {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.name = index.to_string();
        }
        let compiled = Rules::new(rules.clone()).unwrap();
        let never: Vec<_> = compiled.never_reached().map(|rule| rule.name.clone()).collect();
        for (source, destination, transport, port) in packets {
            for port in [port, u16::MAX - port] {
                let packet = inner(source, destination, transport, port);
                let found = compiled.find(&packet);
                prop_assert_eq!(found.map(RuleId::index), naive(&rules, &packet));
                prop_assert!(found.is_none_or(|id| !never.contains(&compiled.rule(id).unwrap().name)));
            }
        }
    }
}

fn named(name: &str, matching: Matching, to: &str) -> Rule {
    Rule { name: name.into(), matching, ..rule((ip(to), None), None) }
}

#[test]
fn a_rule_behind_one_that_takes_all_is_never_reached() {
    let ports = |ports| Matching { ports: Some(ports), ..Matching::default() };
    let sourced = Matching { source: Some("192.0.2.0/24".parse().unwrap()), ..ports(1..=9) };
    let rules = vec![
        named("low", sourced, "198.51.100.1"),
        named("all", ports(1..=65535), "198.51.100.1"),
        named("late", ports(5..=6), "198.51.100.1"),
        named("icmp too", Matching::default(), "198.51.100.1"),
        named("other version", ports(5..=6), "2001:db8::1"),
    ];
    let rules = Rules::new(rules).unwrap();
    assert_eq!(rules.never_reached().map(|rule| &*rule.name).collect::<Vec<_>>(), ["late"]);
}

#[test]
fn what_is_wrong_is_named() {
    let tcp = Matching { transport: Some(Transport::Tcp), ..Matching::default() };
    let icmp = Matching { transport: Some(Transport::Icmp), ..Matching::default() };
    let sourced = Matching { source: Some("192.0.2.0/24".parse().unwrap()), ..Matching::default() };
    let good =
        |matching: &Matching| Rule { matching: matching.clone(), ..rule((ip("198.51.100.9"), None), None) };
    let ports = |ports| Rule { matching: Matching { ports: Some(ports), ..tcp.clone() }, ..good(&tcp) };
    let own = ip("198.51.100.8");
    for (wrong, expected) in [
        (Rule { to: (ip("2001:db8::9"), None), ..good(&sourced) }, RuleProblem::Versions),
        (Rule { from: Some((ip("2001:db8::8"), None)), ..good(&tcp) }, RuleProblem::Versions),
        (Rule { to: (own, Some(80)), ..good(&icmp) }, RuleProblem::IcmpPort),
        (Rule { from: Some((own, Some(80))), ..good(&icmp) }, RuleProblem::IcmpPort),
        (Rule { to: (own, Some(0)), ..good(&tcp) }, RuleProblem::Ports),
        (ports(0..=9), RuleProblem::Ports),
        (ports(RangeInclusive::new(9, 8)), RuleProblem::Ports),
        (Rule { to: (ip("0.0.0.0"), None), ..good(&tcp) }, RuleProblem::Target(ip("0.0.0.0"))),
        (Rule { to: (ip("127.0.0.1"), None), ..good(&tcp) }, RuleProblem::Target(ip("127.0.0.1"))),
        (Rule { to: (ip("ff02::1"), None), ..good(&tcp) }, RuleProblem::Target(ip("ff02::1"))),
        (
            Rule { to: (ip("::ffff:192.0.2.1"), None), ..good(&tcp) },
            RuleProblem::Target(ip("::ffff:192.0.2.1")),
        ),
        (
            Rule { from: Some((ip("255.255.255.255"), None)), ..good(&tcp) },
            RuleProblem::Source(ip("255.255.255.255")),
        ),
        (Rule { replies: true, from: Some((own, Some(9))), ..good(&tcp) }, RuleProblem::RepliesToOnePort),
    ] {
        let fine = Rule { name: "fine".into(), ..good(&tcp) };
        let error = Rules::new(vec![fine, wrong]).unwrap_err();
        assert_eq!(error, RulesError::Rule { name: "rule".into(), index: 1, problem: expected });
        assert!(error.to_string().starts_with("rule 'rule': "));
    }
    let twice = Rules::new(vec![good(&tcp), good(&icmp)]);
    assert_eq!(twice.unwrap_err(), RulesError::SameName("rule".into()));
    for name in ["", "a\nb", &"n".repeat(65)] {
        assert_eq!(
            Rules::new(vec![Rule { name: name.into(), ..good(&tcp) }]).unwrap_err(),
            RulesError::Name(1)
        );
    }
    let many =
        |count| (0..count).map(|n: usize| Rule { name: n.to_string(), ..good(&tcp) }).collect::<Vec<_>>();
    assert_eq!(Rules::new(many(MOST_RULES)).unwrap().len(), MOST_RULES);
    assert_eq!(Rules::new(many(MOST_RULES + 1)).unwrap_err(), RulesError::TooMany(1_025));
}
