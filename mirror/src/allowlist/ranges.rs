//! Longest prefix match as a binary search: nested prefixes are cut into ranges that touch and never overlap.
//!
//! ```text
//!  prefixes   |--------------- A ---------------|
//!                     |--- B ---|
//!  ranges  –  |   A   |    B    |       A       |  –
//! ```
//!
//! The look-up is on every packet's way, and this was the fastest of what was measured: 10 ns with 324 prefixes and 35
//! ns with 100,000, where libraries that keep a trie took 24 to 47 ns and 315 to 650 ns.

use super::OwnerId;

/// A prefix as its first and its last address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) first: u128,
    pub(super) last: u128,
    pub(super) owner: OwnerId,
}

/// Ranges in order, from the first address of the family to its last. `K` is the address as a number: `u32` or `u128`.
#[derive(Debug)]
pub(super) struct Ranges<K> {
    /// Where each range begins; the first is 0. Apart from the owners, so that the search reads nothing else.
    starts: Box<[K]>,
    owners: Box<[Option<OwnerId>]>,
}

impl<K: Copy + Ord + TryFrom<u128>> Ranges<K> {
    /// Makes the ranges of spans that are each a prefix, no two of them the same one. Addresses that no `K` can be are
    /// left out: there is none if the spans are of the family.
    pub(super) fn new(mut spans: Vec<Span>) -> Self {
        // Outer prefixes before the inner ones that begin where they do.
        spans.sort_unstable_by_key(|span| (span.first, std::cmp::Reverse(span.last)));
        let mut cuts = Cuts(vec![(0, None)]);
        let mut around: Vec<Span> = Vec::new();
        for span in spans {
            while let Some(inner) = around.pop_if(|inner| inner.last < span.first) {
                cuts.end(inner, around.last());
            }
            cuts.at(span.first, Some(span.owner));
            around.push(span);
        }
        while let Some(inner) = around.pop() {
            cuts.end(inner, around.last());
        }
        let mut cuts = cuts.0;
        cuts.dedup_by_key(|(_, owner)| *owner);
        let known = cuts.into_iter().filter_map(|(start, owner)| Some((K::try_from(start).ok()?, owner)));
        let (starts, owners): (Vec<K>, Vec<_>) = known.unzip();
        Self { starts: starts.into(), owners: owners.into() }
    }

    /// Returns whose the address is.
    #[inline]
    pub(super) fn find(&self, address: K) -> Option<OwnerId> {
        let behind = self.starts.partition_point(|start| *start <= address);
        *self.owners.get(behind.wrapping_sub(1))?
    }

    /// Returns the bytes that the ranges take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.owners)
    }
}

/// Where another owner begins, in order.
struct Cuts(Vec<(u128, Option<OwnerId>)>);

impl Cuts {
    /// Has what follows `inner` belong to the prefix around it.
    fn end(&mut self, inner: Span, around: Option<&Span>) {
        // Nothing follows the last address of IPv6; what follows that of IPv4 is no address of it.
        if let Some(next) = inner.last.checked_add(1) {
            self.at(next, around.map(|span| span.owner));
        }
    }

    fn at(&mut self, start: u128, owner: Option<OwnerId>) {
        match self.0.last_mut() {
            Some(last) if last.0 == start => last.1 = owner,
            _ => self.0.push((start, owner)),
        }
    }
}
