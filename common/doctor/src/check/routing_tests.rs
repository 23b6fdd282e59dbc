use super::super::testing::{causes, host as a_host, link, nic};
use super::*;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn route(to: &str, interface: u32, refusal: Option<Refusal>) -> Route {
    Route {
        to: prefix(to),
        table: MAIN,
        protocol: 3,
        interface,
        via: None,
        refusal,
        mtu: None,
        is_mtu_locked: false,
    }
}

fn network(routes: Vec<Route>) -> Network {
    Network { links: vec![link(2, "lan0"), link(3, "wan0"), link(4, "eth9")], routes, ..Network::default() }
}

fn judged(way: Way) -> Vec<String> {
    let mut report = Report::default();
    let led = [Led { service: "s".to_owned(), to: [10, 1, 2, 1].into(), way }];
    judge_services(&nic(&["lan0", "wan0"]), &network(Vec::new()), &led, &mut report);
    causes(&report)
}

#[test]
fn services_are_reached_by_the_daemons_interfaces() {
    assert_eq!(judged(Way::Out(3, None)), Vec::<String>::new());
    assert_eq!(judged(Way::Here), Vec::<String>::new());
    assert_eq!(judged(Way::Out(4, None)), ["route-elsewhere s"]);
    assert_eq!(judged(Way::Nowhere), ["no-route s"]);
    assert_eq!(judged(Way::Refused(Refusal::Blackhole)), ["route-refuses s"]);
}

#[test]
fn a_bridge_over_the_daemons_interface_will_do() {
    let mut network = network(Vec::new());
    network.links[1].master = 4;
    assert!(network.passes(4, &["wan0".to_owned()]));
    assert!(!network.passes(4, &["lan0".to_owned()]));
    network.links[2].lower = 2;
    assert!(network.passes(4, &["lan0".to_owned()]));
    network.links[2].kind = "veth".to_owned();
    assert!(
        !network.passes(4, &["lan0".to_owned()]),
        "the other end of a veth, by chance of the same number"
    );
}

#[test]
fn each_route_into_a_service_is_followed() {
    let service: Service = "10.1.0.0/16:443".parse().unwrap();
    let texts = |routes| -> Vec<String> {
        samples(&service, &network(routes)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(texts(vec![route("0.0.0.0/0", 3, None)]), ["10.1.0.1"]);
    let specific = vec![route("10.1.2.0/24", 3, None), route("10.1.3.7/32", 0, Some(Refusal::Blackhole))];
    assert_eq!(texts(specific), ["10.1.2.1", "10.1.3.7"]);
    let aggregate = vec![route("10.1.0.0/16", 0, Some(Refusal::Blackhole)), route("10.1.2.0/24", 3, None)];
    assert_eq!(texts(aggregate), ["10.1.2.1"]);
}

#[test]
fn of_the_whole_internet_only_routes_are_followed() {
    let service: Service = "0.0.0.0/0:443".parse().unwrap();
    assert!(samples(&service, &network(Vec::new())).is_empty());
    assert_eq!(samples(&service, &network(vec![route("10.1.2.0/24", 3, None)])).len(), 1);
}

#[test]
fn the_hosts_own_address_is_no_sample() {
    let mut network = network(Vec::new());
    let address = "10.1.2.1".parse().unwrap();
    network.addresses.push(crate::look::links::Address {
        interface: 2,
        address,
        prefix: 24,
        is_duplicate: false,
    });
    assert_eq!(host(&prefix("10.1.2.0/24"), &network), Some([10, 1, 2, 2].into()));
    assert_eq!(host(&prefix("10.1.2.1/32"), &network), None);
    assert_eq!(host(&prefix("10.1.2.9/32"), &network), Some([10, 1, 2, 9].into()));
}

#[test]
fn refusing_routes_of_a_host_are_those_made_by_hand() {
    let daemons = Route { protocol: 12, ..route("10.5.0.0/16", 0, Some(Refusal::Blackhole)) };
    let kernels = Route { protocol: 2, ..route("::/0", 0, Some(Refusal::Unreachable)) };
    let network = network(vec![
        daemons,
        kernels,
        route("2002:a00::/24", 0, Some(Refusal::Unreachable)),
        route("10.0.0.0/8", 0, Some(Refusal::Blackhole)),
        route("10.6.0.0/16", 3, None),
        route("10.7.0.0/16", 0, Some(Refusal::Prohibit)),
        route("0.0.0.0/0", 0, Some(Refusal::Blackhole)),
    ]);
    let found: Vec<String> =
        refusing(&network).iter().map(|(route, to)| format!("{} {to}", route.to)).collect();
    assert_eq!(found, ["10.7.0.0/16 10.7.0.1", "0.0.0.0/0 198.51.100.1"]);
    let mut report = Report::default();
    let ways: Vec<_> = refusing(&network)
        .into_iter()
        .zip([Way::Refused(Refusal::Prohibit), Way::Out(3, None)])
        .map(|((route, to), way)| (route, to, way))
        .collect();
    judge_refusing(&network, &ways, &mut report);
    assert_eq!(causes(&report), ["route-refuses 10.7.0.0/16"]);
}

#[test]
fn refusing_rules_are_faults_where_they_take_services_or_all() {
    let rule = RefusingRule {
        priority: 100,
        refusal: Refusal::Prohibit,
        to: None,
        from: None,
        is_narrow: false,
        is_ipv4: true,
    };
    let judged = |patient: &Patient, rule: &RefusingRule| {
        let mut report = Report::default();
        let network = Network { rules: vec![rule.clone()], ..network(Vec::new()) };
        judge_rules(patient, &network, &mut report);
        report.findings().first().map(|finding| finding.rank)
    };
    let nic = nic(&["lan0"]);
    assert_eq!(judged(&nic, &rule), Some(Rank::Fault));
    assert_eq!(judged(&nic, &RefusingRule { is_narrow: true, ..rule.clone() }), None);
    assert_eq!(judged(&nic, &RefusingRule { priority: 40_000, ..rule.clone() }), None);
    assert_eq!(
        judged(&nic, &RefusingRule { to: Some(prefix("10.1.2.7/32")), ..rule.clone() }),
        Some(Rank::Fault)
    );
    assert_eq!(
        judged(&nic, &RefusingRule { from: Some(prefix("10.9.0.0/16")), ..rule.clone() }),
        Some(Rank::Suspicion)
    );
    assert_eq!(judged(&a_host(&["eth0"]), &rule), Some(Rank::Fault));
}
