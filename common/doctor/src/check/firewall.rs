//! Netfilter: rules that have dropped, and what certainly will.

use std::collections::{BTreeMap, HashSet};

use crate::causes;
use crate::finding::{Finding, Layer, Rank};
use crate::look::drops::Dropped;
use crate::look::firewall::{BaseChain, Firewall, Suspect, Trouble};
use crate::look::interval::Interval;
use crate::patient::Patient;
use crate::report::Report;

/// What the kernel calls a packet that netfilter has dropped.
const REASON: &str = "NETFILTER_DROP";
/// Suspects that are named at most; the command lists all.
const NAMED: usize = 8;

/// Judges the rules as they stand: a host that is to forward, and whose firewall lets nothing be forwarded.
pub fn set_up(patient: &Patient, firewall: &Firewall, report: &mut Report) {
    match &firewall.trouble {
        Some(Trouble::NoTables) => report.note("nftables", "not in this kernel"),
        Some(Trouble::Refused(why)) => {
            report
                .is_blind_to("rules of nftables", format!("the kernel refuses: {why}; needs CAP_NET_ADMIN"));
        }
        None => {
            let rules: usize = firewall.chains.iter().map(|chain| chain.suspects.len()).sum();
            let chains = firewall.chains.len();
            report.note("nftables", format!("{chains} chains at hooks, {rules} rules that drop or reject"));
        }
    }
    if !firewall.legacy_tables.is_empty() {
        let tables = firewall.legacy_tables.join(", ");
        report.cannot_see(
            format!("rules of legacy iptables ({tables})"),
            "only their own program can list them: iptables-legacy-save -c, ip6tables-legacy-save -c",
        );
    }
    if patient.role.forwards() {
        let closed =
            firewall.suspects(Layer::Forward, "").filter(|chain| chain.policy_drops && !chain.accepts);
        for chain in closed.filter(|chain| matches!(chain.family, "inet" | "ip" | "ip6")) {
            let finding =
                Finding::new(&causes::FIREWALL_DROP, Layer::Forward, Rank::Fault).of(chain.title()).because(
                    format!("chain {} drops by its policy, and none of its rules accepts", chain.title()),
                );
            report.find(advise(finding, chain, None));
        }
    }
}

/// Judges what rules have done meanwhile.
pub fn judge(interval: &Interval, report: &mut Report) {
    let (before, after) = (&interval.before.firewall, &interval.after.firewall);
    let mut counted = Vec::new();
    for (chain, suspect, packets) in grown(before, after) {
        counted.push((chain.layer, packets));
        report.find(dropped_by_rule(chain, suspect, packets));
    }
    let Ok(drops) = &interval.drops else { return };
    // Connection tracking drops at its own hooks, and no rule is to blame.
    if after.is_conntrack_full {
        return;
    }
    let mut by_layer: BTreeMap<Option<Layer>, Vec<&Dropped>> = BTreeMap::new();
    for dropped in drops.iter().filter(|dropped| dropped.reason == REASON) {
        by_layer.entry(hook_of(dropped)).or_default().push(dropped);
    }
    for (layer, dropped) in by_layer {
        let total: u64 = dropped.iter().map(|dropped| dropped.packets).sum();
        let counted = counted.iter().filter(|(at, _)| layer.is_none_or(|layer| layer == *at));
        let counted: u64 = counted.map(|(_, packets)| packets).sum();
        let uncounted = total.saturating_sub(counted);
        if uncounted > 0
            && let Some(finding) = uncounted_drops(after, layer, &dropped, uncounted)
        {
            report.find(finding);
        }
    }
}

/// Returns the hook at which netfilter dropped, by the nearest function that calls one.
fn hook_of(dropped: &Dropped) -> Option<Layer> {
    dropped.location.iter().chain(&dropped.callers).find_map(|function| {
        // The compiler's variants of a function have a suffix.
        Some(match function.split('.').next()? {
            "ip_rcv" | "ipv6_rcv" | "ip_list_rcv" | "ipv6_list_rcv" | "ip_sublist_rcv" => Layer::Prerouting,
            "ip_local_deliver" | "ip6_input" => Layer::Input,
            "ip_forward" | "ip6_forward" => Layer::Forward,
            "__ip_local_out" | "ip_local_out" | "__ip6_local_out" | "ip6_local_out" | "ip6_xmit" => {
                Layer::Output
            }
            "ip_output" | "ip6_output" | "ip_mc_output" => Layer::Postrouting,
            "__netif_receive_skb_core" => Layer::NetdevIngress,
            "__dev_queue_xmit" => Layer::NetdevEgress,
            _ => return None,
        })
    })
}

/// Returns the rules that have counted packets since, each once though several hooks may lead to it.
pub fn grown<'a>(before: &Firewall, after: &'a Firewall) -> Vec<(&'a BaseChain, &'a Suspect, u64)> {
    let mut grown = Vec::new();
    let (counters, mut seen) = (before.counters(), HashSet::new());
    for chain in &after.chains {
        for suspect in &chain.suspects {
            let Some(now) = suspect.counter else { continue };
            let key = (chain.family, chain.table.as_str(), suspect.handle);
            let earlier = counters.get(&key).copied().unwrap_or(0);
            let packets = now.checked_sub(earlier).unwrap_or(now);
            if packets > 0 && seen.insert(key) {
                grown.push((chain, suspect, packets));
            }
        }
    }
    grown
}

/// Makes the finding of a rule that has dropped, by its own count.
pub fn dropped_by_rule(chain: &BaseChain, suspect: &Suspect, packets: u64) -> Finding {
    let (cause, layer) = match suspect.is_of_invalid {
        true => (&causes::CONNTRACK_INVALID, Layer::Conntrack),
        false => (&causes::FIREWALL_DROP, chain.layer),
    };
    let rule = chain.rule_title(suspect);
    let finding = Finding::new(cause, layer, Rank::Loss).of(&rule).losing(packets).because(format!(
        "rule {rule} at {} matched {packets} packets meanwhile: {}",
        chain.layer, suspect.text
    ));
    advise(finding, chain, Some(suspect))
}

/// Finds out who has dropped without counting: the only hook that can have, or the likeliest.
fn uncounted_drops(
    firewall: &Firewall,
    layer: Option<Layer>,
    dropped: &[&Dropped],
    packets: u64,
) -> Option<Finding> {
    let may: Vec<&BaseChain> = firewall.chains.iter().filter(|chain| drops_uncounted(chain)).collect();
    // Without the caller's name: what has no device yet is at the output hook.
    let is_output = dropped.iter().all(|dropped| dropped.interface == 0);
    let fits = |chain: &&BaseChain| match layer {
        Some(layer) => chain.layer == layer,
        None => !is_output || chain.layer == Layer::Output,
    };
    let fitting: Vec<&BaseChain> = may.iter().copied().filter(fits).collect();
    let candidates = if fitting.is_empty() { may } else { fitting };
    let likeliest = candidates.iter().min_by_key(|chain| likelihood(chain.layer))?;
    let here: Vec<&BaseChain> =
        candidates.iter().copied().filter(|chain| chain.layer == likeliest.layer).collect();
    let mut finding = accused(&here, packets)?
        .because(format!("the kernel dropped {packets} packets with the reason {REASON}"));
    for other in candidates.iter().filter(|chain| chain.layer != likeliest.layer).take(NAMED) {
        finding = finding.because(format!("it may also have been {} at {}", other.title(), other.layer));
    }
    Some(finding)
}

fn drops_uncounted(chain: &BaseChain) -> bool {
    chain.policy_drops || chain.suspects.iter().any(|suspect| suspect.counter.is_none())
}

/// Which hook is looked at first when several may have dropped.
fn likelihood(layer: Layer) -> u8 {
    match layer {
        Layer::Forward => 0,
        Layer::Input => 1,
        Layer::Output => 2,
        Layer::Prerouting => 3,
        Layer::Postrouting => 4,
        _ => 5,
    }
}

/// Makes the finding that packets have vanished at a hook where these chains may drop; `None` without any. A rule that
/// is the only one is named, else the first chain.
pub fn accused(chains: &[&BaseChain], packets: u64) -> Option<Finding> {
    let first = *chains.first()?;
    let sole = match (chains, &first.suspects[..], first.policy_drops) {
        ([_], [suspect], false) => Some(suspect),
        _ => None,
    };
    let (cause, layer) = match sole {
        Some(suspect) if suspect.is_of_invalid => (&causes::CONNTRACK_INVALID, Layer::Conntrack),
        _ => (&causes::FIREWALL_DROP, first.layer),
    };
    let subject = sole.map_or_else(|| first.title(), |suspect| first.rule_title(suspect));
    let mut finding = Finding::new(cause, layer, Rank::Loss).of(subject).losing(packets);
    for words in chains.iter().flat_map(|chain| chain.suspects_in_words()).take(NAMED) {
        finding = finding.because(format!("may drop at {}: {words}", first.layer));
    }
    Some(advise(finding, first, sole))
}

fn advise(finding: Finding, chain: &BaseChain, suspect: Option<&Suspect>) -> Finding {
    let BaseChain { family, table, .. } = chain;
    let finding = finding.seen_by(format!("nft -a list table {family} {table}"));
    finding.mended_by(match suspect {
        Some(suspect) if suspect.is_of_invalid => format!(
            "find out why connection tracking sees half of the conversation (two ways, or packets re-sent around it); \
             until then: nft delete rule {family} {table} {} handle {}",
            suspect.chain, suspect.handle
        ),
        Some(suspect) => format!(
            "accept what is meant to pass before it, or: nft delete rule {family} {table} {} handle {}",
            suspect.chain, suspect.handle
        ),
        None => format!(
            "accept what is meant to pass: nft insert rule {family} {table} {} … accept (and in every other chain of \
             the hook that drops)",
            chain.name
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rtt0_netio::ruleset_dump::{Point, Ruleset, Verdict};

    use super::*;
    use crate::look::counters::Counters;
    use crate::look::firewall::tests::{chain, rule};
    use crate::patient::{Patient, Role};

    fn firewall(counter: Option<u64>, policy: bool, point: Point) -> Firewall {
        Firewall::of(&Ruleset {
            chains: vec![chain("c", Some((point, policy)))],
            rules: vec![rule("c", 1, counter, Verdict::Drop)],
        })
    }

    fn interval(before: Firewall, after: Firewall, drops: Vec<Dropped>) -> Interval {
        let counters = |firewall| Counters { firewall, ..Counters::default() };
        Interval {
            before: counters(before),
            after: counters(after),
            elapsed: Duration::from_secs(1),
            drops: Ok(drops),
        }
    }

    fn dropped(interface: u32, packets: u64) -> Dropped {
        Dropped { reason: REASON.to_owned(), interface, protocol: 17, packets, ..Dropped::default() }
    }

    fn judged(interval: &Interval) -> Vec<(&'static str, Layer, u64)> {
        let mut report = Report::default();
        judge(interval, &mut report);
        report.findings().iter().map(|finding| (finding.cause.id, finding.layer, finding.lost)).collect()
    }

    #[test]
    fn a_rule_that_counts_gives_itself_away() {
        let [before, after] = [3, 10].map(|count| firewall(Some(count), false, Point::Input));
        assert_eq!(judged(&interval(before.clone(), after, vec![])), [("firewall-drop", Layer::Input, 7)]);
        assert!(judged(&interval(before.clone(), before, vec![])).is_empty());
    }

    #[test]
    fn without_counters_the_only_hook_is_it() {
        for (point, layer, interface) in
            [(Point::Output, Layer::Output, 0), (Point::Egress, Layer::NetdevEgress, 2)]
        {
            let silent = firewall(None, false, point);
            let interval = interval(silent.clone(), silent, vec![dropped(interface, 4)]);
            assert_eq!(judged(&interval), [("firewall-drop", layer, 4)]);
        }
    }

    #[test]
    fn the_kernels_callers_tell_the_hook() {
        let mut silent = firewall(None, false, Point::Input);
        silent.chains.extend(firewall(None, false, Point::Postrouting).chains);
        let callers = ["nf_hook_slow", "ip_output.cold", "ip_rcv"].map(str::to_owned).to_vec();
        let drops = vec![Dropped { callers, ..dropped(3, 6) }];
        let findings = judged(&interval(silent.clone(), silent, drops));
        assert_eq!(findings, [("firewall-drop", Layer::Postrouting, 6)]);
    }

    #[test]
    fn a_rule_that_has_not_dropped_is_at_work_and_nothing_more() {
        let silent = firewall(None, true, Point::Input);
        assert!(judged(&interval(silent.clone(), silent, vec![])).is_empty());
    }

    #[test]
    fn what_is_counted_is_not_told_twice() {
        let [before, after] = [0, 4].map(|count| firewall(Some(count), false, Point::Forward));
        let findings = judged(&interval(before, after, vec![dropped(1, 4)]));
        assert_eq!(findings, [("firewall-drop", Layer::Forward, 4)]);
    }

    #[test]
    fn the_rule_for_invalid_packets_has_a_cause_of_its_own() {
        let [mut before, mut after] = [0, 4].map(|count| firewall(Some(count), false, Point::Forward));
        for firewall in [&mut before, &mut after] {
            firewall.chains[0].suspects[0].is_of_invalid = true;
        }
        let findings = judged(&interval(before, after, vec![]));
        assert_eq!(findings, [("conntrack-invalid", Layer::Conntrack, 4)]);
    }

    #[test]
    fn a_full_table_of_connections_is_nobodys_rule() {
        let mut silent = firewall(None, true, Point::Input);
        silent.is_conntrack_full = true;
        assert!(judged(&interval(silent.clone(), silent, vec![dropped(1, 4)])).is_empty());
    }

    #[test]
    fn a_forwarding_host_must_accept_something() {
        let closed = firewall(None, true, Point::Forward);
        for (role, findings) in [(Role::Host, 0), (Role::ClientNic, 1)] {
            let patient = Patient { role, ..Patient::host(vec!["lo".to_owned()]) };
            let mut report = Report::default();
            set_up(&patient, &closed, &mut report);
            assert_eq!(report.findings().len(), findings);
        }
    }
}
