//! Why a text is not YAML, in most cases: what the parser says is about the grammar, and what was meant is in the line.

/// The lines of a text that could not be parsed, and the number from 1 of the one where the parser gave up.
pub(super) struct Failure<'t> {
    pub(super) lines: Vec<&'t str>,
    pub(super) line: usize,
    /// What the parser says.
    pub(super) message: &'t str,
    /// A line as far as it may be shown.
    pub(super) shown: &'t dyn Fn(usize) -> String,
}

/// So many lines before the place are looked at: a brace or quote that is open hides until something else comes.
const LOOK_BACK: usize = 4;

impl Failure<'_> {
    /// What to do about the usual causes.
    pub(super) fn help(&self) -> Option<String> {
        self.tab()
            .or_else(|| self.variable())
            .or_else(|| self.sign_at_begin())
            .or_else(|| self.brace_in_value())
            .or_else(|| self.quote_inside())
            .or_else(|| self.open_quote())
            .or_else(|| self.dash())
            .or_else(|| self.colon_in_brackets())
            .or_else(|| self.open_bracket())
            .or_else(|| self.colon())
            .or_else(|| self.indentation())
    }

    fn line(&self, number: usize) -> &str {
        number.checked_sub(1).and_then(|it| self.lines.get(it)).copied().unwrap_or_default()
    }

    /// The numbers of the line at fault and of some before it, the nearest first.
    fn near(&self) -> impl Iterator<Item = usize> {
        (self.line.saturating_sub(LOOK_BACK).max(1)..=self.line).rev()
    }

    /// The line before that says something.
    fn before(&self) -> Option<&str> {
        (1..self.line).rev().map(|it| self.line(it)).find(|it| {
            let text = it.trim_start();
            !text.is_empty() && !text.starts_with('#')
        })
    }

    /// A text of a line near the place, if people may see it: what could not be read may be a secret.
    fn seen<'v>(&self, text: &'v str) -> &'v str {
        let is_shown = self.near().chain([self.line + 1]).any(|number| (self.shown)(number).contains(text));
        if is_shown { text } else { "…" }
    }

    fn tab(&self) -> Option<String> {
        let tabbed = |number: usize| {
            let line = self.line(number);
            line[..line.len() - line.trim_start().len()].contains('\t')
        };
        // A scalar goes on in the next line, as far as the parser knows.
        if tabbed(self.line) || tabbed(self.line + 1) {
            return Some("indent with spaces, not with tabs".to_owned());
        }
        let behind = self.message.contains("whitespace") && self.line(self.line).contains(":\t");
        behind.then(|| "write a blank behind the colon, not a tab".to_owned())
    }

    fn variable(&self) -> Option<String> {
        let value = self.near().take(2).find_map(|it| unquoted_with(self.line(it), "${"))?;
        Some(format!("write `\"{}\"` in quotes", self.seen(value)))
    }

    fn brace_in_value(&self) -> Option<String> {
        let value = self.near().take(2).find_map(|number| {
            let line = self.line(number);
            values(line).find(|value| {
                let begins = value.starts_with('{') && value.rsplit_once('}').is_some_and(|(_, rest)| !rest.is_empty());
                let inside = !value.starts_with('{') && value.contains('{') && value.contains('}');
                // In a block a brace means nothing but at the begin of a value.
                begins || (inside && self.is_in_brackets(number, line.len() - rest_from(line, value).len()))
            })
        })?;
        Some(format!("a text with braces in it needs quotes: `\"{}\"`", self.seen(value)))
    }

    /// Whether a place, a line and its byte, stands between brackets.
    fn is_in_brackets(&self, number: usize, byte: usize) -> bool {
        let before = self.lines.iter().take(number - 1).copied().chain([&self.line(number)[..byte]]);
        !open_brackets(before).is_empty()
    }

    /// `*`, `@`, `%` and the backtick mean something of their own at the beginning of a value.
    fn sign_at_begin(&self) -> Option<String> {
        if !self.message.contains("anchor") && !self.message.contains("unexpected character") {
            return None;
        }
        let line = self.line(self.line);
        let is_sign = |value: &&str| value.starts_with(['*', '@', '%', '`', '&']);
        let value = values(line).find(is_sign)?;
        Some(format!("a text that begins with `{}` needs quotes: `\"{}\"`", &value[..1], self.seen(value)))
    }

    fn quote_inside(&self) -> Option<String> {
        let inside = self.message.contains("trailing content after");
        inside.then(|| {
            "the text ends with its second quote: a quote inside is written `\\\"`, and `''` between `'`".to_owned()
        })
    }

    fn open_quote(&self) -> Option<String> {
        let odd = |line: &str, quote: char| !line.trim_start().starts_with('#') && line.matches(quote).count() % 2 == 1;
        for number in self.near() {
            let line = self.line(number);
            let open = ['"', '\''].into_iter().find(|quote| odd(line, *quote));
            // An apostrophe within a word opens nothing.
            let word = |it: &str| it.chars().next_back().is_some_and(char::is_alphanumeric);
            let apostrophe = line.split_once('\'').is_some_and(|(head, _)| word(head));
            match open {
                Some('\'') if apostrophe => {}
                Some(quote) => return Some(format!("line {number} opens a quote: close it with another `{quote}`")),
                None => {}
            }
        }
        None
    }

    fn open_bracket(&self) -> Option<String> {
        let words = ["flow", "end of stream", "illegal placement", "node content"];
        if !words.iter().any(|it| self.message.contains(it)) {
            return None;
        }
        let (number, open) = open_brackets(self.lines.iter().take(self.line).copied()).pop()?;
        let close = if open == '[' { ']' } else { '}' };
        Some(format!("line {number} opens a `{open}`: close it with `{close}`"))
    }

    /// `-name: a`, which is a key that begins with a dash.
    fn dash(&self) -> Option<String> {
        let is_key = |number: usize| {
            let key = self.line(number).trim_start().strip_prefix('-').and_then(|it| it.split_once(':')).map(|it| it.0);
            key.is_some_and(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_lowercase() || it == b'_'))
        };
        let found = self.near().take(2).any(is_key);
        found.then(|| "a blank belongs behind the dash of a list, as in `- name: a`".to_owned())
    }

    /// `{ body: hello: world }`.
    fn colon_in_brackets(&self) -> Option<String> {
        if !self.message.contains("flow mapping") {
            return None;
        }
        let entries = self.line(self.line).split(['{', '}', ',', '[', ']']);
        let value = entries.filter_map(|it| Some(it.split_once(": ")?.1.trim())).find(|it| it.contains(": "))?;
        let plain = !value.starts_with(['"', '\'']);
        plain.then(|| format!("a text with a colon in it needs quotes: `\"{}\"`", self.seen(value)))
    }

    fn colon(&self) -> Option<String> {
        if !self.message.contains("mapping values") && !self.message.contains("simple key") {
            return None;
        }
        let unspaced = [self.before().unwrap_or_default(), self.line(self.line)].into_iter().find_map(|line| {
            let (key, value) = entry(line).split_once(':')?;
            let is_key = !key.is_empty() && key.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
            (is_key && value.starts_with(|it: char| it.is_alphanumeric() || it == '"')).then_some((key, value))
        });
        if let Some((key, value)) = unspaced {
            return Some(format!("a blank belongs behind the colon: `{key}: {}`", self.seen(value)));
        }
        let (_, value) = entry(self.line(self.line)).split_once(": ")?;
        if value.contains(": ") && !value.starts_with(['{', '[', '"', '\'']) {
            return Some(format!("a text with a colon in it needs quotes: `\"{}\"`", self.seen(value)));
        }
        self.indentation()
    }

    fn indentation(&self) -> Option<String> {
        let above = self.before()?;
        let (here, there) = (depth(self.line(self.line)), depth(above));
        let block = self.message.contains("block") || self.message.contains("mapping values");
        let opens = above.trim_end().ends_with(':');
        (block && here != there && !(opens && here > there)).then(|| {
            format!(
                "the line above begins after {there} blanks and this one after {here}: what belongs together lines up"
            )
        })
    }
}

/// The blanks before what a line says; the dash of a list's element is one of them.
fn depth(line: &str) -> usize {
    line.len() - entry(line).len()
}

/// What a line says behind its indentation, and behind the dashes of lists.
fn entry(line: &str) -> &str {
    let mut text = line.trim_start();
    while let Some(rest) = text.strip_prefix("- ") {
        text = rest.trim_start();
    }
    text
}

/// The unquoted values in a line, as far as one can say without a parser: they end at a comma or a blank.
fn values(line: &str) -> impl Iterator<Item = &str> {
    let begins = line.match_indices([':', '-', '[', ',']).filter_map(|(at, sign)| {
        let rest = &line[at + 1..];
        let spaced = rest.starts_with(' ') || sign == "[" || sign == ",";
        spaced.then(|| rest.trim_start())
    });
    begins.filter_map(|rest| {
        let mut depth = 0_u32;
        let end = rest.find(|it: char| {
            depth += u32::from(it == '{');
            let closes = it == '}' || it == ']';
            let ends = it == ',' || it.is_whitespace() || (closes && depth == 0);
            depth -= u32::from(it == '}' && depth > 0);
            ends
        });
        let value = &rest[..end.unwrap_or(rest.len())];
        (!value.is_empty() && !value.starts_with(['"', '\'', '[', '#'])).then_some(value)
    })
}

/// A value that holds `sign`, without quotes around it.
fn unquoted_with<'t>(line: &'t str, sign: &str) -> Option<&'t str> {
    values(line).find(|value| value.contains(sign))
}

/// A line from one of its values on.
fn rest_from<'t>(line: &'t str, value: &str) -> &'t str {
    line.find(value).map_or("", |at| &line[at..])
}

/// The brackets that are open behind some lines, each with the number of its line; the innermost is the last. Those in
/// quotes and comments are none.
fn open_brackets<'t>(lines: impl Iterator<Item = &'t str>) -> Vec<(usize, char)> {
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut quote = None;
    for (number, line) in lines.enumerate() {
        let mut before = ' ';
        for letter in line.chars() {
            let begins = before.is_whitespace() || "[{,:".contains(before);
            match (quote, letter) {
                (Some(sign), _) if letter == sign => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') if begins => quote = Some(letter),
                (None, '#') if before.is_whitespace() => break,
                (None, '[' | '{') => open.push((number + 1, letter)),
                (None, ']' | '}') => {
                    let opening = if letter == ']' { '[' } else { '{' };
                    open.pop_if(|it| it.1 == opening);
                }
                (None, _) => {}
            }
            before = letter;
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, line: usize, message: &str, expected: &str) {
        let shown = |number: usize| text.lines().nth(number - 1).unwrap_or_default().to_owned();
        let failure = Failure { lines: text.lines().collect(), line, message, shown: &shown };
        let help = failure.help().unwrap_or_default();
        assert!(help.contains(expected) && (help.is_empty() == expected.is_empty()), "{text}\n{help}");
    }

    #[test]
    fn the_usual_causes_get_a_hint() {
        check("  match: { path: /a/{*rest} }", 1, "flow mapping", "`\"/a/{*rest}\"`");
        check("url: [x, a${B}]", 1, "flow", "`\"a${B}\"`");
        check("a: 1\n\tb: 2", 1, "a tab", "not with tabs");
        check("hosts: [*.example.org]", 1, "unknown anchor", "`\"*.example.org\"`");
        check("name: @a", 1, "unexpected character: `@'", "`\"@a\"`");
        check("- path: \"/a }\n  b: 1", 2, "did not find", "line 1 opens a quote: close it with another `\"`");
        check("m: { path: /a\n  upstream: u", 2, "a flow mapping", "line 1 opens a `{`: close it with `}`");
        check("m: [/a }", 1, "a flow sequence", "`[`");
        check("- a: \"say \"hi\"\"", 1, "invalid trailing content after double-quoted scalar", "second quote");
        check("routes:\n- name: a: b", 2, "mapping values are not allowed", "`\"a: b\"`");
        check("- name:a\n  upstream: u", 2, "mapping values are not allowed", "`name: a`");
        check("  - name: a\n      match: x", 2, "mapping values", "after 4 blanks and this one after 6");
        check("  - name: a\n   match: x", 2, "block collection", "after 4 blanks and this one after 3");
    }

    #[test]
    fn no_hint_is_better_than_a_wrong_one() {
        check("a: it's\nb: c", 2, "odd", "");
        check("version: *one", 1, "odd", "");
        check("", 1, "odd", "");
        check("ä: ö\n\u{feff}", 9, "block", "");
    }
}
