//! `servernic`: see [`servernic::main_from`].

use std::process::ExitCode;

fn main() -> ExitCode {
    servernic::main_from(std::env::args_os())
}
