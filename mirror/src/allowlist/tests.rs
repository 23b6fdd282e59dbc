use super::*;
use proptest::prelude::*;
use rtt0_core::service::Prefix;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Writes a list of organisations `0`, `1`, … with these prefixes.
fn json(organisations: &[Vec<Prefix>]) -> String {
    let list: Vec<_> = organisations
        .iter()
        .enumerate()
        .map(|(index, prefixes)| {
            let addresses: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
            serde_json::json!({ "name": index.to_string(), "addresses": addresses })
        })
        .collect();
    serde_json::json!({ "organisations": list }).to_string()
}

const TWO: &str = r#"{"organisations":[
    {"name":"Example Org","contact":"noc@example.org","addresses":["192.0.2.7","198.51.100.0/24","2001:db8::/32"]},
    {"name":"Another","addresses":["198.51.100.64/26","2001:db8:0:1::/64","198.51.100.64/26"]}
]}"#;

#[test]
fn the_longest_prefix_says_whose_an_address_is() {
    let list = Allowlist::parse(TWO).unwrap();
    let owner = |address| list.owner(ip(address)).map(|owner| list.name(owner));
    for (address, expected) in [
        ("192.0.2.7", Some("Example Org")),
        ("192.0.2.6", None),
        ("192.0.2.8", None),
        ("198.51.99.255", None),
        ("198.51.100.0", Some("Example Org")),
        ("198.51.100.63", Some("Example Org")),
        ("198.51.100.64", Some("Another")),
        ("198.51.100.127", Some("Another")),
        ("198.51.100.128", Some("Example Org")),
        ("198.51.100.255", Some("Example Org")),
        ("198.51.101.0", None),
        ("0.0.0.0", None),
        ("255.255.255.255", None),
        ("2001:db7:ffff::", None),
        ("2001:db8::", Some("Example Org")),
        ("2001:db8:0:1::2", Some("Another")),
        ("2001:db8:0:2::", Some("Example Org")),
        ("2001:db9::", None),
        ("::ffff:192.0.2.7", None),
    ] {
        assert_eq!(owner(address), expected, "{address}");
    }
    assert_eq!((list.prefixes(), list.repeated()), (5, 1));
    let names: Vec<_> = list.owners().map(|(id, name)| (id.index(), name)).collect();
    assert_eq!(names, [(0, "Example Org"), (1, "Another")]);
}

#[test]
fn a_list_of_all_addresses_has_to_be_written() {
    let list =
        Allowlist::parse(&json(&[vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]])).unwrap();
    for address in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
        assert_eq!(list.owner(ip(address)).map(OwnerId::index), Some(0), "{address}");
    }
    for empty in [r#"{"organisations":[]}"#, r#"{"organisations":[{"name":"a","addresses":[]}]}"#] {
        let error = Allowlist::parse(empty).unwrap_err();
        assert!(matches!(error, AllowlistError::Empty) && error.to_string().contains("0.0.0.0/0 and ::/0"));
    }
}

#[test]
fn what_is_wrong_is_named() {
    let of = |addresses: &str| format!(r#"{{"organisations":[{{"name":"a","addresses":[{addresses}]}}]}}"#);
    for (json, parts) in [
        (of(r#""192.0.2.1/24""#), &["host bits", "192.0.2.0/24", "line 1 column"][..]),
        (of(r#""192.0.2""#), &["'192.0.2'", "not an IP address", "line 1 column"]),
        (of("7"), &["invalid type", "an address or a prefix", "line 1"]),
        (of(r#""::ffff:192.0.2.1""#), &["IPv4-mapped"]),
        (String::new(), &["EOF"]),
        ("[]".into(), &["line 1"]),
        (r#"{"organizations":[]}"#.into(), &["unknown field `organizations`", "`organisations`"]),
        (r#"{"organisations":[{"name":"a"}]}"#.into(), &["missing field `addresses`"]),
        (
            r#"{"organisations":[{"name":"a","addresses":[],"adresses":[]}]}"#.into(),
            &["unknown field `adresses`"],
        ),
        (r#"{"organisations":[{"name":" ","addresses":["192.0.2.1"]}]}"#.into(), &["organisation 1"]),
        (r#"{"organisations":[{"name":"a\nb","addresses":["192.0.2.1"]}]}"#.into(), &["organisation 1"]),
        (
            r#"{"organisations":[{"name":"a","addresses":["192.0.2.1"]},{"name":"a","addresses":[]}]}"#
                .into(),
            &["two organisations 'a'"],
        ),
        (
            r#"{"organisations":[{"name":"a","addresses":["192.0.2.0/24"]},
                {"name":"b","addresses":["192.0.2.0/25","192.0.2.0/24"]}]}"#
                .into(),
            &["192.0.2.0/24 belongs to 'a' and to 'b'"],
        ),
    ] {
        let error = Allowlist::parse(&json).expect_err(&json).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{json}: {error}");
    }
}

#[test]
fn bounds_are_kept() {
    let prefix = |n: usize| Prefix::new(IpAddr::from((n as u32).to_be_bytes()), 32).unwrap();
    let full = json(&[(0..MOST_PREFIXES).map(prefix).collect()]);
    assert_eq!(Allowlist::parse(&full).unwrap().prefixes(), MOST_PREFIXES);
    let over = json(&[(0..=MOST_PREFIXES).map(prefix).collect()]);
    assert!(matches!(Allowlist::parse(&over), Err(AllowlistError::TooManyPrefixes(1_000_001))));
    let each_one = |count: usize| json(&(0..count).map(|n| vec![prefix(n)]).collect::<Vec<_>>());
    let list = Allowlist::parse(&each_one(MOST_ORGANISATIONS)).unwrap();
    assert_eq!(list.owner(ip("0.0.255.255")).map(|owner| list.name(owner)), Some("65535"));
    let over = Allowlist::parse(&each_one(MOST_ORGANISATIONS + 1));
    assert!(matches!(over, Err(AllowlistError::TooManyOrganisations(65_537))));
    assert!(matches!(Allowlist::parse(&" ".repeat(LONGEST + 1)), Err(AllowlistError::TooLong)));
    let name = "n".repeat(LONGEST_NAME + 1);
    let long = format!(r#"{{"organisations":[{{"name":"{name}","addresses":["192.0.2.1"]}}]}}"#);
    assert!(matches!(Allowlist::parse(&long), Err(AllowlistError::Name { place: 1 })));
}

#[test]
fn a_file_is_named_with_what_is_wrong_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("allow.json");
    let error = Allowlist::load(&path).unwrap_err().to_string();
    assert!(error.contains("allow.json") && error.contains("cannot be read"), "{error}");
    std::fs::write(&path, b"\xff").unwrap();
    assert!(Allowlist::load(&path).unwrap_err().to_string().contains("cannot be read"));
    std::fs::write(&path, "{}").unwrap();
    let error = Allowlist::load(&path).unwrap_err().to_string();
    assert!(error.contains("allow.json") && error.contains("missing field `organisations`"), "{error}");
    std::fs::write(&path, TWO).unwrap();
    assert_eq!(Allowlist::load(&path).unwrap().prefixes(), 5);
}

#[test]
fn the_sample_can_be_used() {
    let list = Allowlist::parse(include_str!("../../../deploy/mirror/allow.json")).unwrap();
    assert!(list.prefixes() > 3 && list.repeated() == 0);
    assert_eq!(list.owner(ip("192.0.2.7")).map(|owner| list.name(owner)), Some("Example Org"));
}

/// A prefix of either family with few distinct bits, so that prefixes nest and touch, at the ends of the family too.
fn prefixes() -> impl Strategy<Value = Prefix> {
    let bits = prop_oneof![
        Just(0u128),
        Just(u128::MAX),
        any::<u128>(),
        (0u128..16).prop_map(|n| n << 124 | n << 96)
    ];
    (any::<bool>(), bits, 0u8..=128, any::<bool>()).prop_map(|(v4, bits, length, short)| {
        let length = if short { length % 5 } else { length };
        let address = |v4| match v4 {
            true => IpAddr::from(((bits >> 96) as u32).to_be_bytes()),
            false => IpAddr::from(bits.to_be_bytes()),
        };
        let length = if v4 { length.min(32) } else { length };
        Prefix::new(address(v4), length).unwrap()
    })
}

/// The definition: of all prefixes that contain the address, the longest.
fn naive(organisations: &[Vec<Prefix>], address: IpAddr) -> Option<usize> {
    let mut best: Option<(u8, usize)> = None;
    for (owner, prefixes) in organisations.iter().enumerate() {
        for prefix in prefixes.iter().filter(|prefix| prefix.contains(address)) {
            if best.is_none_or(|(length, _)| prefix.length() > length) {
                best = Some((prefix.length(), owner));
            }
        }
    }
    best.map(|(_, owner)| owner)
}

/// The addresses around both ends of a prefix, where a range may end too early or too late.
fn around(prefix: &Prefix) -> Vec<IpAddr> {
    match prefix.address() {
        IpAddr::V4(first) => {
            let first = u32::from(first);
            let last = first | u32::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(|n| IpAddr::V4(n.into())).to_vec()
        }
        IpAddr::V6(first) => {
            let first = u128::from(first);
            let last = first | u128::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(|n| IpAddr::V6(n.into())).to_vec()
        }
    }
}

proptest! {
    #[test]
    fn finds_what_a_linear_scan_finds(
        organisations in prop::collection::vec(prop::collection::vec(prefixes(), 0..8), 1..5),
        others in prop::collection::vec(any::<u128>(), 8),
    ) {
        let all: Vec<_> = organisations.iter().enumerate()
            .flat_map(|(owner, prefixes)| prefixes.iter().map(move |prefix| (*prefix, owner))).collect();
        let clash = |a: &(Prefix, usize), b: &(Prefix, usize)| a.0 == b.0 && a.1 != b.1;
        let two_owners = all.iter().any(|a| all.iter().any(|b| clash(a, b)));
        match Allowlist::parse(&json(&organisations)) {
            Err(AllowlistError::TwoOwners { .. }) => prop_assert!(two_owners),
            Err(AllowlistError::Empty) => prop_assert!(all.is_empty()),
            Err(error) => prop_assert!(false, "{}", error),
            Ok(list) => {
                prop_assert!(!two_owners && !all.is_empty());
                let mut distinct = Vec::new();
                for (prefix, _) in &all {
                    if !distinct.contains(prefix) {
                        distinct.push(*prefix);
                    }
                }
                prop_assert_eq!((list.prefixes(), list.repeated()), (distinct.len(), all.len() - distinct.len()));
                let ends = all.iter().flat_map(|(prefix, _)| around(prefix));
                let any4 = others.iter().map(|n| IpAddr::V4((*n as u32).into()));
                let any6 = others.iter().map(|n| IpAddr::V6((*n).into()));
                for address in ends.chain(any4).chain(any6) {
                    let found = list.owner(address).map(OwnerId::index);
                    prop_assert_eq!(found, naive(&organisations, address), "{}", address);
                }
            }
        }
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]{}\":,a-z0-9./]{0,60}") {
        let _ = Allowlist::parse(&text);
        let _ = Allowlist::parse(&format!(r#"{{"organisations":[{{"name":"a","addresses":["{text}"]}}]}}"#));
    }
}
