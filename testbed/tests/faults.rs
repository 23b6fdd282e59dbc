//! The doctor's examination: every fault is injected and every healthy site raised, by `testbed faults`.

use std::process::Command;

/// How `testbed` says that privileges are missing and can't be had.
const NO_PRIVILEGE: i32 = 77;

#[test]
fn the_doctor_names_faults_and_leaves_healthy_hosts_alone() {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed")).arg("faults").output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(NO_PRIVILEGE) {
        println!("skipped: {}", error.trim());
        return;
    }
    println!("{out}");
    assert!(output.status.success(), "{out}\n{error}");
}
