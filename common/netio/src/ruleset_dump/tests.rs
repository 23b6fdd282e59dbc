//! What the kernel lists of rules that `nft` has loaded.

use std::process::Command;

use super::{Point, Ruleset, Verdict, dump};
use crate::netns::Namespace;

/// Loads a script into a fresh namespace and reads it back; `None`, with a word on why, if that can't be done here.
fn loaded(script: &str) -> Option<Ruleset> {
    let namespace = match Namespace::create() {
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
        Ok(namespace) => namespace,
    };
    let load = || Command::new("nft").arg(script).output();
    match namespace.enter(load).unwrap() {
        Err(error) => {
            println!("skipped: nft: {error}");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(namespace.enter(dump).unwrap().unwrap())
        }
    }
}

#[test]
fn chains_have_their_hooks_and_rules_their_words() {
    let Some(ruleset) = loaded(
        "table inet t { chain c { type filter hook forward priority -5; policy drop; \
         iifname \"eth0\" ip saddr 10.0.0.0/8 tcp dport 443 counter drop; ct state established,related accept; \
         ct state invalid drop; udp sport 5-9 reject\n}\n}",
    ) else {
        return;
    };
    let hook = ruleset.chains[0].hook.as_ref().unwrap();
    assert_eq!((hook.point, hook.priority, hook.drops), (Point::Forward, -5, true));
    let rules: Vec<_> =
        ruleset.rules.iter().map(|rule| (rule.counter, rule.is_of_invalid, rule.verdict.clone())).collect();
    assert_eq!(
        rules,
        [
            (Some(0), false, Verdict::Drop),
            (None, false, Verdict::Accept),
            (None, true, Verdict::Drop),
            (None, false, Verdict::Reject)
        ]
    );
    let texts: Vec<_> = ruleset.rules.iter().map(|rule| rule.text.as_str()).collect();
    assert!(texts[0].starts_with("iifname \"eth0\" "), "{texts:?}");
    assert!(texts[0].ends_with("tcp dport 443 counter drop"), "{texts:?}");
    assert_eq!(texts[1], "ct state established,related accept");
    assert_eq!(texts[2], "ct state invalid drop");
    // As the kernel has it: nft(8) makes two comparisons of a range.
    assert_eq!(texts[3], "udp sport >= 5 udp sport <= 9 reject");
}

#[test]
fn verdict_maps_tell_all_their_verdicts() {
    let Some(ruleset) = loaded(
        "table inet t {\nchain deep {\ndrop\n}\nchain c { type filter hook output priority 0; \
         meta l4proto vmap { tcp : accept, udp : jump deep }\n ct state vmap { new : accept, invalid : drop }\n}\n}",
    ) else {
        return;
    };
    let [drop, by_protocol, by_state] = &ruleset.rules[..] else { panic!("{ruleset:?}") };
    assert_eq!((drop.chain.as_str(), &drop.verdict), ("deep", &Verdict::Drop));
    let Verdict::Map(verdicts) = &by_protocol.verdict else { panic!("{by_protocol:?}") };
    assert!(verdicts.contains(&Verdict::Accept), "{by_protocol:?}");
    assert!(verdicts.contains(&Verdict::Jump("deep".to_owned())), "{by_protocol:?}");
    assert!(!by_protocol.is_of_invalid && by_state.is_of_invalid, "{by_state:?}");
}

#[test]
fn devices_have_hooks_of_their_own() {
    let Some(ruleset) = loaded(
        "table netdev t { chain c { type filter hook ingress devices = { lo } priority 0; meta l4proto udp drop\n}\n}",
    ) else {
        return;
    };
    let hook = ruleset.chains[0].hook.as_ref().unwrap();
    assert_eq!((hook.point, hook.devices.as_slice()), (Point::Ingress, &["lo".to_owned()][..]));
}
