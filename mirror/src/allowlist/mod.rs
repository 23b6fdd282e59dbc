//! Whose packets may be sent on: a list of organisations and their addresses, compiled for longest prefix match.
//!
//! ```json
//! {
//!   "organisations": [
//!     { "name": "Example Org", "contact": "noc@example.org",
//!       "addresses": ["192.0.2.7", "198.51.100.0/24", "2001:db8::/32"] }
//!   ]
//! }
//! ```
//!
//! `contact` may be left out and is not used; other keys are refused, so that a misspelt one can't pass for an empty
//! list. Of nested prefixes the longest decides whose an address is. Nothing is allowed that is not listed: a list
//! without any address is an error. To allow all, say so: `0.0.0.0/0` and `::/0`.

mod file;
mod prefix;
mod ranges;
#[cfg(test)]
mod tests;

pub use file::AllowlistError;
pub use prefix::{NotExact, exact};

use ranges::Ranges;
use std::net::IpAddr;
use std::path::Path;

/// The most prefixes of one list.
pub const MOST_PREFIXES: usize = 1_000_000;
/// The most organisations of one list.
pub const MOST_ORGANISATIONS: usize = 65_536;
/// The longest list, in bytes.
pub const LONGEST: usize = 64 << 20;
/// The longest name of an organisation, in bytes.
pub const LONGEST_NAME: usize = 128;

/// An organisation of one list, in the list's order from 0. Another list may have another at the same place: across a
/// reload, organisations are known by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(u16);

impl OwnerId {
    /// Returns its place in the list, 0–65,535.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A compiled list. A look-up is a binary search among at most twice as many ranges as there are prefixes.
#[derive(Debug)]
pub struct Allowlist {
    names: Vec<Box<str>>,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    prefixes: usize,
    repeated: usize,
}

impl Allowlist {
    /// Reads and compiles a list.
    ///
    /// # Errors
    /// [`AllowlistError`] names the place and the fix. Nothing of a list with an error is used.
    pub fn parse(json: &str) -> Result<Self, AllowlistError> {
        file::parse(json)
    }

    /// Reads and compiles the list in a file, of at most [`LONGEST`] bytes.
    ///
    /// # Errors
    /// [`AllowlistError::File`] names the file and what is wrong.
    pub fn load(path: &Path) -> Result<Self, AllowlistError> {
        file::load(path)
    }

    /// Returns whose the address is, if it is allowed.
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<OwnerId> {
        match address {
            IpAddr::V4(address) => self.v4.find(address.into()),
            IpAddr::V6(address) => self.v6.find(address.into()),
        }
    }

    /// Returns an organisation's name; nothing for one of another, longer list.
    pub fn name(&self, owner: OwnerId) -> &str {
        self.names.get(owner.index()).map_or("", |name| name)
    }

    /// Iterates over the organisations in the list's order.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = (OwnerId, &str)> {
        self.names.iter().enumerate().map(|(index, name)| (OwnerId(index as u16), &**name))
    }

    /// Returns how many prefixes there are, without those that are written more than once.
    pub fn prefixes(&self) -> usize {
        self.prefixes
    }

    /// Returns how many more times prefixes are written by the organisation that has them already: harmless, and worth
    /// a warning.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    /// Returns how many bytes the look-up structures take.
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }
}
