//! JSON whose every look is counted. A validator that looks through it stops looking when its allowance is used up,
//! whatever the schema: then nothing has members any more, and what is recursive ends.
//!
//! Schemas that ask for more work with each level of a body are easily written (`oneOf` over recursive variants,
//! `unevaluatedProperties`, lists of every error), and the validator has no bound of its own.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt::Write;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, SerdeJson};
use serde_json::{Map, Number, Value};

thread_local! {
    /// Looks that are left to the validation on this thread.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// So many bytes of a text are one look, when it is matched with a pattern or a format.
const MATCHED_BYTES: usize = 8;
/// And so many when it is only gone through.
const SEEN_BYTES: usize = 64;
/// Comparing everything with everything else costs so many times looking at it.
const COMPARING: u64 = 4;

/// What `work` comes to with so many looks, and how many it took; `None` if they did not suffice.
pub(super) fn within<T>(allowance: u64, work: impl FnOnce() -> T) -> (Option<T>, u64) {
    LEFT.set(allowance);
    let done = work();
    // The last one is never spent by work that had enough.
    let left = LEFT.replace(0);
    ((left > 0).then_some(done), allowance - left)
}

/// Counts looks; false if there are not as many left.
fn spend(looks: u64) -> bool {
    let left = LEFT.get().saturating_sub(looks);
    LEFT.set(left);
    left > 0
}

fn per(bytes: usize, length: usize) -> u64 {
    1 + (length / bytes) as u64
}

/// The representation of JSON that counts.
pub(super) struct Counted;

/// A value whose looks are counted.
#[derive(Clone, Copy)]
pub(super) struct CountedValue<'a>(pub(super) &'a Value);

/// Its members.
pub(super) struct CountedMembers<'a>(&'a Map<String, Value>);

/// Its elements.
pub(super) struct CountedElements<'a>(&'a [Value]);

/// Members one after the other.
pub(super) struct MembersIter<'a>(serde_json::map::Iter<'a>);

/// Elements one after the other.
pub(super) struct ElementsIter<'a>(std::slice::Iter<'a, Value>);

impl Json for Counted {
    type Node<'a> = CountedValue<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(CountedValue<'_>) -> T) -> T {
        spend(per(SEEN_BYTES, string.len()));
        SerdeJson::with_string_node(buffer, string, |it| f(CountedValue(it)))
    }
}

impl<'a> CountedValue<'a> {
    /// The value, for so many looks. To find that it is of another type is a look, too.
    fn look(self, looks: u64) -> Option<&'a Value> {
        spend(looks).then_some(self.0)
    }

    /// The bytes of a text.
    fn length(self) -> usize {
        self.0.as_str().map_or(0, str::len)
    }
}

impl<'a> Node<'a, Counted> for CountedValue<'a> {
    type Object = CountedMembers<'a>;
    type Array = CountedElements<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<CountedMembers<'a>> {
        self.look(1)?.as_object().map(CountedMembers)
    }

    fn as_array(&self) -> Option<CountedElements<'a>> {
        self.look(1)?.as_array().map(|it| CountedElements(it))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        self.look(per(MATCHED_BYTES, self.length()))?.as_str().map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.look(1)?.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        self.look(1)?.as_bool()
    }

    fn is_null(&self) -> bool {
        self.json_type() == JsonType::Null
    }

    fn json_type(&self) -> JsonType {
        if spend(1) { self.0.json_type() } else { JsonType::Null }
    }

    fn string_length(&self) -> Option<u64> {
        self.look(per(SEEN_BYTES, self.length()))?.string_length()
    }

    fn equals_value(&self, expected: &Value) -> bool {
        let looks = match (self.0, expected) {
            (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => weight(self.0),
            (Value::Object(ours), Value::Object(theirs)) if ours.len() == theirs.len() => weight(self.0),
            (Value::String(ours), Value::String(_)) => per(SEEN_BYTES, ours.len()),
            _ => 1,
        };
        spend(looks) && self.0.equals_value(expected)
    }

    /// For errors alone, which quote nothing of it here.
    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        self.0.identity()
    }
}

impl<'a> Object<'a, Counted> for CountedMembers<'a> {
    type Node = CountedValue<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<CountedValue<'a>> {
        self.0.get(key).filter(|_| spend(1)).map(CountedValue)
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

impl<'a> Array<'a, Counted> for CountedElements<'a> {
    type Node = CountedValue<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter(self.0.iter())
    }

    /// By their canonical texts: the hashes of the validator's own way are the same for lists of empty lists, however
    /// they are nested, so that it would compare each with each.
    fn is_unique(&self) -> bool {
        let looks = self.0.iter().map(weight).sum::<u64>().saturating_mul(COMPARING);
        let mut seen = HashSet::new();
        spend(looks) && self.0.iter().all(|it| seen.insert(canonical(it)))
    }
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, CountedValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        // Names are matched with patterns.
        spend(per(MATCHED_BYTES, name.len())).then_some((name, CountedValue(value)))
    }
}

impl<'a> Iterator for ElementsIter<'a> {
    type Item = CountedValue<'a>;

    fn next(&mut self) -> Option<CountedValue<'a>> {
        self.0.next().filter(|_| spend(1)).map(CountedValue)
    }
}

/// The looks that it takes to see all of a value.
fn weight(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => per(SEEN_BYTES, text.len()),
        Value::Array(elements) => 1 + elements.iter().map(weight).sum::<u64>(),
        Value::Object(members) => {
            1 + members.iter().map(|(name, it)| per(SEEN_BYTES, name.len()) + weight(it)).sum::<u64>()
        }
    }
}

/// A text that is the same for values that are equal, whatever the order of members and the way that numbers are
/// written.
fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Number(number) => write_number(number, out),
        Value::Array(elements) => {
            out.push('[');
            for element in elements {
                write_canonical(element, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (name, value) in members {
                let _ = write!(out, "{name:?}:"); // a String takes everything
                write_canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// 1, 1.0 and 1e0 are one number.
fn write_number(number: &Number, out: &mut String) {
    let whole = |it: f64| it.fract() == 0.0 && it.abs() < 2f64.powi(63);
    let _ = match number.as_f64().filter(|it| number.is_f64() && whole(*it)) {
        Some(number) => write!(out, "{}", number as i64),
        None => write!(out, "{number}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn unique(elements: Value) -> bool {
        let elements = elements.as_array().unwrap().clone();
        within(100_000, || Array::is_unique(&CountedElements(&elements))).0.unwrap()
    }

    #[test]
    fn elements_are_unique_by_what_they_mean() {
        for same in [
            json!([1, 2, 1.0]),
            json!([{ "a": 1, "b": 2 }, { "b": 2, "a": 1 }]),
            json!(["a", "a"]),
            json!([[], [[]], []]),
        ] {
            assert!(!unique(same.clone()), "{same}");
        }
        for different in [
            json!([1, "1", true, null, "true", 1.5]),
            json!([[], [[]], [[], []], [[[]]]]),
            json!([["a,b"], ["a", "b"], "[\"a\"]"]),
            json!([18_446_744_073_709_551_615_u64, 18_446_744_073_709_551_614_u64]),
        ] {
            assert!(unique(different.clone()), "{different}");
        }
    }

    #[test]
    fn with_the_last_look_gone_there_is_nothing_more_to_see() {
        let list = json!([1, 2, 3, 4, 5]);
        let seen =
            |allowance| within(allowance, || CountedValue(&list).as_array().map_or(0, |it| it.elements().count()));
        assert_eq!(seen(100), (Some(5), 6));
        assert_eq!(seen(4), (None, 4));
        let (nothing, spent) = within(1, || CountedValue(&list).as_array().is_some());
        assert_eq!((nothing, spent), (None, 1));
    }
}
