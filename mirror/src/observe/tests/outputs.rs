//! The same figures as tables, as JSON and as a page.

use super::*;

/// Some hundred connections to three services, of all kinds.
pub(crate) fn busy() -> Bench {
    let mut bench = Bench::new();
    for n in 0..400u16 {
        bench.next(120.0).server.1 = [443, 443, 443, 5432, 22][usize::from(n % 5)];
        let jitter = f64::from(u32::from(n) * 7919 % 100) / 10.0;
        match n % 40 {
            7 => drop(bench.client(0.0, SYN, 0, 0, 0).server(2.0, RST | ACK, 0, 1, 0)),
            13 => drop(bench.client(0.0, SYN, 0, 0, 0)),
            21 => {
                let options = [linux(Some(1)), vec![34, 2, 1, 1]].concat();
                bench.client_with(0.0, SYN, (0, 0), &options, 0).server(2.0, SYN | ACK, 0, 1, 0);
            }
            _ if n % 5 == 4 => {
                bench.handshake(1.5, 48.0 + jitter).server(54.0 + jitter, ACK, 1, 1, 40);
            }
            _ => drop(bench.exchange(1.5, 48.0 + jitter)),
        }
    }
    bench
}

#[test]
fn the_numbers_of_all_three_agree() {
    let report = busy().report(30_000.0);
    let (text, html) = (report.to_text(), report.html().unwrap());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["services"].as_array().unwrap().len(), 3);
    for (place, of) in report.services.iter().chain([&report.all]).enumerate() {
        let told = if place < 3 { &json["services"][place] } else { &json["all"] };
        let counts = ["begun", "answered", "refused", "unanswered", "pending"];
        let from_json = counts.map(|name| told["connections"][name].as_u64().unwrap());
        assert_eq!(from_json, outcomes(of));
        assert!(from_json[0] > 0);
        // A row of the table: name, then these in order; of the page: the same, a cell each.
        let row = |line: &&str| {
            let cells: Vec<_> = line.split('│').map(str::trim).filter(|cell| !cell.is_empty()).collect();
            cells.first() == Some(&of.service.as_str()) && cells[1..6] == from_json.map(|n| n.to_string())
        };
        assert_eq!(text.lines().filter(row).count(), 1, "{}", of.service);
        let cells = from_json.map(|number| format!("<td>{number}</td>")).concat();
        assert!(html.contains(&format!("<td class=\"l\">{}</td>{cells}", of.service)), "{}", of.service);
        for quantile in ["now", "expected", "best"] {
            let median = told["first_byte"][quantile]["p50"].as_f64().unwrap();
            let written = format!("{median:.1}");
            assert!(
                text.contains(&written) && html.contains(&format!("<td>{written}</td>")),
                "{quantile} {written}"
            );
        }
    }
    for reason in json["all"]["passed"].as_array().unwrap() {
        let (label, count) = (reason["label"].as_str().unwrap(), reason["count"].as_u64().unwrap());
        assert!(html.contains(&format!("<td class=\"l\">{label}</td><td>{count}</td>")), "{label}");
        assert!(
            text.lines().any(|line| line.contains(label) && line.contains(&count.to_string())),
            "{label}"
        );
    }
    for line in &report.assumptions {
        let page = html.replace("&#34;", "\"").replace("&#39;", "'");
        assert!(text.contains(line) && page.contains(line), "{line}");
    }
}

#[test]
fn an_empty_report_is_one_too() {
    let report = Bench::new().report(0.0);
    assert!(report.to_text().contains("0-RTT"));
    let html = report.html().unwrap();
    assert!(html.contains("No handshake was seen whole") && !html.contains("<svg"));
    assert!(serde_json::to_string(&report).unwrap().contains("\"begun\":0"));
}

#[test]
fn the_page_and_the_table_can_be_looked_at() {
    let report = busy().report(30_000.0);
    let (page, text) = (report.html().unwrap(), report.to_text());
    assert!(page.trim_end().ends_with("</html>") && page.contains("<polyline"));
    assert!(text.lines().all(|line| !line.contains('\u{1b}')), "no colours");
    if let Some(folder) = std::env::var_os("OBSERVE_SAMPLE") {
        let folder = std::path::Path::new(&folder);
        std::fs::write(folder.join("observe.html"), page).unwrap();
        std::fs::write(folder.join("observe.txt"), text).unwrap();
    }
}
