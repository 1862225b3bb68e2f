//! JSON Schema (2020-12) of what goes over the wire, for those who read it in other languages. The two files are also in
//! this crate's directory `schema/`.
//!
//! A schema describes what this version knows. A reader must pass over types and members that it does not know, for the
//! wire grows by addition.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::Input;
use crate::wire::{Body, Stamp, WIRE_VERSION};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Of a line that the supervisor prints: `wire-1.json`.
#[must_use]
pub fn wire() -> Value {
    let mut generator = generator();
    let body = generator.subschema_for::<Body>();
    let known = kinds(&mut generator);
    let stamp = generator.subschema_for::<Stamp>();
    finished(
        &mut generator,
        json!({
            "$schema": DIALECT,
            "title": format!("A line of a supervised run, version {WIRE_VERSION} of the wire"),
            "description": "One JSON object a line on the stdout of `sandtrace run` and `sandtrace attach`. A line whose \
                type begins with `sandtrace.` is the supervisor's; of a type that is not here, it is a newer one's, to be \
                passed over. Every other line is the agent's own, with the member `sandtrace` appended.",
            "type": "object",
            "required": ["sandtrace"],
            "properties": { "sandtrace": stamp },
            "if": {
                "properties": { "type": { "enum": known } },
                "required": ["type"],
            },
            "then": body,
        }),
    )
}

/// Of a line that an interactive agent reads from its stdin: `stdin-1.json`.
#[must_use]
pub fn stdin() -> Value {
    let mut generator = generator();
    let input = Input::json_schema(&mut generator).to_value();
    let mut schema = json!({
        "$schema": DIALECT,
        "title": format!("A line for an interactive agent's stdin, version {WIRE_VERSION} of the wire"),
    });
    if let (Value::Object(schema), Value::Object(input)) = (&mut schema, input) {
        schema.extend(input);
    }
    finished(&mut generator, schema)
}

/// The types of the supervisor's lines.
fn kinds(generator: &mut SchemaGenerator) -> Vec<Value> {
    let body = Body::json_schema(generator).to_value();
    let variants = body["oneOf"].as_array().into_iter().flatten();
    variants
        .map(|variant| variant["properties"]["type"]["const"].clone())
        .collect()
}

fn generator() -> SchemaGenerator {
    // What a reader may rely on: members that older supervisors do not write are not required.
    SchemaSettings::draft2020_12().for_deserialize().into()
}

/// With the definitions that it refers to.
fn finished(generator: &mut SchemaGenerator, mut schema: Value) -> Value {
    if let Value::Object(schema) = &mut schema {
        let definitions = generator.take_definitions(true);
        if !definitions.is_empty() {
            schema.insert("$defs".to_owned(), Value::Object(definitions));
        }
    }
    let Ok(mut schema) = Schema::try_from(schema) else {
        return Value::Bool(false);
    };
    PlainWords.transform(&mut schema);
    schema.to_value()
}

/// Descriptions are written for rustdoc, whose links mean nothing elsewhere.
#[derive(Debug, Clone)]
struct PlainWords;

impl Transform for PlainWords {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(Value::String(description)) = schema.get_mut("description") {
            *description = description.replace("[`", "`").replace("`]", "`");
        }
        transform_subschemas(self, schema);
    }
}
