//! Messages as JSON, in proto3's own mapping: camelCase out, camelCase or the .proto's names in,
//! 64-bit integers as strings, enums by name, times as RFC 3339. Promise: a value that cannot be
//! read is refused with the name of its field.

use std::fmt;

use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use runtime::Refusal;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, error::Category};
use url::form_urlencoded;

use super::rule::{RequestBody, Rule};

/// Well-known types with a string as JSON, so that a query can hold them.
const STRING_TYPES: [&str; 11] = [
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "google.protobuf.FieldMask",
    "google.protobuf.StringValue",
    "google.protobuf.BytesValue",
    "google.protobuf.Int32Value",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.FloatValue",
    "google.protobuf.DoubleValue",
];

/// A request's message, encoded.
///
/// # Errors
/// [`Refusal::InvalidField`] names what cannot be read.
pub(super) fn request(
    rule: &Rule,
    values: &[(&str, String)],
    target: &PathAndQuery,
    body: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let input = rule.method.input();
    let mut fields = match &rule.body {
        RequestBody::Whole => match parsed(body)? {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(Refusal::field("body", "is not a JSON object"));
            }
        },
        RequestBody::Field(field) => {
            let value = Some(parsed(body)?).filter(|value| !value.is_null());
            value
                .map(|value| (field.json_name().to_owned(), value))
                .into_iter()
                .collect()
        }
        RequestBody::None if body.iter().all(u8::is_ascii_whitespace) => Map::new(),
        RequestBody::None => {
            return Err(Refusal::field(
                "body",
                "is not taken here: fields are in the path and the query",
            ));
        }
    };
    for (name, value) in form_urlencoded::parse(target.query().unwrap_or_default().as_bytes()) {
        if rule.body == RequestBody::Whole {
            return Err(Refusal::field(
                name,
                "is in the query, and all fields are in the body",
            ));
        }
        insert(&mut fields, &input, &name, &value, Place::Query)?;
    }
    for (name, value) in values {
        insert(&mut fields, &input, name, value, Place::Path)?;
    }
    read(&input, Value::Object(fields)).map(|message| message.encode_to_vec())
}

/// One message of a stream, encoded.
///
/// # Errors
/// [`Refusal::InvalidField`] names what cannot be read.
pub(super) fn line(input: &MessageDescriptor, line: &[u8]) -> Result<Vec<u8>, Refusal> {
    read(input, parsed(line)?).map(|message| message.encode_to_vec())
}

/// A message that is written as JSON: fields that are zero are there, messages that are not set are
/// not.
#[derive(Debug)]
pub(super) struct Written(DynamicMessage);

impl Written {
    /// An answer's message.
    ///
    /// # Errors
    /// [`Refusal::Internal`] if the bytes are not such a message.
    pub(super) fn answer(output: MessageDescriptor, message: &[u8]) -> Result<Self, Refusal> {
        DynamicMessage::decode(output, message)
            .map(Self)
            .map_err(|_| Refusal::Internal)
    }

    /// A `google.protobuf.Any`, if the type of the message in it is known.
    pub(super) fn any(any: MessageDescriptor, message: &impl Message) -> Option<Self> {
        let mut written = DynamicMessage::new(any);
        written.transcode_from(message).ok()?;
        let written = Self(written);
        serde_json::to_value(&written).is_ok().then_some(written)
    }
}

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(
            serializer,
            &SerializeOptions::new().skip_default_fields(false),
        )
    }
}

fn parsed(text: &[u8]) -> Result<Value, Refusal> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let Once(value) = serde_json::from_slice(text).map_err(|error| match error.classify() {
        Category::Data => Refusal::field("body", format!("cannot be read: {error}")),
        Category::Io | Category::Syntax | Category::Eof => {
            Refusal::field("body", format!("is not JSON: {error}"))
        }
    })?;
    Ok(value)
}

/// JSON in which no object has a name twice: one of the two values would be lost.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Once;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Once, E> {
                Ok(Once(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Once, E> {
                Ok(Once(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Once, E> {
                Ok(Once(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Once, E> {
                Ok(Once(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Once, E> {
                Ok(Once(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Once, E> {
                Ok(Once(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Once, A::Error> {
                let mut values = Vec::new();
                while let Some(Once(value)) = access.next_element()? {
                    values.push(value);
                }
                Ok(Once(values.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Once, A::Error> {
                let mut values = Map::new();
                while let Some((name, Once(value))) = access.next_entry::<String, Once>()? {
                    if values.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("{name} is given twice")));
                    }
                    values.insert(name, value);
                }
                Ok(Once(values.into()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A field of a message, or of the messages in it, that is given under both its names, if there is
/// one.
fn named_twice(message: &MessageDescriptor, value: &Value) -> Option<String> {
    let Value::Object(values) = value else {
        return None;
    };
    message.fields().find_map(|field| {
        let (name, json_name) = (field.name(), field.json_name());
        if name != json_name && values.contains_key(name) && values.contains_key(json_name) {
            return Some(name.to_owned());
        }
        let (Kind::Message(inner), false) = (field.kind(), field.is_map()) else {
            return None;
        };
        let value = values.get(name).or_else(|| values.get(json_name))?;
        let within = match value.as_array() {
            Some(all) => all.iter().find_map(|value| named_twice(&inner, value)),
            None => named_twice(&inner, value),
        };
        within.map(|within| format!("{name}.{within}"))
    })
}

fn read(input: &MessageDescriptor, value: Value) -> Result<DynamicMessage, Refusal> {
    if let Some(field) = named_twice(input, &value) {
        return Err(Refusal::field(field, "is given twice"));
    }
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(input.clone(), deserializer, &options).map_err(
        |error| {
            let (path, problem) = (track.path().to_string(), error.to_string());
            let path = Some(path).filter(|path| path != ".");
            // prost-reflect names an unknown field only in the text of its error.
            match problem
                .strip_prefix("unrecognized field name '")
                .and_then(|rest| rest.split('\'').next())
            {
                Some(name) => {
                    let field =
                        path.map_or_else(|| name.to_owned(), |path| format!("{path}.{name}"));
                    Refusal::field(field, "is not a field of the request")
                }
                None => Refusal::field(
                    path.as_deref().unwrap_or("body"),
                    format!("cannot be read: {problem}"),
                ),
            }
        },
    )
}

/// The place of a field that is not in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Query,
    Path,
}

/// Adds the value of a field to a message. `a.b` is the field `b` of the message in the field `a`.
fn insert(
    fields: &mut Map<String, Value>,
    message: &MessageDescriptor,
    name: &str,
    text: &str,
    place: Place,
) -> Result<(), Refusal> {
    let mut fields = fields;
    let mut message = message.clone();
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        let field = message
            .get_field_by_name(part)
            .or_else(|| message.get_field_by_json_name(part));
        let field = field.ok_or_else(|| Refusal::field(name, "is not a field of the request"))?;
        let key = [field.name(), field.json_name()]
            .into_iter()
            .find(|key| fields.contains_key(*key));
        let key = key.unwrap_or(field.json_name()).to_owned();
        if parts.peek().is_none() {
            let value =
                value(&field, text).ok_or_else(|| Refusal::field(name, "can only be in a body"))?;
            match fields.get_mut(&key) {
                Some(Value::Array(values)) => values.push(value),
                Some(_) if place == Place::Query => {
                    return Err(Refusal::field(name, "is given twice"));
                }
                Some(given) if *given != value => {
                    return Err(Refusal::field(name, "is another in the path"));
                }
                Some(_) | None if field.is_list() => {
                    drop(fields.insert(key, Value::Array(vec![value])))
                }
                Some(_) | None => drop(fields.insert(key, value)),
            }
            return Ok(());
        }
        let Kind::Message(inner) = field.kind() else {
            return Err(Refusal::field(name, "is not a field of the request"));
        };
        if field.is_list() || field.is_map() {
            return Err(Refusal::field(name, "can only be in a body"));
        }
        let Value::Object(inside) = fields
            .entry(key)
            .or_insert_with(|| Value::Object(Map::new()))
        else {
            return Err(Refusal::field(name, "is given twice"));
        };
        (fields, message) = (inside, inner);
    }
    Ok(())
}

/// The value of a field in a query, as JSON; none if a query cannot hold it. Numbers may be
/// strings in proto3's JSON.
fn value(field: &FieldDescriptor, text: &str) -> Option<Value> {
    if field.is_map() {
        return None;
    }
    Some(match field.kind() {
        Kind::Bool if text == "true" => Value::Bool(true),
        Kind::Bool if text == "false" => Value::Bool(false),
        Kind::Enum(_) => text.parse::<i32>().map_or_else(|_| text.into(), Into::into),
        Kind::Message(message) if message.full_name() == "google.protobuf.BoolValue" => {
            match text {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                other => other.into(),
            }
        }
        Kind::Message(message) if !STRING_TYPES.contains(&message.full_name()) => return None,
        Kind::Double
        | Kind::Float
        | Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Fixed32
        | Kind::Fixed64
        | Kind::Sfixed32
        | Kind::Sfixed64
        | Kind::Bool
        | Kind::String
        | Kind::Bytes
        | Kind::Message(_) => text.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::rule::{Found, Rules};
    use super::*;
    use http::Method as Verb;
    use proptest::prelude::*;
    use prost_reflect::DescriptorPool;

    /// The request's message as JSON, with the fields that are set; or the field that is refused.
    fn asked(verb: Verb, target: &str, body: &str) -> Result<String, String> {
        let rules = Rules::read(&DescriptorPool::decode(proto::DESCRIPTORS).unwrap()).unwrap();
        let target: PathAndQuery = target.parse().unwrap();
        let Found::Rule(rule) = rules.find(&verb, target.path()) else {
            panic!("no rule for {target}")
        };
        let values = rule.template.values(target.path()).unwrap();
        let message = request(rule, &values, &target, body.as_bytes())
            .map_err(|refusal| refusal.to_string())?;
        let message = DynamicMessage::decode(rule.method.input(), &*message).unwrap();
        Ok(serde_json::to_string(&message).unwrap())
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        reason = "a table of requests and the messages that they become"
    )]
    fn fields_come_from_path_query_and_body() {
        struct Case {
            verb: Verb,
            target: &'static str,
            body: &'static str,
            expected: &'static str,
        }
        for Case {
            verb,
            target,
            body,
            expected,
        } in [
            Case {
                verb: Verb::GET,
                target: "/v1/customers/12%2F3/churnRisk",
                body: "",
                expected: r#"{"customerId":"12/3"}"#,
            },
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers?page_size=7&pageToken=x",
                body: " ",
                expected: r#"{"pageSize":7,"pageToken":"x"}"#,
            },
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers?minRiskLevel=RISK_LEVEL_HIGH",
                body: "",
                expected: r#"{"minRiskLevel":"RISK_LEVEL_HIGH"}"#,
            },
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers?min_risk_level=3",
                body: "",
                expected: r#"{"minRiskLevel":"RISK_LEVEL_HIGH"}"#,
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: r#"{"customerIds":["1","2"]}"#,
                expected: r#"{"customerIds":["1","2"]}"#,
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: r#"{"customer_ids":["1"]}"#,
                expected: r#"{"customerIds":["1"]}"#,
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: "",
                expected: "{}",
            },
            Case {
                verb: Verb::GET,
                target: "/v1/customers/7/churnRisk?customerId=7",
                body: "",
                expected: r#"{"customerId":"7"}"#,
            },
        ] {
            assert_eq!(
                asked(verb, target, body).as_deref(),
                Ok(expected),
                "{target} {body}"
            );
        }
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        reason = "a table with a case per mistake in a request"
    )]
    fn a_value_that_cannot_be_read_is_refused_by_name() {
        struct Case {
            verb: Verb,
            target: &'static str,
            body: &'static str,
            expected: &'static str,
        }
        for Case {
            verb,
            target,
            body,
            expected,
        } in [
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers?pagesize=7",
                body: "",
                expected: "pagesize is not a field of the request",
            },
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers?page_size=7&pageSize=8",
                body: "",
                expected: "pageSize is given twice",
            },
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers?page_size=many",
                body: "",
                expected: "pageSize cannot be read",
            },
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers?page_size.x=1",
                body: "",
                expected: "page_size.x is not a field of the request",
            },
            Case {
                verb: Verb::GET,
                target: "/v1/atRiskCustomers",
                body: "{}",
                expected: "body is not taken here",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet?x=1",
                body: "",
                expected: "x is in the query",
            },
            Case {
                verb: Verb::GET,
                target: "/v1/customers/7/churnRisk?customerId=8",
                body: "",
                expected: "customer_id is another in the path",
            },
            Case {
                verb: Verb::PUT,
                target: "/v1/models/churn/current",
                body: r#"{"model":"anomaly"}"#,
                expected: "model is another in the path",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: r#"{"customerIds":["1"],"customerIds":["2"]}"#,
                expected: "body cannot be read: customerIds is given twice",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: r#"{"customerIds":["1"],"customer_ids":["2"]}"#,
                expected: "customer_ids is given twice",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/transactions:score",
                body: r#"{"transaction":{"stockCode":"1","stock_code":"2"}}"#,
                expected: "transaction.stock_code is given twice",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: "{",
                expected: "body is not JSON: EOF",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: "[]",
                expected: "body is not a JSON object",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: r#"{"customerIds":[1]}"#,
                expected: "customerIds[0] cannot be read",
            },
            Case {
                verb: Verb::POST,
                target: "/v1/customers/churnRisks:batchGet",
                body: r#"{"nobody":1}"#,
                expected: "nobody is not a field of the request",
            },
        ] {
            let refused = asked(verb, target, body).unwrap_err();
            assert!(refused.starts_with(expected), "{target} {body}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(query in "[a-z_.=&%0-9]{0,30}", body in "[\\[\\]{}\":,a-z0-9]{0,30}") {
            let _ = asked(Verb::GET, &format!("/v1/atRiskCustomers?{query}"), "");
            let _ = asked(Verb::POST, "/v1/transactions:score", &body);
        }
    }
}
