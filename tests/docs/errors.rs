//! The table of docs/ERRORS.md, from the one place that words errors.

use std::fmt::Write;

pub(crate) fn table() -> String {
    let mut out =
        String::from("| Status | Code | Says, for example | Suggests | `details` |\n| --- | --- | --- | --- | --- |\n");
    for code in moongate::proxy::error_codes() {
        let details: Vec<_> = code.details.iter().map(|it| format!("`{it}`")).collect();
        let details = if details.is_empty() { "null".to_owned() } else { details.join(", ") };
        writeln!(
            out,
            "| {} | `{}` | {} | {} | {details} |",
            code.status, code.code, code.message, code.suggested_action
        )
        .unwrap();
    }
    out
}
