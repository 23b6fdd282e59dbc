//! The matrix as heat tables: for each size and congestion control the goodput ratio of every
//! variant over RTT and loss.

use super::table::{number, variants};
use crate::bench::figure::Row;
use crate::bench::matrix;
use crate::bench::variant::Variant;

/// A table, coloured.
#[derive(Debug)]
pub struct Heat {
    /// Size and congestion control.
    pub title: String,
    /// Losses, each with the number of its columns.
    pub groups: Vec<(String, usize)>,
    /// RTTs, for each loss.
    pub columns: Vec<String>,
    /// A row for each variant.
    pub rows: Vec<HeatRow>,
}

/// A variant's row.
#[derive(Debug)]
pub struct HeatRow {
    /// The variant's name.
    pub name: &'static str,
    /// Its colour elsewhere.
    pub colour: &'static str,
    /// A cell for each column.
    pub cells: Vec<HeatCell>,
}

/// A ratio.
#[derive(Debug)]
pub struct HeatCell {
    /// The ratio; of kernel forwarding the share of the physical limit.
    pub text: String,
    /// Background.
    pub colour: String,
    /// What it is, in full.
    pub title: String,
}

/// Makes the tables; empty if the matrix was not measured.
pub fn tables(rows: &[Row]) -> Vec<Heat> {
    let cells: Vec<(Key<'_>, &Row)> = rows
        .iter()
        .filter(|row| row.measurement == matrix::NAME && row.metric.name == matrix::GOODPUT.name)
        .filter_map(|row| Some((Key::read(&row.setting)?, row)))
        .collect();
    let mut titles: Vec<&str> = cells.iter().map(|(key, _)| key.title).collect();
    titles.dedup();
    titles.into_iter().map(|title| table(title, &cells)).collect()
}

/// The parts of a setting's name: `4 MB cubic, 25 ms, 1 % loss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key<'a> {
    title: &'a str,
    rtt: &'a str,
    loss: &'a str,
}

impl<'a> Key<'a> {
    fn read(setting: &'a str) -> Option<Self> {
        let mut parts = setting.splitn(3, ", ");
        Some(Self { title: parts.next()?, rtt: parts.next()?, loss: parts.next()? })
    }
}

fn table(title: &str, cells: &[(Key<'_>, &Row)]) -> Heat {
    let own: Vec<&(Key<'_>, &Row)> = cells.iter().filter(|(key, _)| key.title == title).collect();
    let mut groups: Vec<(String, usize)> = Vec::new();
    for (key, _) in &own {
        match groups.last_mut() {
            Some((loss, count)) if loss == key.loss => *count += 1,
            _ => groups.push((key.loss.to_owned(), 1)),
        }
    }
    let plain: Vec<&Row> = own.iter().map(|(_, row)| *row).collect();
    let row = |variant: Variant| HeatRow {
        name: variant.name(),
        colour: variant.colour(),
        cells: plain.iter().map(|row| cell(row, variant)).collect(),
    };
    Heat {
        title: format!(
            "{title}: goodput, kernel forwarding as share of the physical limit, all others as ratio to it"
        ),
        groups,
        columns: own.iter().map(|(key, _)| key.rtt.to_owned()).collect(),
        rows: variants(&plain).into_iter().map(row).collect(),
    }
}

fn cell(row: &Row, variant: Variant) -> HeatCell {
    let value = row.of(variant).and_then(|figure| figure.value);
    let title =
        value.map_or_else(String::new, |value| format!("{} {}", number(value.median), row.metric.unit));
    let ratio = row.of(variant).and_then(|figure| figure.ratio).map(|ratio| ratio.median);
    match (variant, ratio, value, row.metric.limit) {
        (Variant::Kernel, _, Some(value), Some(limit)) => {
            let share = format!("{:.0} %", value.median / limit * 100.0);
            HeatCell { text: share, colour: "#cfd6de".to_owned(), title }
        }
        (_, Some(ratio), ..) => {
            HeatCell { text: format!("×{}", number(ratio)), colour: shade(ratio), title }
        }
        _ => HeatCell { text: "–".to_owned(), colour: "transparent".to_owned(), title },
    }
}

/// Green for more, red for less, ever stronger up to twice and half.
fn shade(ratio: f64) -> String {
    let strength = (ratio.ln() / std::f64::consts::LN_2).clamp(-1.0, 1.0);
    let lightness = 92.0 - 34.0 * strength.abs();
    let hue = if strength > 0.0 { 158 } else { 8 };
    let saturation = 20.0 + 45.0 * strength.abs();
    format!("hsl({hue} {saturation:.0}% {lightness:.0}%)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_fall_apart_into_table_column_and_group() {
        let key = Key::read("4 MB cubic, 25 ms, 1 % loss").unwrap();
        assert_eq!((key.title, key.rtt, key.loss), ("4 MB cubic", "25 ms", "1 % loss"));
        assert_eq!(Key::read("nonsense"), None);
    }

    #[test]
    fn better_is_green_and_worse_is_red_and_the_same_is_pale() {
        assert!(shade(1.5).starts_with("hsl(158") && shade(0.7).starts_with("hsl(8"));
        assert!(shade(1.0).contains("92%") && shade(100.0).contains("58%"));
    }
}
