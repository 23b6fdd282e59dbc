//! Values that are written as text, read where they stand.

use crate::allowlist::exact;
use crate::inner::Transport;
use crate::nat::Target;
use rtt0_core::service::Prefix;
use serde::de::{Deserialize, Deserializer, Error};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// The most bytes of an interface's name: the kernel's IFNAMSIZ less the zero behind it.
const LONGEST_INTERFACE: usize = 15;

/// Something that a text stands for; what is wrong with it is told at its place.
#[derive(Debug, Clone)]
pub(super) struct Text<T>(pub(super) T);

/// Reads a value from a text, or says what is wrong and what would be right.
pub(super) trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_text(&text).map(Self).map_err(D::Error::custom)
    }
}

/// An interface's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface(pub(super) String);

impl FromText for Interface {
    fn from_text(text: &str) -> Result<Self, String> {
        // As the kernel has it (dev_valid_name).
        let is_odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty()
            || text.len() > LONGEST_INTERFACE
            || [".", ".."].contains(&text)
            || text.contains(is_odd)
        {
            return Err(format!(
                "'{}' is no interface's name; write one of 1 to {LONGEST_INTERFACE} bytes, as 'ip link' shows it",
                text.escape_debug()
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromText for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("'{text}' is no ADDRESS:PORT; write, for example, 127.0.0.1:9643"))
    }
}

impl FromText for Prefix {
    fn from_text(text: &str) -> Result<Self, String> {
        exact(text).map_err(|error| error.to_string())
    }
}

impl FromText for Transport {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(format!(
                "protocol '{text}' is not known; write tcp, udp or icmp, or leave it out for any"
            )),
        }
    }
}

/// An address with a port or without.
pub(super) struct End(pub(super) Target);

impl FromText for End {
    fn from_text(text: &str) -> Result<Self, String> {
        let with_port = || text.parse::<SocketAddr>().ok().map(|end| (end.ip(), Some(end.port())));
        let end = text.parse::<IpAddr>().ok().map(|address| (address, None)).or_else(with_port);
        end.map(Self).ok_or_else(|| {
            format!(
                "'{text}' is no ADDRESS or ADDRESS:PORT; write, for example, 192.0.2.95:8081, [2001:db8::95]:8081, or \
                 192.0.2.95 if the port stays"
            )
        })
    }
}

/// Destination ports, `PORT` or `LOW-HIGH`.
pub(super) struct Ports(pub(super) RangeInclusive<u16>);

impl FromText for Ports {
    fn from_text(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        // Not what `u16::from_str` takes besides: a plus sign.
        let port = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u16>().ok().filter(|port| *port > 0),
            false => None,
        };
        match (port(low), port(high)) {
            (Some(low), Some(high)) if low <= high => Ok(Self(low..=high)),
            _ => Err(format!(
                "ports '{text}': write a port from 1 to 65535, or two with the lower one first, 1000-2000"
            )),
        }
    }
}
