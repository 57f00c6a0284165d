//! The published schema says exactly what is stated: real statements keep its rules, and whoever
//! breaks one is refused by the schema and by our reader alike.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use attest::Digest;
use attest::release::statement::{
    MAX_NUMBER, Revocation, SnpLaunchDigest, SnpReferenceValues, TdxReferenceValues, TdxRegisters,
};
use attest::release::{Statement, StatementError};
use common::Site;
use serde_json::{Value, json};

fn schema() -> Value {
    let document = include_str!("../../docs/release.md");
    let block = document.split("```json\n").nth(1).unwrap();
    serde_json::from_str(block.split("```").next().unwrap()).unwrap()
}

/// A statement with everything that one can hold.
fn full() -> Value {
    let site = Site::new();
    site.assemble("out").unwrap();
    let mut statement = site.statement(7).unwrap();
    let machine: attest::Name = "qemu-epyc-genoa-8".parse().unwrap();
    let digest = Digest::sha384(b"measured");
    statement.predicate.revocations = vec![Revocation {
        version: 5,
        reason: "a reason".parse().unwrap(),
    }];
    statement.predicate.reference_values.snp = Some(SnpReferenceValues {
        launch_digests: vec![SnpLaunchDigest {
            machine: machine.clone(),
            digest,
        }],
    });
    statement.predicate.reference_values.tdx = Some(TdxReferenceValues {
        machines: vec![TdxRegisters {
            machine,
            mrtd: digest,
            rtmr0: Some(digest),
            rtmr1: digest,
            rtmr2: digest,
        }],
    });
    serde_json::from_slice(&statement.encode()).unwrap()
}

/// Whether `value` keeps `rule`. A keyword that this does not know would go unchecked: it panics.
fn keeps(value: &Value, rule: &Value, root: &Value) -> bool {
    rule.as_object()
        .unwrap()
        .iter()
        .all(|(keyword, wanted)| match keyword.as_str() {
            "$id" | "$schema" | "$defs" => true,
            "$ref" => {
                let name = wanted.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                keeps(value, &root["$defs"][name], root)
            }
            "const" => value == wanted,
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_u64(),
                other => panic!("type {other}"),
            },
            "minimum" => value
                .as_u64()
                .is_some_and(|found| found >= wanted.as_u64().unwrap()),
            "maximum" => value
                .as_u64()
                .is_some_and(|found| found <= wanted.as_u64().unwrap()),
            "minItems" => items(value).len() as u64 >= wanted.as_u64().unwrap(),
            "maxItems" => items(value).len() as u64 <= wanted.as_u64().unwrap(),
            "items" => items(value).iter().all(|item| keeps(item, wanted, root)),
            "pattern" => value
                .as_str()
                .is_some_and(|text| matches(text, wanted.as_str().unwrap())),
            "required" => items(wanted)
                .iter()
                .all(|key| value.get(key.as_str().unwrap()).is_some()),
            "properties" => wanted
                .as_object()
                .unwrap()
                .iter()
                .all(|(key, rule)| value.get(key).is_none_or(|value| keeps(value, rule, root))),
            "additionalProperties" => value.as_object().is_some_and(|object| {
                object
                    .keys()
                    .all(|key| rule["properties"].get(key).is_some())
            }),
            other => panic!("keyword {other}"),
        })
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The few patterns of the schema.
fn matches(text: &str, pattern: &str) -> bool {
    let hexadecimal = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    match pattern {
        "^[0-9a-f]{64}$" => text.len() == 64 && text.chars().all(hexadecimal),
        "^[0-9a-f]{96}$" => text.len() == 96 && text.chars().all(hexadecimal),
        "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" => text.parse::<attest::Name>().is_ok(),
        "^[!-~]([ -~]{0,198}[!-~])?$" => {
            let ends = [text.chars().next(), text.chars().next_back()];
            (1..=200).contains(&text.len())
                && text.chars().all(|c| (' '..='~').contains(&c))
                && ends.iter().flatten().all(|c| ('!'..='~').contains(c))
        }
        r"^(0|[1-9][0-9]{0,4})(\.(0|[1-9][0-9]{0,4})){2}$" => {
            let mut parts = text.split('.');
            let number = |part: &str| {
                (1..=5).contains(&part.len())
                    && part.chars().all(|c| c.is_ascii_digit())
                    && (part == "0" || !part.starts_with('0'))
            };
            parts.clone().count() == 3 && parts.all(number)
        }
        other => panic!("pattern {other}"),
    }
}

/// Whether our reader takes it, in the order of keys that it had.
fn read(value: &Value) -> bool {
    // Serialising a value sorts its keys, and only the order decides the spelling. No schema can
    // say that subjects are sorted.
    let bytes = serde_json::to_vec(value).unwrap();
    match Statement::decode(&bytes) {
        Ok(_) | Err(StatementError::NotCanonical | StatementError::Subjects) => true,
        Err(_) => false,
    }
}

/// Every place in a value, by its pointer.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            places(value, &format!("{at}/{key}"), into);
        }),
        Value::Array(items) => items.iter().take(1).for_each(|value| {
            places(value, &format!("{at}/0"), into);
        }),
        _ => {}
    }
}

#[test]
fn real_statements_keep_the_published_schema() {
    let (schema, full) = (schema(), full());
    assert!(keeps(&full, &schema, &schema));
    let site = Site::new();
    site.assemble("out").unwrap();
    let plain = site.statement(1).unwrap();
    let plain: Value = serde_json::from_slice(&plain.encode()).unwrap();
    assert!(keeps(&plain, &schema, &schema));
    assert!(read(&full) && read(&plain));
}

#[test]
fn schema_and_reader_refuse_the_same() {
    let (schema, full) = (schema(), full());
    let mut all = Vec::new();
    places(&full, "", &mut all);
    assert!(all.len() > 40, "{all:?}");
    let optional = ["rtmr0", "snp", "tdx"];
    for place in &all {
        let agree = |changed: &Value, refused: bool, what: &str| {
            assert_eq!(
                !keeps(changed, &schema, &schema),
                refused,
                "{what} {place}: schema"
            );
            assert_eq!(!read(changed), refused, "{what} {place}: reader");
        };
        let mut wrong = full.clone();
        *wrong.pointer_mut(place).unwrap() = json!(true);
        agree(&wrong, true, "another type at");
        if full.pointer(place).unwrap().is_object() {
            let mut more = full.clone();
            more.pointer_mut(place).unwrap()["surplus"] = json!(1);
            agree(&more, true, "a further key at");
        }
        if let Some((parent, key)) = place.rsplit_once('/') {
            let mut less = full.clone();
            if let Some(object) = less.pointer_mut(parent).unwrap().as_object_mut() {
                object.remove(key);
                agree(&less, !optional.contains(&key), "without");
            }
        }
        if full.pointer(place).unwrap().is_string() {
            let mut wrong = full.clone();
            *wrong.pointer_mut(place).unwrap() = json!("\u{1b}");
            agree(&wrong, true, "another text at");
            for text in [
                " x",
                "x ",
                "",
                "x",
                "01.2.3",
                "1.2.99999",
                "1.2.100000",
                "a b",
            ] {
                let mut other = full.clone();
                *other.pointer_mut(place).unwrap() = json!(text);
                agree(&other, !keeps(&other, &schema, &schema), text);
            }
        }
        if full.pointer(place).unwrap().is_u64() {
            for number in [0, 1, MAX_NUMBER, MAX_NUMBER + 1, u64::MAX] {
                let mut other = full.clone();
                *other.pointer_mut(place).unwrap() = json!(number);
                agree(
                    &other,
                    !keeps(&other, &schema, &schema),
                    &number.to_string(),
                );
            }
        }
    }
    let values = "/predicate/reference_values";
    for list in [
        "/subject".to_owned(),
        format!("{values}/snp/launch_digests"),
        format!("{values}/tdx/machines"),
    ] {
        let mut empty = full.clone();
        *empty.pointer_mut(&list).unwrap() = json!([]);
        assert!(!keeps(&empty, &schema, &schema) && !read(&empty), "{list}");
    }
    let mut many = full;
    let revocation = many["predicate"]["revocations"][0].clone();
    many["predicate"]["revocations"] = vec![revocation; 65].into();
    assert!(!keeps(&many, &schema, &schema) && !read(&many));
}
