//! What a hostile host sends: made here, and sent only inside the testbed's namespaces.

pub mod blind;
pub mod dice;
pub mod ear;
pub mod flood;
pub mod malformed;
