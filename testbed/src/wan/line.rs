//! One direction of the long leg, without sockets, threads or clock.
//!
//! Time is the caller's: a [`Duration`] since any fixed origin. A frame goes in with
//! [`Line::push`], waits, and comes out of [`Line::pop`] once [`Line::next_due`] has passed.
//!
//! ```text
//! push ─► saboteur ─► lost? ─► serialised at the rate ─► delay ± jitter ─┬─► in order ───┐
//!                                (backlog bounded)                         └─► straggler ──┴─► pop
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use super::Path;
use super::fate::{Fate, Saboteur, decide, substitute};
use super::port::VNET_HEADER;

/// Most frames a direction holds; more are dropped and counted as overflow.
const MAX_FRAMES: usize = 200_000;
/// Most bytes a direction holds.
const MAX_BYTES: usize = 128 << 20;
/// Longest wait for the serialiser when the rate is limited (a router's buffer).
const MAX_BACKLOG: Duration = Duration::from_millis(100);
/// How much longer than its peers a straggler is on its way, at least and at most.
const HOLD: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));

/// What one direction has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames that entered.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Frames lost by intent.
    pub lost: u64,
    /// Frames that a saboteur did not let pass as any other: lost, late or replaced.
    pub sabotaged: u64,
    /// Frames that were given a twin.
    pub duplicated: u64,
    /// Frames held back so that others overtake them.
    pub reordered: u64,
    /// Frames dropped because the line or its serialiser was full.
    pub overflow: u64,
    /// Frames that the far device refused.
    pub refused: u64,
}

/// Frames on their way in one direction.
pub(super) struct Line {
    path: Path,
    saboteur: Option<Saboteur>,
    random: Random,
    ordered: VecDeque<(Duration, Vec<u8>)>,
    stragglers: BTreeMap<(Duration, u64), Vec<u8>>,
    /// Frames that were stragglers: tells apart those that are due at the same time.
    straggled: u64,
    held_bytes: usize,
    serialiser_free: Duration,
    last_due: Duration,
    counters: Counters,
    lateness: Lateness,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("path", &self.path)
            .field("held_bytes", &self.held_bytes)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Line {
    /// Makes an empty line. `salt` makes the two directions' fates differ.
    pub(super) fn new(path: Path, salt: u64) -> Self {
        Self {
            path,
            saboteur: None,
            random: Random(path.seed ^ salt),
            ordered: VecDeque::new(),
            stragglers: BTreeMap::new(),
            straggled: 0,
            held_bytes: 0,
            serialiser_free: Duration::ZERO,
            last_due: Duration::ZERO,
            counters: Counters::default(),
            lateness: Lateness::default(),
        }
    }

    /// Changes the fate of frames that enter from now on. Those under way keep theirs, and are
    /// not overtaken by later ones even if the path became shorter.
    pub(super) fn set_path(&mut self, path: Path, salt: u64) {
        if path.seed != self.path.seed {
            self.random = Random(path.seed ^ salt);
        }
        self.path = path;
    }

    /// Sets who decides on frames before the path's own dice do.
    pub(super) fn set_saboteur(&mut self, saboteur: Option<Saboteur>) {
        self.saboteur = saboteur;
    }

    /// Takes in a frame that arrived at `now`, of which `link_bytes` count on the wire.
    pub(super) fn push(&mut self, now: Duration, mut frame: Vec<u8>, link_bytes: usize) {
        self.counters.packets += 1;
        self.counters.bytes += link_bytes as u64;
        let fate = self.saboteur.as_mut().map_or(Fate::Keep, |saboteur| decide(saboteur, &mut frame));
        if fate != Fate::Keep {
            self.counters.sabotaged += 1;
        }
        match fate {
            Fate::Keep => self.carry(now, frame, link_bytes, None),
            Fate::Lose => {}
            Fate::Late(by) => self.carry(now, frame, link_bytes, Some(by)),
            Fate::Instead(packets) => {
                for packet in packets {
                    let new = substitute(&frame, &packet);
                    let link_bytes = new.len() - VNET_HEADER;
                    self.carry(now, new, link_bytes, None);
                }
            }
        }
    }

    /// Puts a frame on its way unless it gets lost; `late` makes it a straggler.
    fn carry(&mut self, now: Duration, frame: Vec<u8>, link_bytes: usize, late: Option<Duration>) {
        if self.random.hits(self.path.loss) {
            self.counters.lost += 1;
            return;
        }
        if !self.has_room(frame.len()) {
            self.counters.overflow += 1;
            return;
        }
        let Some(sent) = self.serialise(now, link_bytes) else {
            self.counters.overflow += 1;
            return;
        };
        let due = sent + self.delay();
        self.held_bytes += frame.len();
        let reordered = self.random.hits(self.path.reorder);
        self.counters.reordered += u64::from(reordered);
        let late = late.or_else(|| reordered.then(|| self.random.between(HOLD.0, HOLD.1)));
        if let Some(late) = late {
            self.stragglers.insert((due + late, self.straggled), frame);
            self.straggled += 1;
            return;
        }
        let due = due.max(self.last_due);
        self.last_due = due;
        if self.random.hits(self.path.duplicate) && self.has_room(frame.len()) {
            self.counters.duplicated += 1;
            self.held_bytes += frame.len();
            self.ordered.push_back((due, frame.clone()));
        }
        self.ordered.push_back((due, frame));
    }

    /// Returns when the next frame is to come out.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let ordered = self.ordered.front().map(|(due, _)| *due);
        let straggler = self.stragglers.first_key_value().map(|((due, _), _)| *due);
        match (ordered, straggler) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes out the next frame if it is due at `now`.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        let due = self.next_due().filter(|due| *due <= now)?;
        let frame = match self.ordered.front() {
            Some((at, _)) if *at == due => self.ordered.pop_front().map(|(_, frame)| frame),
            _ => self.stragglers.pop_first().map(|(_, frame)| frame),
        }?;
        self.held_bytes -= frame.len();
        self.lateness.record(now - due);
        Some(frame)
    }

    /// Counts frames that the far device did not take.
    pub(super) fn count_refused(&mut self, frames: u64) {
        self.counters.refused += frames;
    }

    /// Returns what was done so far.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns by how much frames came out too late.
    pub(super) fn lateness(&self) -> &Lateness {
        &self.lateness
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.ordered.len() + self.stragglers.len() < MAX_FRAMES && self.held_bytes + bytes <= MAX_BYTES
    }

    /// Returns when the frame's last bit has left, or nothing if too many wait already.
    fn serialise(&mut self, now: Duration, link_bytes: usize) -> Option<Duration> {
        let Some(rate) = self.path.rate_bits else { return Some(now) };
        let start = self.serialiser_free.max(now);
        if start - now > MAX_BACKLOG {
            return None;
        }
        let nanos = (link_bytes as u128 * 8 * 1_000_000_000) / u128::from(rate.max(1));
        // A minute for one frame: no useful rate is as low, and the clock must not overflow.
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX).min(60_000_000_000);
        self.serialiser_free = start + Duration::from_nanos(nanos);
        Some(self.serialiser_free)
    }

    fn delay(&mut self) -> Duration {
        let Path { one_way_delay, jitter, .. } = self.path;
        if jitter.is_zero() {
            return one_way_delay;
        }
        self.random.between(one_way_delay.saturating_sub(jitter), one_way_delay.saturating_add(jitter))
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, seedable and good enough for dice.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability. An impossible event costs no random number.
    fn hits(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.unit())
    }
}

/// A histogram of how late frames came out.
#[derive(Debug, Clone)]
pub struct Lateness {
    buckets: [u64; Self::BUCKETS],
    count: u64,
}

impl Lateness {
    const BUCKETS: usize = 1_000;
    const WIDTH: Duration = Duration::from_micros(5);

    fn record(&mut self, late: Duration) {
        let bucket = late.as_nanos() / Self::WIDTH.as_nanos();
        let bucket = usize::try_from(bucket).unwrap_or(Self::BUCKETS).min(Self::BUCKETS - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    /// Returns the lateness that the given share (0–1) of the frames did not exceed, to 5 µs;
    /// 5 ms stands for that and more. Nothing if no frame came out yet.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = (share.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Self::WIDTH * u32::try_from(bucket + 1).unwrap_or(u32::MAX))
    }
}

impl Default for Lateness {
    fn default() -> Self {
        Self { buckets: [0; Self::BUCKETS], count: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn path() -> Path {
        Path::with_rtt(50 * MS)
    }

    /// Pushes frames 0, 1, 2… one each `gap`, then drains: (when it came out, which).
    fn run(path: Path, frames: u32, gap: Duration, bytes: usize) -> (Line, Vec<(Duration, u32)>) {
        let mut line = Line::new(path, 0);
        let mut out = Vec::new();
        for number in 0..frames {
            let now = gap * number;
            drain(&mut line, now, &mut out);
            line.push(now, number.to_be_bytes().to_vec(), bytes);
        }
        drain(&mut line, Duration::from_secs(3600), &mut out);
        (line, out)
    }

    fn drain(line: &mut Line, until: Duration, out: &mut Vec<(Duration, u32)>) {
        while let Some(due) = line.next_due().filter(|due| *due <= until) {
            let frame = line.pop(due).unwrap();
            out.push((due, u32::from_be_bytes(frame.try_into().unwrap())));
        }
    }

    fn numbers(out: &[(Duration, u32)]) -> Vec<u32> {
        out.iter().map(|(_, number)| *number).collect()
    }

    #[test]
    fn a_clean_path_delays_and_does_nothing_else() {
        let (line, out) = run(path(), 1_000, MS, 100);
        let expected: Vec<_> = (0..1_000).map(|n| (MS * n + 25 * MS, n)).collect();
        assert_eq!(out, expected);
        assert_eq!(line.counters(), Counters { packets: 1_000, bytes: 100_000, ..Counters::default() });
        assert_eq!(line.held_bytes, 0);
    }

    #[test]
    fn nothing_comes_out_before_it_is_due() {
        let mut line = Line::new(path(), 0);
        line.push(MS, vec![7], 1);
        assert_eq!(line.pop(26 * MS - Duration::from_nanos(1)), None);
        assert_eq!(line.pop(26 * MS), Some(vec![7]));
        assert_eq!(line.next_due(), None);
    }

    #[test]
    fn loss_takes_the_given_share_and_repeats_with_its_seed() {
        let lossy = Path { loss: 0.1, ..path() };
        let (line, out) = run(lossy, 10_000, MS, 100);
        let lost = line.counters().lost;
        assert!((900..1_100).contains(&lost), "{lost}");
        assert_eq!(out.len() as u64, 10_000 - lost);
        assert_eq!(run(lossy, 10_000, MS, 100).1, out);
        assert_ne!(run(Path { seed: 2, ..lossy }, 10_000, MS, 100).1, out);
        assert_eq!(run(Path { loss: 1.0, ..path() }, 10, MS, 100).1, []);
    }

    /// A frame with an IP packet of one byte.
    fn ip(number: u8) -> Vec<u8> {
        let mut frame = vec![0; VNET_HEADER + 12];
        frame.extend([0x08, 0x00, number]);
        frame
    }

    #[test]
    fn a_saboteur_decides_on_single_frames() {
        let mut line = Line::new(path(), 0);
        line.set_saboteur(Some(Box::new(|packet| match packet.bytes {
            [2] => Fate::Lose,
            [3] => Fate::Late(MS * 3 / 2),
            [4] => Fate::Instead(vec![vec![40], vec![41]]),
            [5] => {
                packet.bytes[0] = 50;
                Fate::Keep
            }
            _ => Fate::Keep,
        })));
        for number in 1..=6 {
            line.push(MS * u32::from(number), ip(number), 15);
        }
        let passed: Vec<_> = std::iter::from_fn(|| line.pop(Duration::MAX)?.last().copied()).collect();
        assert_eq!((passed, line.counters().sabotaged), (vec![1, 40, 41, 3, 50, 6], 3));
        assert_eq!(line.held_bytes, 0);
    }

    #[test]
    fn jitter_spreads_the_delay_and_keeps_the_order() {
        let (_, out) = run(Path { jitter: 5 * MS, ..path() }, 10_000, MS, 100);
        assert_eq!(numbers(&out), (0..10_000).collect::<Vec<_>>());
        let delays: Vec<_> = out.iter().map(|(at, n)| *at - MS * *n).collect();
        let (least, most) = (*delays.iter().min().unwrap(), *delays.iter().max().unwrap());
        assert!((20 * MS..22 * MS).contains(&least), "{least:?}");
        assert!((28 * MS..30 * MS).contains(&most), "{most:?}");
    }

    #[test]
    fn reordering_holds_back_the_given_share() {
        let gap = Duration::from_micros(100);
        let (line, out) = run(Path { reorder: 0.05, ..path() }, 10_000, gap, 100);
        let held = line.counters().reordered;
        assert!((400..600).contains(&held), "{held}");
        let overtaken = out.windows(2).filter(|pair| pair[0].1 > pair[1].1).count() as u64;
        assert!(overtaken > held / 2, "{overtaken}");
        let mut sorted = numbers(&out);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn duplicates_follow_their_twins() {
        let (line, out) = run(Path { duplicate: 0.5, ..path() }, 1_000, MS, 100);
        let twins = out.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        assert_eq!(twins, line.counters().duplicated);
        assert!((400..600).contains(&twins), "{twins}");
        assert_eq!(out.len() as u64, 1_000 + twins);
    }

    #[test]
    fn a_rate_serialises_and_its_backlog_is_bounded() {
        // 1,250 bytes at 10 Mbit/s take 1 ms.
        let limited = Path { rate_bits: Some(10_000_000), ..path() };
        let (_, out) = run(limited, 50, Duration::ZERO, 1_250);
        let expected: Vec<_> = (0..50).map(|n| (MS * (n + 1) + 25 * MS, n)).collect();
        assert_eq!(out, expected);
        let (line, out) = run(limited, 500, Duration::ZERO, 1_250);
        assert_eq!(out.len(), 101);
        assert_eq!(line.counters().overflow, 399);
        let (line, _) = run(limited, 500, MS, 1_250);
        assert_eq!(line.counters().overflow, 0);
    }

    #[test]
    fn a_full_line_drops() {
        let mut line = Line::new(path(), 0);
        for _ in 0..MAX_FRAMES + 5 {
            line.push(Duration::ZERO, vec![0], 1);
        }
        assert_eq!(line.counters().overflow, 5);
        let mut line = Line::new(path(), 0);
        for _ in 0..10 {
            line.push(Duration::ZERO, vec![0; MAX_BYTES / 8], 1);
        }
        assert_eq!(line.counters().overflow, 2);
    }

    #[test]
    fn a_shorter_path_lets_nobody_overtake() {
        let mut line = Line::new(path(), 0);
        line.push(Duration::ZERO, vec![0, 0, 0, 0], 4);
        line.set_path(Path::with_rtt(2 * MS), 0);
        line.push(MS, vec![0, 0, 0, 1], 4);
        line.push(30 * MS, vec![0, 0, 0, 2], 4);
        let mut out = Vec::new();
        drain(&mut line, 100 * MS, &mut out);
        assert_eq!(out, [(25 * MS, 0), (25 * MS, 1), (31 * MS, 2)]);
    }

    #[test]
    fn lateness_is_the_callers_delay_in_popping() {
        let mut line = Line::new(path(), 0);
        assert_eq!(line.lateness().quantile(0.5), None);
        for late in [0, 12, 400, 90_000] {
            line.push(Duration::ZERO, vec![0], 1);
            line.pop(25 * MS + Duration::from_micros(late)).unwrap();
        }
        let micros = |share| line.lateness().quantile(share).unwrap().as_micros();
        assert_eq!((micros(0.25), micros(0.5), micros(0.75), micros(1.0)), (5, 15, 405, 5_000));
    }
}
