use super::*;
use crate::inner::Transport;
use crate::tunnel::Kind;
use proptest::prelude::*;

const LEAST: &str = "interface = \"ens5\"\n[[tunnel]]\nkind = \"vxlan\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("mirror.toml"))
}

/// A configuration with these lines before its tunnel, and these behind.
fn with(before: &str, behind: &str) -> String {
    format!("{before}\n{LEAST}{behind}")
}

#[test]
fn the_least_that_can_be_written_observes() {
    let config = parse(LEAST).unwrap();
    assert_eq!((config.interface.as_str(), config.workers, config.backend), ("ens5", 1, Backend::Auto));
    assert_eq!(config.tunnels, [Listening { kind: Kind::Vxlan, port: 4789, vnis: vec![] }]);
    assert_eq!((config.egress.as_ref(), config.metrics, config.rules.len()), (None, None, 0));
    assert_eq!(config.observe, Observe::default());
}

#[test]
fn what_forwarding_needs_is_asked_for() {
    let rule = "[[rule]]\nname = \"a\"\nto = \"192.0.2.95\"\n";
    let (egress, list) = ("egress = \"ens6\"\n", "allowlist = \"allow.json\"\n");
    for (before, behind, key) in [
        (list.to_owned(), rule, "egress"),
        (egress.to_owned(), rule, "allowlist"),
        (format!("{egress}{list}"), "", "rule"),
    ] {
        let config = parse(&with(&before, behind)).unwrap();
        let error = config.forwarding().unwrap_err().to_string();
        assert!(error.starts_with(&format!("mirror.toml: forwarding needs '{key}'; write ")), "{error}");
    }
    let config = parse(&with(&format!("{egress}{list}"), rule)).unwrap();
    let forwarding = config.forwarding().unwrap();
    assert_eq!((forwarding.egress, forwarding.allowlist), ("ens6", Path::new("allow.json")));
    assert_eq!(forwarding.rules.len(), 1);
}

#[test]
fn the_sample_can_be_used() {
    let config = parse(include_str!("../../../deploy/mirror/mirror.toml")).unwrap();
    assert!(config.forwarding().is_ok());
    assert_eq!(config.rules.never_reached().count(), 0);
    let (_, rule) = config.rules.iter().next().unwrap();
    assert_eq!(rule.matching.transport, Some(Transport::Udp));
    assert_eq!(rule.matching.ports, Some(31_765..=31_765));
    assert_eq!(rule.to, ("192.0.2.95".parse().unwrap(), Some(8081)));
    assert_eq!(config.tunnels, [Listening { kind: Kind::Vxlan, port: 4789, vnis: vec![1] }]);
    assert_eq!(config.metrics, Some("127.0.0.1:9643".parse().unwrap()));
}

#[test]
fn what_is_commented_out_in_the_sample_can_be_used() {
    let sample = include_str!("../../../deploy/mirror/mirror.toml");
    let uncommented: Vec<&str> =
        sample.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect();
    let config = parse(&uncommented.join("\n")).unwrap();
    assert_eq!((config.tunnels.len(), config.rules.len(), config.observe.services.len()), (2, 3, 1));
    assert!(config.replies_egress.is_some() && config.rules.iter().any(|(_, rule)| rule.replies));
}

#[test]
fn every_value_is_read() {
    let before = "egress = \"ens6\"\nreplies_egress = \"ens7\"\nworkers = 4\ncpus = [1, 3]\nrealtime_priority = 10\nawake = true\nbackend = \"xdp\"\nmetrics = \"[::1]:9643\"";
    let behind = r#"
        vnis = [7, 1, 7]
        [[tunnel]]
        kind = "geneve"
        [[rule]]
        name = "all of it"
        protocol = "tcp"
        source = "192.0.2.0/24"
        destination = "198.51.100.7"
        ports = "1000-2000"
        to = "203.0.113.9"
        from = "203.0.113.1"
        replies = true
        [[rule]]
        name = "six"
        protocol = "udp"
        ports = "53"
        to = "[2001:db8::95]:8081"
        from = "[2001:db8::1]:9"
        [observe]
        services = ["10.1.2.0/24:443"]
    "#;
    let config = parse(&with(before, behind)).unwrap();
    assert_eq!((config.workers, config.backend, config.egress.as_deref()), (4, Backend::Xdp, Some("ens6")));
    assert_eq!(config.replies_egress.as_deref(), Some("ens7"));
    assert_eq!((&config.cpus[..], config.realtime_priority, config.awake), (&[1, 3][..], Some(10), true));
    assert_eq!(config.tunnels[0].vnis, [1, 7]);
    assert_eq!((config.tunnels[1].kind, config.tunnels[1].port), (Kind::Geneve, 6081));
    let rules: Vec<_> = config.rules.iter().map(|(_, rule)| rule).collect();
    assert_eq!(rules[0].matching.source.unwrap().to_string(), "192.0.2.0/24");
    assert_eq!(rules[0].matching.destination.unwrap().to_string(), "198.51.100.7/32");
    assert_eq!(rules[0].matching.ports, Some(1000..=2000));
    assert_eq!(rules[0].to, ("203.0.113.9".parse().unwrap(), None));
    assert_eq!(rules[0].from, Some(("203.0.113.1".parse().unwrap(), None)));
    assert!(rules[0].replies && !rules[1].replies);
    assert_eq!(rules[1].to, ("2001:db8::95".parse().unwrap(), Some(8081)));
    assert_eq!(rules[1].from, Some(("2001:db8::1".parse().unwrap(), Some(9))));
    assert_eq!(config.observe.services[0].to_string(), "10.1.2.0/24:443");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let rule = |keys: &str| format!("[[rule]]\nname = \"a\"\n{keys}\n");
    let to = "to = \"192.0.2.95\"";
    for (text, place, part) in [
        (with("egress = \"ens5\"", ""), "1:10", "could be mirrored again"),
        (with("replies_egress = \"ens5\"", ""), "1:18", "replies_egress is 'ens5', where the mirror arrives"),
        (
            with("egress = \"ens6\"", &rule(&format!("{to}\nreplies = true"))),
            "8:11",
            "write replies_egress = \"ens7\"",
        ),
        (with("egress = \"interface-of--16\"", ""), "1:10", "1 to 15 bytes"),
        (with("egress = \"a b\"", ""), "1:10", "no interface's name"),
        (with("workers = 0", ""), "1:11", "from 1 to 64"),
        (with("workers = 65", ""), "1:11", "from 1 to 64"),
        (with("workers = -1", ""), "1:11", "integer"),
        (with("realtime_priority = 100", ""), "1:21", "from 1 to 99, or 0"),
        (with("cpus = [0, 1024]", ""), "1:12", "from 0 to 1023"),
        (with(&format!("cpus = {:?}", [1; 65]), ""), "1:201", "up to 64 processors"),
        (with("backend = \"dpdk\"", ""), "1:11", "expected one of `auto`, `xdp`, `packet`, `pnet`"),
        (with("metrics = \"localhost:1\"", ""), "1:11", "127.0.0.1:9643"),
        (with("allowlist = \"\"", ""), "1:13", "name a file"),
        (with("egres = \"ens6\"", ""), "1:1", "unknown field `egres`"),
        (with("egress = ", ""), "1:10", "string"),
        ("[[tunnel]]\nkind = \"vxlan\"".into(), "1:1", "missing field `interface`"),
        ("interface = \"ens5\"".into(), "1:1", "no tunnel"),
        (with("", "port = 0"), "5:8", "from 1 to 65535"),
        (with("", "port = 65536"), "5:8", "65536"),
        (with("", "vnis = [1, 16777216]"), "5:12", "from 0 to 16777215"),
        (with("", "[[tunnel]]\nkind = \"vxlan\""), "5:1", "port 4789 is another tunnel's"),
        (with("", "[[tunnel]]\nkind = \"geneve\"\nport = 4789"), "7:8", "port 4789 is another tunnel's"),
        (with("", "[[tunnel]]\nkind = \"gre\""), "6:8", "expected `vxlan` or `geneve`"),
        (with("", &rule("")), "5:1", "missing field `to`"),
        (with("", &rule("to = \"192.0.2\"")), "7:6", "ADDRESS:PORT"),
        (with("", &rule("to = \"2001:db8::95:8081:x\"")), "7:6", "[2001:db8::95]:8081"),
        (with("", &rule(&format!("{to}\nprotocol = \"sctp\""))), "8:12", "tcp, udp or icmp"),
        (with("", &rule(&format!("{to}\nports = \"0\""))), "8:9", "from 1 to 65535"),
        (with("", &rule(&format!("{to}\nports = \"+5\""))), "8:9", "from 1 to 65535"),
        (with("", &rule(&format!("{to}\nports = \"9-8\""))), "8:9", "lower one first"),
        (with("", &rule(&format!("{to}\nsource = \"192.0.2.1/24\""))), "8:10", "host bits"),
        (
            with("", &rule(&format!("{to}\nsource = \"2001:db8::/32\""))),
            "5:1",
            "rule 'a': source, destination",
        ),
        (with("", &rule(&format!("{to}\nport = \"80\""))), "8:1", "unknown field `port`"),
        (with("", &rule(&format!("{to}\nprotocol = \"icmp\"\nports = \"80\""))), "5:1", "ICMP has no ports"),
        (with("", &(rule(to) + &rule(to))), "8:1", "two rules 'a'"),
        (with("", "[observe]\nservices = [\"10.1.2.0/24:443\", \"10.1.2.0/24\"]"), "6:32", "no port given"),
    ] {
        let error = parse(&text).expect_err(&text).to_string();
        assert!(
            error.starts_with(&format!("mirror.toml:{place}: ")) && error.contains(part),
            "{text}\n{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn bounds_are_kept() {
    let vnis = |count: usize| with("", &format!("vnis = [{}]", vec!["1"; count].join(",")));
    assert!(parse(&vnis(MOST_VNIS)).is_ok());
    assert!(parse(&vnis(MOST_VNIS + 1)).unwrap_err().to_string().contains("may be 4096 vnis"));
    let tunnels = |more: usize| {
        with(
            "",
            &(1..=more).map(|port| format!("[[tunnel]]\nkind=\"vxlan\"\nport={port}\n")).collect::<String>(),
        )
    };
    assert_eq!(parse(&tunnels(MOST_TUNNELS - 1)).unwrap().tunnels.len(), MOST_TUNNELS);
    assert!(parse(&tunnels(MOST_TUNNELS)).unwrap_err().to_string().contains("may be 16 tunnels"));
    let services = |count: usize| {
        with("", &format!("[observe]\nservices = [{}]", vec!["\"192.0.2.1:1\""; count].join(",")))
    };
    assert!(parse(&services(MOST_SERVICES)).is_ok());
    assert!(parse(&services(MOST_SERVICES + 1)).unwrap_err().to_string().contains("may be 1024 services"));
    let rules = |count: usize| {
        with(
            "",
            &(0..count).map(|n| format!("[[rule]]\nname=\"{n}\"\nto=\"192.0.2.1\"\n")).collect::<String>(),
        )
    };
    let error = parse(&rules(1_025)).unwrap_err().to_string();
    assert!(error.starts_with("mirror.toml:3077:1: there are 1025 rules"), "{error}");
    // It fits into the largest file.
    assert!((rules(1_024).len() as u64) < LONGEST / 4 && parse(&rules(1_024)).is_ok());
}

#[test]
fn a_file_is_bounded_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mirror.toml");
    assert!(matches!(Config::load(&path), Err(ConfigError::Unreadable { .. })));
    std::fs::write(&path, LEAST).unwrap();
    assert_eq!(Config::load(&path).unwrap().interface, "ens5");
    std::fs::write(&path, "#".repeat(LONGEST as usize + 1)).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::TooLong { .. })));
    std::fs::write(&path, b"# \xff").unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::Unreadable { .. })));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]{}\"=,a-z0-9./: \n-]{0,80}", key in "(egress|metrics|to|ports|source|vnis)") {
        let _ = parse(&text);
        let _ = parse(&with(&format!("{key} = \"{text}\""), ""));
        let _ = parse(&with("", &format!("[[rule]]\nname = \"a\"\n{key} = '''{text}'''\n")));
    }
}
