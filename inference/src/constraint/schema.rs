//! What of a schema is refused before anything is compiled: size, depth, and keywords that would
//! not hold.

use serde_json::{Map, Number, Value, json};

use crate::error::{ConstraintError, Name};

/// Of one schema, spelled without spaces.
const MAX_BYTES: usize = 64 << 10;
/// Of nested arrays and objects.
const MAX_DEPTH: usize = 48;
/// Of all patterns of a schema, those of property names included.
const MAX_PATTERNS: usize = 64;
const MAX_PATTERN_BYTES: usize = 512;
/// Each pair of patterns of names is compared.
const MAX_NAME_PATTERNS: usize = 16;
/// Of one object: more would exceed the bounds of a step.
const MAX_PROPERTIES: usize = 500;
/// Of a number, written out: a range has states for its digits.
const MAX_DIGITS: usize = 24;
/// Of the least common multiple of all divisors, without their points: a number that is read has a
/// state for each remainder.
const MAX_DIVISOR: u64 = 10_000;
/// Of lengths and counts; beyond, a parser counts its way to its bounds.
const MAX_COUNT: u64 = 10_000;

/// Keywords that JSON Schema has and that cannot be held.
const REFUSED: [&str; 19] = [
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    // Not of JSON Schema: it would set how the schema is compiled.
    "x-guidance",
];
const COUNTS: [&str; 6] = [
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
];

/// A schema that may be compiled, with how it is to be compiled.
pub(super) fn check(schema: &Value, strict: bool) -> Result<Value, ConstraintError> {
    let found = schema.to_string().len();
    if found > MAX_BYTES {
        let limit = MAX_BYTES;
        return Err(ConstraintError::TooLarge { found, limit });
    }
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => json!({}),
        _ => return Err(ConstraintError::Invalid),
    };
    let mut check = Check {
        strict,
        patterns: 0,
        divisor: 1,
        path: String::from("#"),
    };
    check.nested(&schema, 0)?;
    check.schema(&mut schema)?;
    if let Value::Object(members) = &mut schema {
        members.insert("x-guidance".to_owned(), options(strict));
    }
    Ok(schema)
}

/// White space is bounded: a model that has nothing to say would go on with it for ever.
fn options(strict: bool) -> Value {
    json!({
        "whitespace_flexible": true,
        "whitespace_pattern": r"\x20|\x0A[\x20\x09]{0,24}",
        "lenient": !strict,
        "coerce_one_of": !strict,
    })
}

struct Check {
    strict: bool,
    patterns: usize,
    /// Of all so far.
    divisor: u64,
    /// Where it is, as a JSON pointer.
    path: String,
}

impl Check {
    /// No deeper than the bound, whatever it means.
    fn nested(&self, value: &Value, depth: usize) -> Result<(), ConstraintError> {
        if depth > MAX_DEPTH {
            return Err(ConstraintError::TooDeep { limit: MAX_DEPTH });
        }
        match value {
            Value::Number(number) if written(number).len() > MAX_DIGITS => {
                Err(ConstraintError::TooComplex)
            }
            Value::Array(values) => values
                .iter()
                .try_for_each(|value| self.nested(value, depth + 1)),
            Value::Object(members) => members
                .values()
                .try_for_each(|value| self.nested(value, depth + 1)),
            _ => Ok(()),
        }
    }

    fn unsupported(&self, keyword: &str) -> ConstraintError {
        ConstraintError::Unsupported {
            keyword: Name::new(keyword),
            place: Name::new(&self.path),
        }
    }

    /// One schema and those in it.
    fn schema(&mut self, schema: &mut Value) -> Result<(), ConstraintError> {
        let members = match schema {
            Value::Object(members) => members,
            Value::Bool(_) => return Ok(()),
            _ => return Err(ConstraintError::Invalid),
        };
        // Says nothing.
        if members.get("uniqueItems") == Some(&Value::Bool(false)) {
            members.shift_remove("uniqueItems");
        }
        for keyword in REFUSED {
            let is_there = members.contains_key(keyword);
            if is_there && (self.strict || keyword == "x-guidance") {
                return Err(self.unsupported(keyword));
            }
            members.shift_remove(keyword);
        }
        self.reference(members)?;
        self.bounds(members)?;
        self.multiples(members)?;
        let properties = members.get("properties").and_then(Value::as_object);
        if properties.is_some_and(|properties| properties.len() > MAX_PROPERTIES) {
            return Err(ConstraintError::TooComplex);
        }
        let names = members.get("patternProperties").and_then(Value::as_object);
        for pattern in names.into_iter().flat_map(Map::keys) {
            self.patterns += 1;
            if pattern.len() > MAX_PATTERN_BYTES {
                return Err(ConstraintError::TooComplex);
            }
        }
        if names.is_some_and(|names| names.len() > MAX_NAME_PATTERNS)
            || self.patterns > MAX_PATTERNS
        {
            return Err(ConstraintError::TooComplex);
        }
        for (keyword, value) in members {
            self.member(keyword, value)?;
        }
        Ok(())
    }

    /// Nothing is fetched, and names within a pointer are not escaped.
    fn reference(&self, members: &Map<String, Value>) -> Result<(), ConstraintError> {
        let Some(reference) = members.get("$ref") else {
            return Ok(());
        };
        let is_local =
            |text: &str| (text == "#" || text.starts_with("#/")) && !text.contains(['~', '%']);
        match reference.as_str() {
            Some(text) if is_local(text) => Ok(()),
            _ => Err(self.unsupported("$ref")),
        }
    }

    /// Divisors may meet in one number by way of references: all of them are bounded together.
    fn multiples(&mut self, members: &Map<String, Value>) -> Result<(), ConstraintError> {
        let Some(Value::Number(divisor)) = members.get("multipleOf") else {
            return Ok(());
        };
        let digits = written(divisor).replace(['.', '-'], "");
        let divisor: Option<u64> = digits.parse().ok().filter(|divisor| *divisor > 0);
        let multiple = divisor.and_then(|divisor| {
            (self.divisor / common(self.divisor, divisor)).checked_mul(divisor)
        });
        match multiple {
            Some(multiple) if multiple <= MAX_DIVISOR => {
                self.divisor = multiple;
                Ok(())
            }
            _ => Err(self.unsupported("multipleOf")),
        }
    }

    fn bounds(&mut self, members: &Map<String, Value>) -> Result<(), ConstraintError> {
        for keyword in COUNTS {
            let count = members.get(keyword).and_then(Value::as_u64);
            if count.is_some_and(|count| count > MAX_COUNT) {
                return Err(self.unsupported(keyword));
            }
        }
        if let Some(pattern) = members.get("pattern").and_then(Value::as_str) {
            self.patterns += 1;
            if pattern.len() > MAX_PATTERN_BYTES {
                return Err(ConstraintError::TooComplex);
            }
        }
        Ok(())
    }

    /// The schemas in one member of a schema.
    fn member(&mut self, keyword: &str, value: &mut Value) -> Result<(), ConstraintError> {
        let length = self.path.len();
        match (keyword, value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(schemas),
            ) => {
                for (name, schema) in schemas {
                    self.path += &format!("/{keyword}/{name}");
                    self.schema(schema)?;
                    self.path.truncate(length);
                }
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                for (at, schema) in schemas.iter_mut().enumerate() {
                    self.path += &format!("/{keyword}/{at}");
                    self.schema(schema)?;
                    self.path.truncate(length);
                }
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => {
                self.path += &format!("/{keyword}");
                self.schema(schema)?;
                self.path.truncate(length);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A number without an exponent.
fn written(number: &Number) -> String {
    match number.as_f64() {
        Some(value) => value.to_string(),
        None => number.to_string(),
    }
}

/// The greatest common divisor.
fn common(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => common(b, a % b),
    }
}
