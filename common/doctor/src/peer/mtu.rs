//! The largest packet that a way takes, and whether anybody says so.

use std::time::Duration;

use super::course::{Course, Volley, Way};
use super::order::Order;
use super::station::BATCH;

/// Every size is sent so often at a time, and oftener if much gets lost, so that a lossy path is not taken for a narrow one.
const COPIES: usize = 4;
/// Sizes at a time.
const SIZES: usize = 16;
/// Looks at most: some to find a limit, others to make sure of it.
const LOOKS: usize = 12;
/// How late a packet may be, and an ICMP error.
const SLACK: Duration = Duration::from_millis(300);
/// The MTU that every link has: of IPv4 what every host must take (RFC 1122 §3.3.3), of IPv6 RFC 8200 §5.
const LEAST: (u16, u16) = (576, 1280);
/// What links and tunnels usually take.
const USUAL: [u16; 13] = [9001, 9000, 8500, 4352, 1500, 1492, 1480, 1476, 1460, 1450, 1420, 1400, 1280];

/// What was found of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mtu {
    /// Which.
    pub(super) way: Way,
    /// The largest packet in bytes that the sender's interface takes.
    pub(super) interface: u16,
    /// The largest that came; none if none did.
    pub(super) largest: Option<u16>,
    /// The smallest that is known to vanish; none if none does.
    pub(super) vanishing: Option<u16>,
    /// The least MTU that a router told of.
    pub(super) told: Option<u32>,
}

impl Mtu {
    fn new(way: Way, interface: u16) -> Self {
        Self { way, interface, largest: None, vanishing: None, told: None }
    }

    /// Takes note of sizes that have come and of those that have not. One that came by luck outweighs a smaller that did not.
    fn learn(&mut self, come: impl Iterator<Item = u16>, lost: impl Iterator<Item = u16>) {
        self.largest = self.largest.max(come.max());
        let beyond = |size: &u16| self.largest.is_none_or(|largest| *size > largest);
        self.vanishing = self.vanishing.into_iter().chain(lost).filter(beyond).min();
    }

    /// Returns what to try next, none if all is known.
    fn next(&self) -> Vec<u16> {
        let (Some(largest), Some(vanishing)) = (self.largest, self.vanishing) else { return Vec::new() };
        let gap = usize::from(vanishing - largest);
        let told = self.told.and_then(|told| u16::try_from(told).ok()).into_iter();
        let told = told.flat_map(|told| [told, told.saturating_add(1)]);
        let even = (1..SIZES - 1).map(|step| largest + (gap * step / (SIZES - 1)) as u16);
        let mut sizes: Vec<_> =
            told.chain(even).filter(|size| *size > largest && *size < vanishing).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Tells whether packets vanish and nobody says so.
    pub(super) fn is_black_hole(&self) -> bool {
        match (self.largest, self.vanishing) {
            (Some(largest), Some(_)) => self.told.is_none_or(|told| told > u32::from(largest)),
            _ => false,
        }
    }
}

/// Finds out how large a packet may be, by segments like `data`.
///
/// # Errors
/// In words, what one of the ends can't do.
pub(super) fn measure(course: &mut Course, way: Way, data: Order) -> Result<Mtu, String> {
    let least = if course.is_ipv4() { LEAST.0 } else { LEAST.1 };
    let mut mtu = Mtu::new(way, course.mtu(way));
    // No larger than the interface: its own kernel says what is.
    let mut sizes = vec![mtu.interface, least.min(mtu.interface)];
    sizes.extend(USUAL.into_iter().filter(|size| *size > least && *size < mtu.interface));
    let mut confirmed = None;
    for _ in 0..LOOKS {
        if sizes.is_empty() {
            match mtu.vanishing {
                // By itself, lest the others have filled a queue.
                Some(size) if mtu.is_black_hole() && confirmed != Some(size) => sizes.push(size),
                None if mtu.largest.is_some_and(|largest| largest < mtu.interface) => {
                    sizes.push(mtu.interface);
                }
                _ => break,
            }
            confirmed = mtu.vanishing;
        }
        look(course, &mut mtu, data, &sizes)?;
        sizes = mtu.next();
    }
    Ok(mtu)
}

fn look(course: &mut Course, mtu: &mut Mtu, data: Order, sizes: &[u16]) -> Result<(), String> {
    // One after the other, and again: what is lost is often lost in a row.
    let copies = course.copies(COPIES);
    let all = sizes.iter().cycle().take(sizes.len() * copies);
    let orders: Vec<_> = all.map(|&length| course.numbered(Order { length, ..data })).collect();
    let mut volley = Volley::default();
    let mut told = Vec::new();
    for orders in orders.chunks(BATCH) {
        volley.extend(course.fire(mtu.way, 0, orders, SLACK)?);
        told.extend(course.complaints(mtu.way)?);
    }
    mtu.told = mtu.told.into_iter().chain(told.into_iter().filter(|told| *told > 0)).min();
    let orders: Vec<_> = orders.into_iter().filter(|order| !volley.unsent.has(order.number)).collect();
    let (come, lost): (Vec<&Order>, Vec<&Order>) = orders.iter().partition(|order| volley.has(order.number));
    mtu.interface = mtu.interface.min(least_too_large(sizes, &orders));
    let lost = lost.iter().filter(|lost| !come.iter().any(|come| come.length == lost.length));
    mtu.learn(come.iter().map(|order| order.length), lost.map(|order| order.length));
    Ok(())
}

/// Returns the largest size that was sent, if others were too large for the interface.
fn least_too_large(sizes: &[u16], sent: &[Order]) -> u16 {
    let is_sent = |size: &&u16| sent.iter().any(|order| order.length == **size);
    if sizes.iter().all(|size| is_sent(&size)) {
        return u16::MAX;
    }
    sizes.iter().filter(is_sent).max().copied().unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(interface: u16, limit: u16, told: Option<u32>) -> (Mtu, usize) {
        let mut mtu = Mtu::new(Way::Out, interface);
        let mut sizes = vec![interface, 576];
        sizes.extend(USUAL.into_iter().filter(|size| *size < interface));
        for look in 0.. {
            if sizes.is_empty() {
                return (mtu, look);
            }
            assert!(sizes.len() <= SIZES);
            let (come, lost): (Vec<_>, Vec<_>) = sizes.iter().copied().partition(|size| *size <= limit);
            if !lost.is_empty() {
                mtu.told = told;
            }
            mtu.learn(come.into_iter(), lost.into_iter());
            sizes = mtu.next();
        }
        unreachable!()
    }

    proptest! {
        #[test]
        fn finds_the_limit_in_a_few_looks(interface in 1000u16..=9216, limit in 576u16..9300) {
            let (mtu, looks) = found(interface, limit, None);
            prop_assert!(looks <= 6, "{looks}");
            prop_assert_eq!(mtu.largest, Some(limit.min(interface)));
            prop_assert_eq!(mtu.is_black_hole(), limit < interface);
            let (mtu, looks) = found(interface, limit, Some(limit.into()));
            prop_assert!(looks <= 2 && !mtu.is_black_hole());
        }
    }

    #[test]
    fn a_router_that_tells_too_much_does_not_help() {
        assert!(found(1500, 1300, Some(1400)).0.is_black_hole());
        assert!(!found(1500, 1300, Some(1300)).0.is_black_hole());
    }
}
