//! Prefixes as people write them: what could be meant in two ways is refused.

use rtt0_core::service::{Prefix, PrefixError};
use std::net::IpAddr;

/// Why a text is not taken for a prefix, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExact {
    /// It is no prefix.
    #[error(transparent)]
    Unreadable(#[from] PrefixError),
    /// The address has bits behind the prefix: either it or the length is a slip of the pen.
    #[error(
        "prefix '{text}' has host bits set; write {network} for the whole network, or {address} for the one address"
    )]
    HostBits {
        /// As it was written.
        text: String,
        /// The network that the length says.
        network: Prefix,
        /// The address that stands there.
        address: IpAddr,
    },
    /// IPv4 in the clothes of IPv6 (RFC 4291 §2.5.5.2), which no packet on the wire wears.
    #[error("prefix '{text}' is an IPv4-mapped IPv6 address, which no packet has; write the IPv4 address")]
    Mapped {
        /// As it was written.
        text: String,
    },
}

/// Reads `ADDRESS` or `ADDRESS/BITS`.
///
/// # Errors
/// [`NotExact`] if it is no prefix, has host bits set or lies within `::ffff:0:0/96`.
pub fn exact(text: &str) -> Result<Prefix, NotExact> {
    let prefix: Prefix = text.parse()?;
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    if let Ok(address) = address.parse::<IpAddr>()
        && address != prefix.address()
    {
        return Err(NotExact::HostBits { text: text.to_owned(), network: prefix, address });
    }
    match prefix.address() {
        IpAddr::V6(address) if prefix.length() >= 96 && address.to_ipv4_mapped().is_some() => {
            Err(NotExact::Mapped { text: text.to_owned() })
        }
        _ => Ok(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_what_it_says() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("198.51.100.0/24", "198.51.100.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(exact(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn host_bits_are_refused_with_both_ways_out() {
        let error = exact("198.51.100.7/24").unwrap_err().to_string();
        assert!(error.contains("write 198.51.100.0/24 for the whole network"), "{error}");
        assert!(error.contains("198.51.100.7 for the one address"), "{error}");
        assert!(matches!(exact("2001:db8::1/64"), Err(NotExact::HostBits { .. })));
    }

    #[test]
    fn ipv4_in_ipv6_is_refused() {
        for text in ["::ffff:192.0.2.7", "::ffff:192.0.2.0/120", "::ffff:0:0/96"] {
            assert!(matches!(exact(text), Err(NotExact::Mapped { .. })), "{text}");
        }
        assert!(exact("::/96").is_ok());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "192.0.2", "192.0.2.0/33", "192.0.2.0/", " 192.0.2.7", "2001:db8::/129", "fe80::1%eth0"]
        {
            assert!(matches!(exact(text), Err(NotExact::Unreadable(_))), "{text}");
        }
    }
}
