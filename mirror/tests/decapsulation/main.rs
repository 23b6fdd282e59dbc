//! Well-formed packets of every combination, cut ones and spoilt ones, through decapsulation and the inner parser.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod packets;
mod properties;
