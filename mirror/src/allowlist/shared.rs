//! A list that is replaced while packets are judged by it.

use super::Allowlist;
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;

/// The list in force. Readers never wait, neither for each other nor for whoever replaces it.
#[derive(Debug)]
pub struct Shared(ArcSwap<Allowlist>);

impl Shared {
    /// Puts a first list in force.
    pub fn new(list: Allowlist) -> Self {
        Self(ArcSwap::from_pointee(list))
    }

    /// Returns the list in force now, to judge one batch of packets by. Whatever happens meanwhile, it stays as it is
    /// until it is let go; ask anew for the next batch. No lock and no allocation.
    pub fn whole(&self) -> Guard<Arc<Allowlist>> {
        self.0.load()
    }

    /// Puts another list in force for batches that begin from now on, and returns the one before it.
    pub fn replace(&self, list: Allowlist) -> Arc<Allowlist> {
        self.0.swap(Arc::new(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    /// A list in which one owner, named by `generation`, has all the addresses.
    fn list(generation: usize, addresses: usize) -> Allowlist {
        let addresses: Vec<_> =
            (0..addresses).map(|n| format!("\"198.18.{}.{}\"", n / 256, n % 256)).collect();
        let json = format!(
            r#"{{"organisations":[{{"name":"{generation}","addresses":[{}]}}]}}"#,
            addresses.join(",")
        );
        Allowlist::parse(&json).unwrap()
    }

    #[test]
    fn every_batch_is_judged_by_one_whole_list() {
        const LISTS: usize = 200;
        const ADDRESSES: usize = 256;
        let shared = Shared::new(list(0, ADDRESSES));
        let (done, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut newest, mut seen) = (0, std::collections::BTreeSet::new());
                        let mut last_turn = false;
                        while !last_turn {
                            last_turn = done.load(Ordering::Acquire);
                            let whole = shared.whole();
                            let judged_by = |n: usize| {
                                let address = [198, 18, 0, n as u8].into();
                                let owner = whole.owner(address).expect("on every list");
                                whole.name(owner).parse::<usize>().unwrap()
                            };
                            let first = judged_by(0);
                            // Every packet of the batch sees the list that the first one saw.
                            for n in 0..ADDRESSES {
                                assert_eq!(judged_by(n), first);
                            }
                            assert!(first >= newest, "no older list comes back");
                            newest = first;
                            if seen.insert(first) && seen.len() == 1 {
                                begun.fetch_add(1, Ordering::Release);
                            }
                        }
                        (newest, seen.len())
                    })
                })
                .collect();
            while begun.load(Ordering::Acquire) < workers.len() && !workers.iter().any(|w| w.is_finished()) {
                thread::yield_now();
            }
            for generation in 1..=LISTS {
                let before = shared.replace(list(generation, ADDRESSES));
                let owner = before.owner([198, 18, 0, 0].into()).unwrap();
                assert_eq!(before.name(owner), (generation - 1).to_string());
            }
            done.store(true, Ordering::Release);
            for worker in workers {
                let (newest, lists) = worker.join().unwrap();
                assert_eq!(newest, LISTS, "the last list is in force in the end");
                assert!(lists >= 2, "the lists changed under the worker");
            }
        });
    }
}
