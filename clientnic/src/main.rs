//! `clientnic`: see [`clientnic::main_from`].

use std::process::ExitCode;

fn main() -> ExitCode {
    clientnic::main_from(std::env::args_os())
}
