//! Draws a [`Ladder`] as SVG: four lifelines, one arrow per packet and leg, time downwards.

use super::ladder::{Arrow, Kind, Ladder};
use std::fmt::Write;

const WIDTH: f64 = 600.0;
/// Where the lifelines of client, ClientNIC, ServerNIC and server stand.
const LIFELINES: [(f64, &str); 4] =
    [(84.0, "client"), (208.0, "ClientNIC"), (424.0, "ServerNIC"), (548.0, "server")];
const TOP: f64 = 46.0;
const BOTTOM: f64 = 26.0;
/// Height of one round-trip time.
const RTT_HEIGHT: f64 = 150.0;
/// Least distance between two packets that leave on the same leg: a line of text.
const LINE: f64 = 15.0;
/// Least distance between two packets that arrive on the same leg.
const ARRIVAL: f64 = 5.0;
/// A packet needs at least this much height to cross a leg, else no direction could be seen.
const SLOPE: f64 = 3.0;

/// Draws the ladder. Milliseconds have the same height in all ladders of one RTT; where packets
/// follow each other too closely for their labels, the time axis is stretched.
pub fn render(ladder: &Ladder) -> String {
    let places = place(&ladder.arrows, RTT_HEIGHT / ladder.rtt_ms);
    let bottom = places.iter().map(|place| place.tail.max(place.head)).fold(0.0, f64::max);
    let height = TOP + bottom + BOTTOM;
    let mut svg = String::new();
    let title = format!("Packets of one connection, {}", ladder.mode.title());
    // Writing to a String can't fail.
    let _ = write!(
        svg,
        r#"<svg class="ladder" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}">"#
    );
    markers(&mut svg, ladder);
    for (x, name) in LIFELINES {
        let _ = write!(
            svg,
            r#"<text class="host" x="{x}" y="20" text-anchor="middle">{name}</text><line class="life" x1="{x}" y1="30" x2="{x}" y2="{:.0}"/>"#,
            height - 8.0
        );
    }
    long_leg(&mut svg, height);
    for (arrow, place) in ladder.arrows.iter().zip(&places) {
        draw(&mut svg, ladder, arrow, place);
    }
    times(&mut svg, &ladder.arrows, &places);
    first_byte_bracket(&mut svg, ladder, &places);
    svg.push_str("</svg>");
    svg
}

/// Where an arrow begins and ends, downwards from [`TOP`].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    tail: f64,
    head: f64,
    /// Where along the arrow its label stands, 0 (tail) to 1 (head).
    label: f64,
}

/// Lays the ends of all arrows out in the order of their times, `scale` units per ms or more.
fn place(arrows: &[Arrow], scale: f64) -> Vec<Place> {
    let mut ends: Vec<(f64, usize, bool)> = Vec::new();
    for (index, arrow) in arrows.iter().enumerate() {
        ends.push((arrow.departed, index, true));
        ends.extend(arrow.arrived.map(|arrived| (arrived, index, false)));
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.2.cmp(&a.2)));
    let mut places = vec![Place { tail: 0.0, head: 0.0, label: 0.5 }; arrows.len()];
    let (mut y, mut now) = (0.0_f64, 0.0);
    // Where the last packet left and arrived: on a local leg whichever way it went; on the long leg
    // for each direction, since labels there stand near the tail, far from the other direction's.
    let (mut left, mut arrived) = ([[f64::NEG_INFINITY; 2]; 3], [[f64::NEG_INFINITY; 2]; 3]);
    let mut followers = [0; 2];
    for (time, index, departs) in ends {
        y += (time - now) * scale;
        now = time;
        let arrow = &arrows[index];
        let lane = usize::from(arrow.leg == 1 && arrow.to_server);
        if departs {
            let last = &mut left[arrow.leg][lane];
            // Arrows that leave close behind each other converge, so their labels are staggered.
            followers[lane] = if y - *last < 2.0 * LINE { followers[lane] + 1 } else { 0 };
            y = y.max(*last + LINE);
            *last = y;
            let label = if arrow.leg == 1 { 0.2 + 0.25 * f64::from(followers[lane] % 3) } else { 0.5 };
            places[index] = Place { tail: y, head: y + SLOPE, label };
        } else {
            y = y.max(places[index].tail + SLOPE).max(arrived[arrow.leg][lane] + ARRIVAL);
            arrived[arrow.leg][lane] = y;
            places[index].head = y;
        }
    }
    places
}

/// Returns the style class of what an arrow stands for.
pub fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Handshake => "handshake",
        Kind::Spoofed => "spoofed",
        Kind::Signal => "signal",
        Kind::Data => "data",
        Kind::Control => "control",
        Kind::Reset => "reset",
    }
}

/// Arrow heads, one for each colour: SVG 1.1 can't inherit it. Their names are unique in the page.
fn markers(svg: &mut String, ladder: &Ladder) {
    svg.push_str("<defs>");
    for kind in Kind::ALL {
        let _ = write!(
            svg,
            r#"<marker id="{}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="head {}" d="M0 .8 8 4 0 7.2z"/></marker>"#,
            marker(ladder, kind),
            class(kind)
        );
    }
    svg.push_str("</defs>");
}

fn marker(ladder: &Ladder, kind: Kind) -> String {
    format!("{}-{}", ladder.mode.name(), class(kind))
}

fn long_leg(svg: &mut String, height: f64) {
    let (left, right) = (LIFELINES[1].0, LIFELINES[2].0);
    let _ = write!(
        svg,
        r#"<rect class="wan" x="{left}" y="30" width="{}" height="{:.0}"/><text class="note" x="{}" y="20" text-anchor="middle">long leg</text>"#,
        right - left,
        height - 38.0,
        (left + right) / 2.0
    );
}

fn draw(svg: &mut String, ladder: &Ladder, arrow: &Arrow, place: &Place) {
    let (left, right) = (LIFELINES[arrow.leg].0, LIFELINES[arrow.leg + 1].0);
    let (from, to) = if arrow.to_server { (left, right) } else { (right, left) };
    let (y1, y2) = (TOP + place.tail, TOP + place.head);
    // A lost packet ends half way.
    let (to, y2) = if arrow.arrived.is_some() { (to, y2) } else { ((from + to) / 2.0, y1 + SLOPE) };
    let class = class(arrow.kind);
    let _ = write!(
        svg,
        r#"<line class="arrow {class}" x1="{from}" y1="{y1:.1}" x2="{to}" y2="{y2:.1}" marker-end="url(#{})"/>"#,
        marker(ladder, arrow.kind)
    );
    let share = place.label;
    let (x, y) = (from + (to - from) * share, y1 + (y2 - y1) * share);
    let angle = ((y2 - y1) / (to - from)).atan().to_degrees();
    let _ = write!(
        svg,
        r#"<text class="label {class}" text-anchor="middle" transform="translate({x:.1} {:.1}) rotate({angle:.2})">{}</text>"#,
        y - 3.0,
        arrow.label
    );
}

/// Writes the times of what happens at client and server beside their lifelines, as far as there
/// is room.
fn times(svg: &mut String, arrows: &[Arrow], places: &[Place]) {
    for (leg, at_server, x, anchor) in
        [(0, false, LIFELINES[0].0 - 7.0, "end"), (2, true, LIFELINES[3].0 + 7.0, "start")]
    {
        let ends =
            arrows.iter().zip(places).filter(|(arrow, _)| arrow.leg == leg).filter_map(|(arrow, place)| {
                let departs = arrow.to_server != at_server;
                if departs { Some((place.tail, arrow.departed)) } else { Some((place.head, arrow.arrived?)) }
            });
        let mut ends: Vec<(f64, f64)> = ends.collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut last = f64::NEG_INFINITY;
        for (y, time) in ends {
            if y - last < 10.0 {
                continue;
            }
            last = y;
            let _ = write!(
                svg,
                r#"<text class="time" x="{x}" y="{:.1}" text-anchor="{anchor}">{time:.1}</text>"#,
                TOP + y + 3.0
            );
        }
    }
}

/// Marks the time from the client's first packet to its first byte.
fn first_byte_bracket(svg: &mut String, ladder: &Ladder, places: &[Place]) {
    let is_end = |arrow: &Arrow| arrow.leg == 0 && !arrow.to_server && arrow.kind == Kind::Data;
    let Some(end) = ladder.arrows.iter().position(is_end) else { return };
    let (top, bottom) = (TOP, TOP + places[end].head);
    let x = 30.0;
    let _ = write!(
        svg,
        r#"<path class="bracket" d="M{} {top:.1}H{x}V{bottom:.1}H{}"/><text class="ttfb" text-anchor="middle" transform="translate({} {:.1}) rotate(-90)">first byte {:.1} ms</text>"#,
        x + 6.0,
        x + 6.0,
        x - 8.0,
        (top + bottom) / 2.0,
        ladder.first_byte_ms
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::choice::Mode;

    fn arrow(leg: usize, to_server: bool, departed: f64, arrived: Option<f64>) -> Arrow {
        Arrow { leg, to_server, departed, arrived, label: "ACK".into(), kind: Kind::Control }
    }

    #[test]
    fn time_never_runs_upwards_and_labels_keep_apart() {
        let arrows = [
            arrow(0, true, 0.0, Some(0.02)),
            arrow(0, false, 0.05, Some(0.06)),
            arrow(1, true, 0.06, Some(25.0)),
            arrow(1, true, 0.07, Some(25.01)),
            arrow(2, true, 25.1, None),
        ];
        let places = place(&arrows, 3.0);
        for pair in places.windows(2) {
            assert!(pair[1].tail >= pair[0].tail, "{places:?}");
        }
        assert!(places.iter().all(|place| place.head >= place.tail + SLOPE));
        assert!(places[1].tail - places[0].tail >= LINE);
        assert!(places[3].tail - places[2].tail >= LINE);
        assert!(places[2].head - places[2].tail >= 24.9 * 3.0 - LINE);
    }

    #[test]
    fn every_packet_is_an_arrow() {
        let arrows = vec![arrow(0, true, 0.0, Some(0.1)), arrow(1, true, 0.2, None)];
        let ladder =
            Ladder { mode: Mode::Paired, rtt_ms: 50.0, connect_ms: 0.1, first_byte_ms: 51.0, arrows };
        let svg = render(&ladder);
        assert_eq!(svg.matches("class=\"arrow").count(), 2);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
    }
}
