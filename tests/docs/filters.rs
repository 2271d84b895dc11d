//! The table of docs/FILTERS.md, from the one place that orders filters.

use std::fmt::Write;

use moongate::filters::TABLE;

pub(crate) fn table() -> String {
    let mut out = String::from("| | Filter | Is for | Stands there |\n| --- | --- | --- | --- |\n");
    for (number, row) in TABLE.iter().enumerate() {
        let summary = row.summary.trim();
        let only = if row.responses_only { " Only responses meet it." } else { "" };
        writeln!(out, "| {} | `{}` | {summary}{only} | {} |", number + 1, row.name, row.why.trim()).unwrap();
    }
    out
}
