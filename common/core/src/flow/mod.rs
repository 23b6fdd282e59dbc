//! Flows: the 4-tuple that names one, and the bounded table that holds what is known of it.

mod ahead;
mod chunks;
mod index;
mod key;
mod queue;
mod table;
mod wheel;

pub use key::FlowKey;
pub use table::{Entry, FlowTable, Full};
