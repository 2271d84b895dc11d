//! How much a schema asks for at one place of a body before it descends. `$ref`, `allOf` and their like apply further
//! schemas to the same value, and a few lines of them that name each other twice come to more applications than can
//! ever be made; some look at nothing, so that counting looks ends none of them.
//!
//! So it is known before the first body: the applications that follow from each subschema are the sum of those of
//! the subschemas that it applies in place, however they are shared. A schema that applies itself in place would never
//! end (JSON Schema 2020-12, core, section 9.4.1).

use std::collections::{HashMap, HashSet};

use jsonschema::{Draft, ReferencingError, Registry, Uri, uri};
use serde_json::Value;

/// Applications at one value that a schema may come to. Catalogues with a thousand variants come to some thousands.
const APPLICATIONS_MAX: u64 = 10_000;
/// Steps from one schema to the next at one value; as deep as the stack may get there.
const CHAIN_MAX: usize = 64;
/// So many applications that look at nothing are paid for by a look at the body.
const UNPAID_BY_LOOK: u64 = 16;
/// Where the schema is while it is analysed.
const BASE: &str = "json-schema:///";

/// Keywords that apply one schema in place.
const ONE: [&str; 4] = ["not", "if", "then", "else"];
/// Keywords that apply each of a list.
const EACH: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords that apply each of a mapping.
const NAMED: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords that look at the value, whatever it is.
const LOOKS: [&str; 16] = [
    "type",
    "enum",
    "const",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "propertyNames",
];

/// Why a schema can't be applied: where in the file, and what is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endless {
    /// A JSON Pointer.
    pub(super) place: String,
    pub(super) what: String,
}

/// What applying a schema to one value comes to.
#[derive(Clone, Copy)]
struct Extent {
    applications: u64,
    /// Of these, the ones that no look at the value pays for.
    unpaid: u64,
    chain: usize,
}

/// A subschema, with what its references are relative to.
#[derive(Clone)]
struct Subschema<'s> {
    schema: &'s Value,
    base: Uri<String>,
    draft: Draft,
}

struct Analysis<'s, 'r> {
    registry: &'s Registry<'r>,
    /// Whom a dynamic reference may mean: the schemas with a dynamic anchor of this name; of those of
    /// `$recursiveAnchor`, it is empty.
    dynamic: HashMap<&'s str, Vec<Subschema<'s>>>,
    /// By the place in memory: `None` while it is under way.
    extents: HashMap<*const Value, Option<Extent>>,
    seen: HashSet<*const Value>,
    /// What is still to be gone through: what references lead to may be outside of all that is known to be a schema.
    ahead: Vec<Subschema<'s>>,
}

/// A subschema at fault, and what is wrong with it.
struct Fault(*const Value, String);

/// What a look at the body has to pay for, in looks, so that what the schema does besides stays in proportion.
///
/// # Errors
/// A schema that applies itself to the same value, or applies more schemas to one value than can be gone through.
pub(super) fn price_of_look(schema: &Value, draft: Draft) -> Result<u64, Endless> {
    let wrong = |error: ReferencingError| Endless { place: "/".to_owned(), what: error.to_string() };
    let registry = Registry::new().draft(draft).add(BASE, schema).and_then(|it| it.prepare()).map_err(wrong)?;
    let base = uri::from_str(BASE).map_err(wrong)?;
    let mut analysis = Analysis {
        registry: &registry,
        dynamic: HashMap::new(),
        extents: HashMap::new(),
        seen: HashSet::new(),
        ahead: Vec::new(),
    };
    let root = analysis.based(&Subschema { schema, base, draft }, schema);
    analysis.find_dynamic(&root);
    analysis.ahead.push(root);
    let unpaid = analysis.all().map_err(|Fault(at, what)| Endless { place: place_of(schema, at), what })?;
    Ok(1 + unpaid / UNPAID_BY_LOOK)
}

impl<'s> Analysis<'s, '_> {
    /// Goes through all subschemas; the most unpaid applications that one of them comes to.
    fn all(&mut self) -> Result<u64, Fault> {
        let mut most = 0;
        while let Some(next) = self.ahead.pop() {
            if !self.seen.insert(next.schema) {
                continue;
            }
            most = most.max(self.extent(&next, 0)?.unpaid);
            let below = next.draft.subresources_of(next.schema).map(|it| self.based(&next, it));
            let below: Vec<Subschema<'s>> = below.collect();
            self.ahead.extend(below);
        }
        Ok(most)
    }

    fn extent(&mut self, subschema: &Subschema<'s>, depth: usize) -> Result<Extent, Fault> {
        let at: *const Value = subschema.schema;
        match self.extents.get(&at) {
            Some(Some(extent)) => return Ok(*extent),
            Some(None) => return Err(Fault(at, "applies itself to the same value, without end".to_owned())),
            None if depth > CHAIN_MAX => return Err(Fault(at, too_long())),
            None => self.extents.insert(at, None),
        };
        let mut sum = Extent { applications: 1, unpaid: 0, chain: 1 };
        let (mut children, mut paying) = (0, 0);
        for child in self.applied_in_place(subschema) {
            let extent = self.extent(&child, depth + 1)?;
            sum.applications = sum.applications.saturating_add(extent.applications);
            sum.unpaid = sum.unpaid.saturating_add(extent.unpaid);
            sum.chain = sum.chain.max(extent.chain + 1);
            children += 1;
            paying += usize::from(extent.unpaid == 0);
        }
        if !looks(subschema.schema) && (children == 0 || paying < children) {
            sum.unpaid = sum.unpaid.saturating_add(1);
        }
        if sum.applications > APPLICATIONS_MAX {
            return Err(Fault(at, format!("applies more than {APPLICATIONS_MAX} schemas to the same value")));
        }
        if sum.chain > CHAIN_MAX {
            return Err(Fault(at, too_long()));
        }
        self.extents.insert(at, Some(sum));
        Ok(sum)
    }

    fn applied_in_place(&mut self, subschema: &Subschema<'s>) -> Vec<Subschema<'s>> {
        let Some(keywords) = subschema.schema.as_object() else { return Vec::new() };
        let one = ONE.iter().filter_map(|it| keywords.get(*it));
        let each = EACH.iter().filter_map(|it| keywords.get(*it)?.as_array()).flatten();
        let named = NAMED.iter().filter_map(|it| keywords.get(*it)?.as_object()).flat_map(|it| it.values());
        let schemas = one.chain(each).chain(named).filter(|it| it.is_object() || it.is_boolean());
        let mut applied: Vec<Subschema<'s>> = schemas.map(|it| self.based(subschema, it)).collect();
        for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
            let Some(reference) = keywords.get(keyword).and_then(Value::as_str) else { continue };
            let anchor = match keyword {
                "$ref" => None,
                "$recursiveRef" => Some(""),
                _ => reference.rsplit_once('#').map(|(_, name)| name),
            };
            let meant = anchor.and_then(|it| self.dynamic.get(it)).cloned().unwrap_or_default();
            let found = self.found(subschema, reference);
            self.ahead.extend(found.clone());
            applied.extend(found.into_iter().chain(meant));
        }
        applied
    }

    /// What a reference leads to. The compiler has resolved all of them before.
    fn found(&self, from: &Subschema<'s>, reference: &str) -> Option<Subschema<'s>> {
        let (schema, resolver, draft) = self.registry.resolver(from.base.clone()).lookup(reference).ok()?.into_inner();
        let at = Subschema { schema, base: (*resolver.base_uri()).clone(), draft };
        Some(self.based(&at, schema))
    }

    /// A subschema of another, which may say that its references are relative to something else.
    fn based(&self, parent: &Subschema<'s>, schema: &'s Value) -> Subschema<'s> {
        let id = schema.get(parent.draft.id_keyword()).and_then(Value::as_str).filter(|it| !it.starts_with('#'));
        let base = id.and_then(|id| self.registry.resolve_uri(&parent.base.borrow(), id).ok());
        let base = base.map_or_else(|| parent.base.clone(), |it| (*it).clone());
        Subschema { schema, base, draft: parent.draft.detect(schema) }
    }

    fn find_dynamic(&mut self, subschema: &Subschema<'s>) {
        let anchor = subschema.schema.get("$dynamicAnchor").and_then(Value::as_str);
        let recursive = (subschema.schema.get("$recursiveAnchor") == Some(&Value::Bool(true))).then_some("");
        for name in anchor.into_iter().chain(recursive) {
            self.dynamic.entry(name).or_default().push(subschema.clone());
        }
        for below in subschema.draft.subresources_of(subschema.schema) {
            self.find_dynamic(&self.based(subschema, below));
        }
    }
}

fn too_long() -> String {
    format!("leads to the same value through more than {CHAIN_MAX} schemas")
}

/// Whether applying it looks at the value, so that the allowance of looks bounds how often that happens.
fn looks(schema: &Value) -> bool {
    let some = |keyword: &str| match schema.get(keyword) {
        Some(Value::Object(members)) => !members.is_empty(),
        Some(Value::Array(elements)) => !elements.is_empty(),
        _ => false,
    };
    LOOKS.iter().any(|it| schema.get(*it).is_some()) || some("properties") || some("required")
}

/// The JSON Pointer of what stands at this place in memory.
fn place_of(schema: &Value, at: *const Value) -> String {
    fn find(value: &Value, at: *const Value, path: &mut String) -> bool {
        if std::ptr::eq(value, at) {
            return true;
        }
        let length = path.len();
        let mut below = |step: &str, value: &Value| {
            path.push('/');
            path.push_str(&step.replace('~', "~0").replace('/', "~1"));
            let found = find(value, at, path);
            if !found {
                path.truncate(length);
            }
            found
        };
        match value {
            Value::Object(members) => members.iter().any(|(name, it)| below(name, it)),
            Value::Array(elements) => elements.iter().enumerate().any(|(number, it)| below(&number.to_string(), it)),
            _ => false,
        }
    }
    let mut path = String::from("#");
    find(schema, at, &mut path);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn price(schema: &Value) -> Result<u64, (String, String)> {
        let draft = Draft::default().detect(schema);
        price_of_look(schema, draft).map_err(|it| (it.place, it.what))
    }

    /// Each of `depth` schemas applies the next one `fan` times.
    fn tower(fan: usize, depth: usize, keyword: &str, leaf: &Value) -> Value {
        let floor = |it: usize| json!({ keyword: vec![json!({ "$ref": format!("#/$defs/a{}", it + 1) }); fan] });
        let mut floors: Map<String, Value> = (0..depth).map(|it| (format!("a{it}"), floor(it))).collect();
        floors.insert(format!("a{depth}"), leaf.clone());
        json!({ "$defs": floors, "properties": { "x": { "$ref": "#/$defs/a0" } } })
    }

    #[test]
    fn s2s_38_a_schema_that_applies_too_much_to_one_value_is_found_out() {
        for leaf in [json!(true), json!({ "minLength": 3 }), json!({ "type": "string" })] {
            for keyword in ["allOf", "anyOf", "oneOf"] {
                for (fan, depth) in [(2, 30), (4, 10)] {
                    let (place, what) = price(&tower(fan, depth, keyword, &leaf)).unwrap_err();
                    assert!(place.starts_with("#/$defs/a") && what.contains("10000 schemas"), "{place} {what}");
                }
            }
        }
        assert!(price(&tower(1, 30, "allOf", &json!(true))).is_ok(), "no more than a chain");
        assert!(price(&tower(1, 70, "allOf", &json!(true))).unwrap_err().1.contains("through more than 64"));
    }

    #[test]
    fn what_looks_at_nothing_raises_the_price_of_looks() {
        let wide = |leaf: Value| price(&json!({ "items": { "anyOf": vec![leaf; 1600] } }));
        assert_eq!(wide(json!(false)), Ok(101));
        assert_eq!(wide(json!({ "properties": {} })), Ok(101));
        assert_eq!(wide(json!({ "not": { "properties": {} } })), Ok(201));
        assert_eq!(wide(json!({ "type": "string" })), Ok(1));
    }

    #[test]
    fn what_applies_itself_to_the_same_value_is_found_out() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "items": { "anyOf": [{ "not": { "$ref": "#/items" } }] } }),
            json!({ "$id": "http://a/b", "$defs": { "c": { "$anchor": "d", "if": { "$ref": "b#d" } } } }),
            json!({ "$dynamicAnchor": "x", "allOf": [{ "$dynamicRef": "#x" }] }),
            json!({ "$ref": "#/odd/place", "odd": { "place": { "oneOf": [{ "$ref": "#/odd/place" }] } } }),
        ] {
            let fault = price(&schema).unwrap_err();
            assert!(fault.1.contains("itself") && fault.0.starts_with('#'), "{schema} {fault:?}");
        }
        for schema in [
            json!({ "properties": { "next": { "$ref": "#" } } }),
            json!({ "$ref": "https://json-schema.org/draft/2020-12/schema" }),
            json!({ "$dynamicAnchor": "x", "items": { "$dynamicRef": "#x" } }),
        ] {
            assert_eq!(price(&schema).map(|it| it < 5), Ok(true), "{schema}");
        }
    }
}
