//! The list as a file: JSON, bounded, every address read once at the door.

use super::ranges::{Ranges, Span};
use super::{Allowlist, LONGEST, LONGEST_NAME, MOST_ORGANISATIONS, MOST_PREFIXES, NotExact, OwnerId, prefix};
use rtt0_core::service::Prefix;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why a list can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum AllowlistError {
    /// Something is wrong with the list in a file.
    #[error("allowlist '{path}': {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: Box<AllowlistError>,
    },
    /// The file can't be opened or read, or is no UTF-8.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is longer than [`LONGEST`].
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// It is no JSON, has a key too many or too few, or an address in it is none; says line and column.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// No address is on it.
    #[error("no address is on it, so nothing would be sent on; to allow all, list 0.0.0.0/0 and ::/0")]
    Empty,
    /// More organisations than [`MOST_ORGANISATIONS`].
    #[error("it has {0} organisations; there may be {MOST_ORGANISATIONS}")]
    TooManyOrganisations(usize),
    /// More prefixes than [`MOST_PREFIXES`].
    #[error("it has {0} addresses; there may be {MOST_PREFIXES}: join neighbours to prefixes")]
    TooManyPrefixes(usize),
    /// An organisation's name is empty, too long or has control characters.
    #[error(
        "the name of organisation {place} is empty, longer than {LONGEST_NAME} bytes, or has control characters or space around it"
    )]
    Name {
        /// Its place in the list, counted from 1.
        place: usize,
    },
    /// Two organisations have one name.
    #[error("there are two organisations '{0}'; put their addresses into one")]
    SameName(String),
    /// Two organisations have one prefix.
    #[error("{prefix} belongs to '{first}' and to '{second}'; take it from one of them")]
    TwoOwners {
        /// The prefix that both have.
        prefix: Prefix,
        /// Who comes first in the list.
        first: String,
        /// Who else has it.
        second: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    organisations: Vec<Organisation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Organisation {
    name: String,
    #[serde(default, rename = "contact")]
    _contact: Option<String>,
    addresses: Vec<Listing>,
}

/// A prefix, read where it stands, so that the parser tells the place of a wrong one.
struct Listing(Prefix);

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Listing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a prefix, for example \"192.0.2.7\" or \"198.51.100.0/24\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listing, E> {
                prefix::exact(text).map(Listing).map_err(|error: NotExact| E::custom(error))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

pub(super) fn load(path: &Path) -> Result<Allowlist, AllowlistError> {
    let read = || {
        let mut json = String::new();
        File::open(path)?.take(LONGEST as u64 + 1).read_to_string(&mut json)?;
        parse(&json)
    };
    read().map_err(|problem| AllowlistError::File { path: path.to_owned(), problem: Box::new(problem) })
}

pub(super) fn parse(json: &str) -> Result<Allowlist, AllowlistError> {
    if json.len() > LONGEST {
        return Err(AllowlistError::TooLong);
    }
    let Listed { organisations } = serde_json::from_str(json)?;
    if organisations.len() > MOST_ORGANISATIONS {
        return Err(AllowlistError::TooManyOrganisations(organisations.len()));
    }
    let count = organisations.iter().map(|organisation| organisation.addresses.len()).sum();
    match count {
        0 => return Err(AllowlistError::Empty),
        1..=MOST_PREFIXES => (),
        _ => return Err(AllowlistError::TooManyPrefixes(count)),
    }
    check_names(&organisations)?;
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (index, organisation) in organisations.iter().enumerate() {
        let owner = OwnerId(index as u16);
        for Listing(prefix) in &organisation.addresses {
            let spans = if prefix.address().is_ipv4() { &mut v4 } else { &mut v6 };
            spans.push(span(*prefix, owner));
        }
    }
    for spans in [&mut v4, &mut v6] {
        unite(spans).map_err(|(span, second)| AllowlistError::TwoOwners {
            prefix: listed(&organisations, span),
            first: organisations[span.owner.index()].name.clone(),
            second: organisations[second.index()].name.clone(),
        })?;
    }
    let prefixes = v4.len() + v6.len();
    Ok(Allowlist {
        names: organisations.into_iter().map(|organisation| organisation.name.into()).collect(),
        v4: Ranges::new(v4),
        v6: Ranges::new(v6),
        prefixes,
        repeated: count - prefixes,
    })
}

/// Names go into log lines and metrics.
fn check_names(organisations: &[Organisation]) -> Result<(), AllowlistError> {
    let mut names = HashMap::with_capacity(organisations.len());
    for (index, Organisation { name, .. }) in organisations.iter().enumerate() {
        let is_odd = name.is_empty() || name.len() > LONGEST_NAME || name.trim() != name;
        if is_odd || name.chars().any(char::is_control) {
            return Err(AllowlistError::Name { place: index + 1 });
        }
        if names.insert(name, index).is_some() {
            return Err(AllowlistError::SameName(name.clone()));
        }
    }
    Ok(())
}

/// Sorts, and takes out what one owner has twice. Fails with what two owners have: once with the first of them, and
/// the other.
fn unite(spans: &mut Vec<Span>) -> Result<(), (Span, OwnerId)> {
    spans.sort_unstable();
    spans.dedup();
    let same = |pair: &&[Span]| (pair[0].first, pair[0].last) == (pair[1].first, pair[1].last);
    match spans.windows(2).find(same) {
        Some(pair) => Err((pair[0], pair[1].owner)),
        None => Ok(()),
    }
}

/// Returns the prefix that a span was made of.
fn listed(organisations: &[Organisation], wanted: Span) -> Prefix {
    let addresses = &organisations[wanted.owner.index()].addresses;
    let found = addresses.iter().find(|Listing(prefix)| span(*prefix, wanted.owner) == wanted);
    found.map_or_else(|| unreachable!("every span is made of one"), |Listing(prefix)| *prefix)
}

fn span(prefix: Prefix, owner: OwnerId) -> Span {
    let (first, bits) = match prefix.address() {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    // All host bits; a shift by the whole width, of ::/0, is none.
    let host = bits - u32::from(prefix.length());
    let last = first | 1u128.checked_shl(host).map_or(u128::MAX, |end| end - 1);
    Span { first, last, owner }
}
