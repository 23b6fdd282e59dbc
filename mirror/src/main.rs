//! `mirror`: see [`mirror::main_from`].

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror::main_from(std::env::args_os())
}
