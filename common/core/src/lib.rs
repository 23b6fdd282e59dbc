//! Sans-IO core of a transparent TCP 0-RTT middlebox.
#![forbid(unsafe_code)]

pub mod accept;
pub mod claim;
pub mod engine;
pub mod exclusions;
pub mod flow;
pub mod gateway;
pub mod gauges;
pub mod handshake;
pub mod held;
pub mod histogram;
pub mod journal;
pub mod limits;
pub mod notice;
pub mod offer;
pub mod offload;
pub mod packet;
pub mod profile;
pub mod reason;
pub mod record;
pub mod rival;
pub mod seq;
pub mod service;
pub mod spoof;
pub mod survey;
pub mod time;
pub mod translate;
pub mod translated;
mod twins;
pub mod wire;
