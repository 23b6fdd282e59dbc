//! What is made of observations that no path has made.

use super::super::arrival::Arrival;
use super::super::course::Flight;
use super::super::mtu::Mtu;
use super::super::order::{Options, Order};
use super::*;

fn ends() -> Ends {
    let [local, peer] = ["10.1.1.1", "10.1.1.2"].map(|text| text.parse().unwrap());
    Ends { local, seen: local, peer, round_trip: Duration::from_millis(50) }
}

fn flown(what: What, way: Way, shape: Shape) -> Flown {
    let order = Order { options: Options::Offer, ..Order::new(0, shape, 1, 2) };
    let arrival = Arrival {
        source: "10.1.1.1:9643".parse().unwrap(),
        destination: "10.1.1.2:9643".parse().unwrap(),
        hop_limit: 61,
        traffic_class: 0,
        length: 60,
        sequence: 1,
        acknowledgement: 2,
        flags: order.flags().bits(),
        window: 30_000,
        options: order.option_bytes(),
        is_checksum_right: true,
        is_data_right: true,
    };
    Flown {
        what,
        way,
        flight: Flight { order, tries: 1, is_refused: false, arrival: Some(arrival), changes: Vec::new() },
    }
}

/// A path that changes nothing.
fn healthy() -> Observed {
    let mut all = Vec::new();
    for what in [What::Plain as fn(Shape) -> What, What::Offer, What::Ecn] {
        all.push(flown(what(Shape::Syn), Way::Out, Shape::Syn));
        all.push(flown(what(Shape::SynAck), Way::In, Shape::SynAck));
    }
    for way in [Way::Out, Way::In] {
        for what in [What::Data, What::Capable, What::Congested, What::Dscp, What::Urgent] {
            all.push(flown(what, way, Shape::Data));
        }
    }
    all.push(flown(What::Early, Way::Out, Shape::Data));
    let mtu =
        |way| Mtu { way, interface: 1500, largest: Some(1400), vanishing: Some(1401), told: Some(1400) };
    let train = |way| Train { way, sent: 60, come: 57 };
    let ways = [Way::Out, Way::In];
    Observed { opener: Way::Out, flown: all, trains: ways.map(train).to_vec(), mtus: ways.map(mtu).to_vec() }
}

fn with(what: What, way: Way, act: impl Fn(&mut Flight)) -> Observed {
    let mut seen = healthy();
    seen.flown
        .iter_mut()
        .filter(|flown| (flown.what, flown.way) == (what, way))
        .for_each(|flown| act(&mut flown.flight));
    seen
}

fn judged(seen: &Observed) -> (Vec<(&'static str, Rank)>, String) {
    let mut report = Report::default();
    judge(seen, &ends(), &mut report);
    report.conclude();
    let found = report.findings().iter().map(|finding| (finding.cause.id, finding.rank)).collect();
    (found, report.text(false))
}

#[test]
fn a_path_that_changes_nothing_permits_everything() {
    let (found, text) = judged(&healthy());
    assert_eq!(found, []);
    assert!(text.contains("all of them: learn, paired, solo"), "{text}");
    assert!(
        text.contains("path 10.1.1.1 → 10.1.1.2: hops 3, MTU 1400 (a router told of 1400), lost 3 of 60"),
        "{text}"
    );
}

#[test]
fn changes_are_named_and_cost_modes() {
    let syn = What::Offer(Shape::Syn);
    for (what, change, id, rank, is_paired) in [
        (syn, Change::OptionMissing(253), "option-stripped", Rank::Fault, false),
        (syn, Change::OptionValue(253), "option-stripped", Rank::Fault, false),
        (syn, Change::OptionMissing(kind::TIMESTAMPS), "option-stripped", Rank::Suspicion, true),
        (What::Plain(Shape::Syn), Change::Sequence(1, 2), "sequence-rewritten", Rank::Fault, false),
        (What::Plain(Shape::Syn), Change::Mss(1460, 1360), "mss-rewritten", Rank::Suspicion, true),
        (What::Ecn(Shape::Syn), Change::EcnFlags(0xc0, 0), "ecn-cleared", Rank::Suspicion, true),
        (What::Capable, Change::Ecn(2, 0), "ecn-cleared", Rank::Suspicion, true),
        (What::Congested, Change::Ecn(3, 0), "ecn-cleared", Rank::Suspicion, true),
        (What::Data, Change::Checksum, "checksum-errors", Rank::Loss, true),
        (
            What::Data,
            Change::Source("10.1.1.1:1".parse().unwrap(), "10.9.9.9:2".parse().unwrap()),
            "address-rewritten",
            Rank::Fault,
            false,
        ),
    ] {
        let (found, text) = judged(&with(what, Way::Out, |flight| flight.changes.push(change)));
        assert_eq!(found, [(id, rank)], "{change:?}");
        assert_eq!(text.contains("all of them"), is_paired, "{change:?}: {text}");
    }
}

#[test]
fn what_vanishes_is_named() {
    for (what, way, id, modes) in [
        (What::Offer(Shape::Syn), Way::Out, "option-dropped", "offers do not get through"),
        (What::Offer(Shape::SynAck), Way::In, "option-dropped", "confirms do not get through"),
        (What::Early, Way::Out, "early-data-dropped", "early data does not get through"),
        (What::Plain(Shape::Syn), Way::Out, "lost-on-path", "none: not even plain connections"),
        (What::Data, Way::In, "lost-on-path", "none: not even plain connections"),
        (What::Ecn(Shape::Syn), Way::Out, "ecn-cleared", "all of them"),
    ] {
        let (found, text) = judged(&with(what, way, |flight| flight.arrival = None));
        assert_eq!(found, [(id, Rank::Loss)]);
        assert!(text.contains(modes), "{text}");
    }
    assert_eq!(judged(&with(What::Urgent, Way::In, |flight| flight.arrival = None)).0, []);
    let refuse = |flight: &mut Flight| (flight.arrival, flight.is_refused) = (None, true);
    let (found, text) = judged(&with(What::Early, Way::Out, refuse));
    assert_eq!(found, [("firewall-drop", Rank::Loss)]);
    assert!(text.contains("output · packets are lost here"), "{text}");
    let (found, _) = judged(&with(What::Offer(Shape::SynAck), Way::In, refuse));
    assert_eq!(found, [("lost-on-path", Rank::Loss)]);
}

#[test]
fn where_no_data_passes_it_is_not_for_its_marks() {
    let mut seen = healthy();
    for flown in &mut seen.flown {
        if flown.flight.order.shape == Shape::Data {
            flown.flight.arrival = None;
        }
    }
    let (found, text) = judged(&seen);
    assert_eq!(found, [("early-data-dropped", Rank::Loss)]);
    assert!(text.contains("data did not arrive"), "{text}");
}

#[test]
fn marks_of_congestion_classes_and_windows_are_nobodys_fault() {
    for (what, change) in [
        (What::Capable, Change::Ecn(2, 3)),
        (What::Dscp, Change::Dscp(46, 0)),
        (What::Data, Change::Window),
        (What::Urgent, Change::Flags(0x38, 0x18)),
        (What::Plain(Shape::Syn), Change::OptionValue(kind::TIMESTAMPS)),
    ] {
        let (found, text) = judged(&with(what, Way::Out, |flight| flight.changes.push(change)));
        assert_eq!(found, [], "{change:?}");
        assert!(text.contains("changed on the path 10.1.1.1 → 10.1.1.2"), "{text}");
    }
}

#[test]
fn black_holes_and_many_losses_are_found() {
    let mut seen = healthy();
    seen.mtus[1].told = None;
    assert_eq!(judged(&seen).0, [("mtu-black-hole", Rank::Loss)]);
    assert!(judged(&seen).1.contains("ping -M do -s 1373 10.1.1.1 (at 10.1.1.2)"));
    let mut seen = healthy();
    seen.trains[0] = Train { way: Way::Out, sent: 180, come: 150 };
    assert_eq!(judged(&seen).0, [("lost-on-path", Rank::Symptom)]);
}
