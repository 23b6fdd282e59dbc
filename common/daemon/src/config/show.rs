//! Settings as a configuration file that says who has set what.

use std::fmt::Write as _;

use super::{Origin, Setting};

/// Writes `settings` as TOML, with where each comes from in a comment.
pub(super) fn show(settings: &[Setting]) -> String {
    let lines: Vec<(String, String)> =
        settings.iter().map(|setting| (line(setting), origin(setting))).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, (line, origin)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line:width$}  # {origin}");
        text
    })
}

fn line(setting: &Setting) -> String {
    let values: Vec<String> = setting.values.iter().map(|value| literal(value)).collect();
    match (setting.is_list, values.as_slice()) {
        (false, [value]) => format!("{} = {value}", setting.name),
        _ => format!("{} = [{}]", setting.name, values.join(", ")),
    }
}

fn origin(setting: &Setting) -> String {
    match &setting.origin {
        Origin::Flag => format!("--{}", setting.name),
        Origin::Environment(variable) => format!("environment: {variable}"),
        Origin::File(place) => place.clone(),
        Origin::Default => "default".to_owned(),
    }
}

/// Writes a value as TOML does.
fn literal(value: &str) -> String {
    if matches!(value, "true" | "false")
        || value.parse::<i64>().is_ok_and(|number| number.to_string() == value)
    {
        value.to_owned()
    } else {
        toml::Value::String(value.to_owned()).to_string()
    }
}
