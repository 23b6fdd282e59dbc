//! What packets are held against. It is replaced as a whole when the configuration is read again.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::allowlist::Allowlist;
use crate::inner::Inner;
use crate::nat::{Rule, Rules};
use crate::reason::DropReason;
use crate::snapshot::RuleCount;
use crate::tunnel::Tunnels;

/// Tunnels, allowlist and rules that belong together.
#[derive(Debug)]
pub struct Judgement {
    /// The tunnels that are expected.
    pub tunnels: Tunnels,
    /// Whose packets are sent on; everybody's if there is none.
    pub allowlist: Option<Allowlist>,
    rules: Rules,
    /// As long as the rules.
    tallies: Vec<Arc<Tally>>,
}

/// Counts what a rule has translated. Several workers add.
#[derive(Debug, Default)]
struct Tally {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Judgement {
    /// Joins the parts. A rule that `before` has too, by its name, goes on counting from there.
    pub fn new(tunnels: Tunnels, allowlist: Option<Allowlist>, rules: Rules, before: Option<&Self>) -> Self {
        let known = |name: &str| {
            let before = before?;
            let (id, _) = before.rules.iter().find(|(_, rule)| rule.name == name)?;
            before.tallies.get(id.index()).cloned()
        };
        let tallies = rules.iter().map(|(_, rule)| known(&rule.name).unwrap_or_default()).collect();
        Self { tunnels, allowlist, rules, tallies }
    }

    /// Returns the rule that says where a packet goes, and counts it there.
    ///
    /// # Errors
    /// Its source is not allowed, or no rule matches.
    pub fn judge(&self, inner: &Inner) -> Result<&Rule, DropReason> {
        let is_allowed =
            |source: IpAddr| self.allowlist.as_ref().is_none_or(|list| list.owner(source).is_some());
        if !is_allowed(inner.source) {
            return Err(DropReason::NotAllowed);
        }
        let id = self.rules.find(inner).ok_or(DropReason::NoRule)?;
        if let Some(tally) = self.tallies.get(id.index()) {
            tally.packets.fetch_add(1, Ordering::Relaxed);
            tally.bytes.fetch_add(inner.length as u64, Ordering::Relaxed);
        }
        self.rules.rule(id).ok_or(DropReason::NoRule)
    }

    /// Returns what each rule has translated.
    pub fn counts(&self) -> Vec<RuleCount> {
        let count = |((_, rule), tally): ((_, &Rule), &Arc<Tally>)| RuleCount {
            name: rule.name.clone(),
            packets: tally.packets.load(Ordering::Relaxed),
            bytes: tally.bytes.load(Ordering::Relaxed),
        };
        self.rules.iter().zip(&self.tallies).map(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use arc_swap::ArcSwap;
    use arc_swap::cache::Cache;

    use super::*;
    use crate::inner::Transport;
    use crate::nat::Matching;
    use crate::tunnel::{Kind, Listening};

    const BOTH: [[u8; 4]; 2] = [[198, 51, 100, 1], [203, 0, 113, 1]];

    /// One that allows the one address or the other, and translates to that same address.
    fn judgement(index: usize, before: Option<&Judgement>) -> Judgement {
        let tunnels = Tunnels::new(&[Listening { kind: Kind::Vxlan, port: 4789, vnis: vec![] }]).unwrap();
        let [a, b, c, d] = BOTH[index];
        let json = format!(r#"{{"organisations":[{{"name":"one","addresses":["{a}.{b}.{c}.{d}"]}}]}}"#);
        let rule = Rule {
            name: format!("rule {index}"),
            matching: Matching::default(),
            to: (BOTH[index].into(), None),
            from: None,
            replies: false,
        };
        let rules = Rules::new(vec![rule]).unwrap();
        Judgement::new(tunnels, Some(Allowlist::parse(&json).unwrap()), rules, before)
    }

    fn packet_from(source: [u8; 4]) -> Inner {
        Inner {
            source: source.into(),
            destination: [192, 0, 2, 1].into(),
            transport: Transport::Udp,
            source_port: 1,
            destination_port: 2,
            upper: 20,
            length: 100,
            hop_limit: 64,
        }
    }

    #[test]
    fn a_packet_is_judged_by_list_and_rules_that_belong_together() {
        let shared = Arc::new(ArcSwap::from_pointee(judgement(0, None)));
        let (done, allowed) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
        thread::scope(|scope| {
            let judge = || {
                let mut cache = Cache::new(&*shared);
                while !done.load(Ordering::Acquire) {
                    for (index, source) in BOTH.into_iter().enumerate() {
                        match cache.load().judge(&packet_from(source)) {
                            Ok(rule) => {
                                assert_eq!(rule.to.0, IpAddr::from(source), "the rule is of another list");
                                allowed[index].fetch_add(1, Ordering::Relaxed);
                            }
                            Err(reason) => assert_eq!(reason, DropReason::NotAllowed),
                        }
                    }
                }
            };
            let worker = scope.spawn(judge);
            let mut turns = 0;
            while !worker.is_finished()
                && (turns < 500 || allowed.iter().any(|n| n.load(Ordering::Relaxed) == 0))
            {
                turns += 1;
                shared.store(Arc::new(judgement(turns % 2, None)));
            }
            done.store(true, Ordering::Release);
            worker.join().unwrap();
        });
    }

    #[test]
    fn a_rule_that_stays_goes_on_counting() {
        let first = judgement(0, None);
        first.judge(&packet_from(BOTH[0])).unwrap();
        assert_eq!(first.judge(&packet_from(BOTH[1])).unwrap_err(), DropReason::NotAllowed);
        let count = |name: &str, packets| RuleCount { name: name.to_owned(), packets, bytes: 100 * packets };
        assert_eq!(first.counts(), [count("rule 0", 1)]);
        let same = judgement(0, Some(&first));
        same.judge(&packet_from(BOTH[0])).unwrap();
        assert_eq!(same.counts(), [count("rule 0", 2)]);
        assert_eq!(judgement(1, Some(&first)).counts(), [count("rule 1", 0)]);
    }
}
