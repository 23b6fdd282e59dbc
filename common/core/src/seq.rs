//! Sequence numbers (RFC 9293 §3.4), tagged with the number space they belong to.
//!
//! Three spaces meet in a middlebox that promises an initial sequence number before the server
//! has chosen one. Mixing them up is the classic bug, so each is a type of its own and
//! [`Delta`] is the only bridge. There is no `Ord`: sequence numbers wrap.

use std::marker::PhantomData;

/// The client's own space: never translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {}
/// The space the client was promised in the spoofed SYN-ACK (ISN `S`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promised {}
/// The space the server really uses (ISN `Y`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Real {}

/// A sequence number of space `S`, modulo 2³².
#[derive(Debug, PartialEq, Eq)]
pub struct Seq<S>(u32, PhantomData<S>);

impl<S> Clone for Seq<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Seq<S> {}

impl<S> Seq<S> {
    /// Takes a number read from the wire.
    pub const fn new(value: u32) -> Self {
        Self(value, PhantomData)
    }

    /// Returns the number for the wire.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the number `n` further on, wrapping.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self::new(self.0.wrapping_add(n))
    }

    /// Returns the number `n` before, wrapping.
    #[must_use]
    pub const fn minus(self, n: u32) -> Self {
        Self::new(self.0.wrapping_sub(n))
    }

    /// Returns how far `self` lies beyond `other`: −2³¹ ..= 2³¹−1.
    pub const fn beyond(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }
}

/// δ = S − Y: what turns a real sequence number into a promised one, modulo 2³².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta(u32);

impl Delta {
    /// Makes δ from the two initial sequence numbers.
    ///
    /// ```
    /// use rtt0_core::seq::{Delta, Seq};
    /// let delta = Delta::between(Seq::new(5), Seq::new(0xffff_fff0));
    /// assert_eq!(delta.to_promised(Seq::new(0xffff_fff1)).get(), 6);
    /// assert_eq!(delta.to_real(Seq::new(6)).get(), 0xffff_fff1);
    /// ```
    pub const fn between(promised: Seq<Promised>, real: Seq<Real>) -> Self {
        Self(promised.0.wrapping_sub(real.0))
    }

    /// Turns a number of the server's into what the client expects.
    pub const fn to_promised(self, real: Seq<Real>) -> Seq<Promised> {
        Seq::new(real.0.wrapping_add(self.0))
    }

    /// Turns a number that the client acknowledges into the server's.
    pub const fn to_real(self, promised: Seq<Promised>) -> Seq<Real> {
        Seq::new(promised.0.wrapping_sub(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn beyond_wraps() {
        let a = Seq::<Real>::new(0xffff_ffff);
        assert_eq!(a.plus(2).beyond(a), 2);
        assert_eq!(a.beyond(a.plus(2)), -2);
        assert_eq!(a.plus(2).minus(2), a);
    }

    proptest! {
        #[test]
        fn delta_is_its_own_inverse(s in any::<u32>(), y in any::<u32>(), n in any::<u32>()) {
            let delta = Delta::between(Seq::new(s), Seq::new(y));
            prop_assert_eq!(delta.to_promised(Seq::new(y)).get(), s);
            prop_assert_eq!(delta.to_real(delta.to_promised(Seq::new(n))).get(), n);
        }
    }
}
