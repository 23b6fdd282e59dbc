//! A bench of a few seconds: its figures are there and plausible. Their size is not judged: the
//! machine may be busy.

use serde_json::Value;
use std::process::{Command, Stdio};

/// Exit status without the privileges that namespaces need.
const NO_PRIVILEGE: i32 = 77;

#[test]
fn a_quick_bench_finds_plausible_figures() {
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("bench.json"), folder.path().join("bench.html"));
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["bench", "latency", "bulk", "packets", "memory", "--quick", "--idle-wait", "0"])
        .args(["--variants", "nics", "--rounds", "2", "--flows", "200", "--json"])
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(NO_PRIVILEGE) {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert!(std::fs::read_to_string(html).unwrap().contains("<svg"));
    assert_eq!(report["gaps"].as_array().unwrap().iter().filter(|gap| gap["failed"] == true).count(), 0);
    assert_eq!(report["bench"]["rounds"], 2);
    assert!(report["environment"]["kernel"].is_string());

    for (measurement, metric) in [
        ("latency", "connect p50"),
        ("latency", "TTFB p50"),
        ("latency", "echo RTT p50"),
        ("bulk", "goodput"),
        ("bulk", "CPU, all parties"),
        ("packets", "highest rate"),
        ("packets", "CPU, all parties"),
    ] {
        let row = row(&report, measurement, metric);
        for variant in ["kernel", "nics"] {
            let figure = figure(row, variant);
            assert_eq!(figure["rounds"].as_array().unwrap().len(), 2);
            for part in ["value", "ratio"] {
                let [min, median, max] =
                    ["min", "median", "max"].map(|name| figure[part][name].as_f64().unwrap());
                let place = format!("{measurement} {metric} {variant} {part}: {min} {median} {max}");
                assert!(min > 0.0 && min <= median && median <= max, "{place}");
            }
        }
        assert_eq!(figure(row, "kernel")["ratio"]["median"], 1.0, "{measurement} {metric}");
    }
    // What stands for itself has no ratio, and kernel forwarding has no process.
    let each = row(&report, "memory", "ClientNIC, each flow");
    assert!(figure(each, "nics")["value"]["median"].is_f64() && figure(each, "nics")["ratio"].is_null());
    assert_eq!(each["figures"].as_array().unwrap().len(), 1);
    assert!(row(&report, "latency", "added one way p50")["figures"][0]["variant"] == "nics");
}

fn row<'a>(report: &'a Value, measurement: &str, metric: &str) -> &'a Value {
    let is_it = |row: &&Value| row["measurement"] == measurement && row["name"] == metric;
    let found = report["rows"].as_array().into_iter().flatten().find(is_it);
    found.unwrap_or_else(|| panic!("{measurement} has no {metric}: {report:#}"))
}

fn figure<'a>(row: &'a Value, variant: &str) -> &'a Value {
    let found = row["figures"].as_array().into_iter().flatten().find(|figure| figure["variant"] == variant);
    found.unwrap_or_else(|| panic!("no {variant}: {row:#}"))
}
