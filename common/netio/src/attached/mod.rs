//! What is attached to the way of packets besides netfilter: BPF programs, filters of traffic control, queues.

mod bpf;
mod tc;

pub use bpf::{Attachment, cgroup_programs, program_name, tcx_programs};
pub use tc::{Filter, FilterAction, Limit, Queue, filters, queues};
