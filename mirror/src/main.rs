//! The traffic-mirror pipeline's program.

fn main() {}
