//! Flows: the 4-tuple that names one, and the bounded table that holds what is known of it.

mod key;
mod table;
mod wheel;

pub use key::FlowKey;
pub use table::{Entry, FlowTable, Full};
