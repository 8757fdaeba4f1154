//! Generates `docs/configuration.md` from the table of settings.

use super::definitions::{DefaultValue, Group, SETTINGS, Setting};

/// The text before the tables.
const INTRODUCTION: &str = include_str!("introduction.md");

/// The header of each table.
const HEADER: &str =
    "| setting | environment variable | flag | default | values | description |\n|---|---|---|---|---|---|\n";

/// The text of `docs/configuration.md`.
pub fn documentation() -> String {
    let mut page = INTRODUCTION.to_owned();
    for group in Group::ALL {
        page += &format!("\n### {}\n\n{HEADER}", group.title());
        for setting in SETTINGS.iter().filter(|setting| setting.group == group) {
            page += &row(setting);
        }
    }
    page
}

fn row(setting: &Setting) -> String {
    let default = match setting.default {
        DefaultValue::None => "none".into(),
        DefaultValue::Value(value) => format!("`{value}`"),
        DefaultValue::Varies(description) => description.into(),
    };
    let Setting { key, flag, kind, description, .. } = setting;
    format!("| `{key}` | `{}` | `--{flag}` | {default} | {} | {description} |\n", setting.variable(), kind.summary())
}
