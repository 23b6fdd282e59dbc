//! `testbed bench`: what the middlebox costs beside plain kernel forwarding, and beside what people
//! would use instead.
//!
//! Every figure is measured in rounds, all [`variant`]s one right after the other in an order that
//! is shuffled anew, and becomes a ratio to kernel forwarding **of the same round** ([`figure`]).
//! Before each measurement the machine gets a bounded time to fall idle ([`idle`]).
//!
//! | module | measures |
//! |---|---|
//! | [`latency`] | `connect()`, time to first byte, one-way latency on an established connection |
//! | [`bulk`] | goodput of large transfers without delay, and the processor time they take |
//! | [`packets`] | packets a second of established flows, loss, processor time a packet |
//! | [`connections`] | connections a second, closed loop and at a given rate |
//! | [`memory`] | bytes a flow |
//! | [`matrix`] | transfers over RTT × loss × congestion control |
//!
//! [`site`] raises what a measurement needs, [`middle`] what is measured, [`load`] generates the
//! load, [`run`] goes through the rounds, [`report`] shows what was found.

pub mod bulk;
pub mod command;
pub mod connections;
pub mod cpu;
pub mod figure;
pub mod idle;
pub mod latency;
pub mod load;
pub mod matrix;
pub mod memory;
pub mod middle;
pub mod packets;
pub mod plan;
pub mod report;
pub mod run;
pub mod site;
pub mod variant;

pub use command::{BenchArgs, command};
