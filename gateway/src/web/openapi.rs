//! The OpenAPI 3.1 document of the JSON paths, made of the same descriptors, with the comments of
//! the .proto files.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    prost_types::FileDescriptorProto,
};
use serde_json::{Map, Value, json};

use super::rule::{RequestBody, Rule, Rules};

const SUMMARY: &str =
    "What a shop's transactions say about its customers, its sales and its mistakes.";
const DESCRIPTION: &str = "The JSON form of the gRPC API: the same methods, the same answers. \
    Unknown fields and query parameters are refused. Streams are lines of JSON.";
const DETAILS: &str = "Messages of google.rpc: ErrorInfo, BadRequest, ResourceInfo, RetryInfo.";

/// The document.
pub(super) fn document(rules: &Rules) -> Value {
    let mut schemas = Schemas::default();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut tags = BTreeMap::new();
    for rule in rules.iter() {
        let service = rule.method.parent_service();
        let about = comment(service.parent_file_descriptor_proto(), service.path());
        tags.insert(service.name().to_owned(), about);
        let operations = paths.entry(path_of(rule)).or_default();
        operations.insert(
            rule.verb.as_str().to_lowercase(),
            operation(rule, &mut schemas),
        );
    }
    let tags: Vec<_> = tags
        .into_iter()
        .map(|(name, about)| json!({ "name": name, "description": about }))
        .collect();
    let mut components = schemas.written();
    components.insert("Error".to_owned(), error());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Shopkeeper",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": SUMMARY,
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "key": [] }, { "bearer": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
        },
    })
}

/// A path in the names that its parameters have in JSON.
fn path_of(rule: &Rule) -> String {
    let input = rule.method.input();
    rule.template
        .fields()
        .fold(rule.template.to_string(), |path, field| {
            path.replace(
                &format!("{{{field}}}"),
                &format!("{{{}}}", json_path(&input, field)),
            )
        })
}

fn json_path(message: &MessageDescriptor, field: &str) -> String {
    let name = message
        .get_field_by_name(field)
        .map(|field| field.json_name().to_owned());
    name.unwrap_or_else(|| field.to_owned())
}

fn operation(rule: &Rule, schemas: &mut Schemas) -> Value {
    let method = &rule.method;
    let (input, output) = (method.input(), method.output());
    let about = method_comment(method);
    let in_path: BTreeSet<_> = rule.template.fields().collect();
    let mut parameters: Vec<_> = Vec::new();
    let in_query = |field: &FieldDescriptor| match &rule.body {
        RequestBody::Whole => false,
        RequestBody::Field(body) => body != field,
        RequestBody::None => true,
    };
    for field in input.fields() {
        let place = if in_path.contains(field.name()) {
            "path"
        } else {
            "query"
        };
        if place == "query" && (!in_query(&field) || is_message(&field)) {
            continue;
        }
        parameters.push(json!({
            "name": field.json_name(),
            "in": place,
            "required": place == "path",
            "description": field_comment(&field),
            "schema": schemas.field(&field),
        }));
    }
    let (summary, _) = about
        .split_once(". ")
        .unwrap_or((about.trim_end_matches('.'), ""));
    let mut operation = json!({
        "operationId": format!("{}_{}", method.parent_service().name(), method.name()),
        "tags": [method.parent_service().name()],
        "summary": summary,
        "description": about,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": comment(output.parent_file_descriptor_proto(), output.path()),
                "content": content(method.is_server_streaming(), schemas.answer(method)),
            },
            "4XX": { "description": "The request cannot be answered.", "content": failure() },
            "5XX": { "description": "The service cannot answer.", "content": failure() },
        },
    });
    let body = match &rule.body {
        RequestBody::None => None,
        RequestBody::Whole => Some(schemas.message(&input)),
        RequestBody::Field(field) => Some(schemas.field(field)),
    };
    if let Some(schema) = body {
        operation["requestBody"] =
            json!({ "required": true, "content": content(method.is_client_streaming(), schema) });
    }
    operation
}

fn content(stream: bool, schema: Value) -> Value {
    let kind = if stream {
        "application/x-ndjson"
    } else {
        "application/json"
    };
    Value::Object(
        [(kind.to_owned(), json!({ "schema": schema }))]
            .into_iter()
            .collect(),
    )
}

fn failure() -> Value {
    content(false, json!({ "$ref": "#/components/schemas/Error" }))
}

fn error() -> Value {
    json!({
        "type": "object",
        "description": "Why a call is not answered (AIP-193).",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["code", "status", "message"],
            "properties": {
                "code": { "type": "integer", "description": "The HTTP status." },
                "status": {
                    "type": "string",
                    "description": "The code of gRPC, such as NOT_FOUND.",
                },
                "message": { "type": "string", "description": "For people." },
                "details": {
                    "type": "array",
                    "description": DETAILS,
                    "items": { "type": "object", "properties": { "@type": { "type": "string" } } },
                },
            },
        } },
    })
}

fn is_message(field: &FieldDescriptor) -> bool {
    let kind = field.kind();
    kind.as_message()
        .is_some_and(|message| field.is_map() || well_known(message.full_name()).is_none())
}

/// Schemas of the messages and enums that occur.
#[derive(Debug, Default)]
struct Schemas {
    written: Map<String, Value>,
}

impl Schemas {
    fn written(self) -> Map<String, Value> {
        self.written
    }

    /// The schema of an answer: a message, or a line with one.
    fn answer(&mut self, method: &MethodDescriptor) -> Value {
        let message = self.message(&method.output());
        if method.is_server_streaming() {
            let error = json!({ "$ref": "#/components/schemas/Error/properties/error" });
            json!({ "type": "object", "properties": { "result": message, "error": error } })
        } else {
            message
        }
    }

    fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(schema) = well_known(message.full_name()) {
            return schema;
        }
        let name = short(message.full_name());
        if !self.written.contains_key(&name) {
            self.written.insert(name.clone(), Value::Null); // messages may hold themselves
            let properties: Map<String, Value> = message
                .fields()
                .map(|field| {
                    let mut schema = self.field(&field);
                    // Beside a $ref a description is allowed since 3.1.
                    schema["description"] = field_comment(&field).into();
                    (field.json_name().to_owned(), schema)
                })
                .collect();
            let about = comment(message.parent_file_descriptor_proto(), message.path());
            let schema = json!({
                "type": "object",
                "description": about,
                "properties": properties,
                "additionalProperties": false,
            });
            self.written.insert(name.clone(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                return json!({});
            };
            let value = self.one(&entry.map_entry_value_field());
            return json!({ "type": "object", "additionalProperties": value });
        }
        let one = self.one(field);
        if field.cardinality() == Cardinality::Repeated {
            json!({ "type": "array", "items": one })
        } else {
            one
        }
    }

    fn one(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(message) => self.message(&message),
            Kind::Enum(values) => self.choice(&values),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "format": "int32" })
            }
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "format": "uint32" }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": "string", "format": "int64" })
            }
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
        }
    }

    fn choice(&mut self, values: &EnumDescriptor) -> Value {
        let name = short(values.full_name());
        if !self.written.contains_key(&name) {
            let file = values.parent_file_descriptor_proto();
            let lines = values
                .values()
                .map(|value| format!("- `{}`: {}", value.name(), comment(file, value.path())));
            let about = format!(
                "{}\n\n{}",
                comment(file, values.path()),
                lines.collect::<Vec<_>>().join("\n")
            );
            let names: Vec<_> = values
                .values()
                .map(|value| value.name().to_owned())
                .collect();
            self.written.insert(
                name.clone(),
                json!({ "type": "string", "description": about, "enum": names }),
            );
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

/// `shopkeeper.churn.v1.ChurnRisk` is `churn.v1.ChurnRisk`: unique, and short enough to read.
fn short(name: &str) -> String {
    name.strip_prefix("shopkeeper.").unwrap_or(name).to_owned()
}

/// JSON of google.protobuf's and google.rpc's own types.
fn well_known(name: &str) -> Option<Value> {
    Some(match name {
        "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "google.protobuf.Duration" => json!({ "type": "string", "examples": ["1.5s"] }),
        "google.protobuf.Any" => {
            json!({ "type": "object", "properties": { "@type": { "type": "string" } } })
        }
        "google.protobuf.Struct" => json!({ "type": "object" }),
        _ => return None,
    })
}

fn method_comment(method: &MethodDescriptor) -> String {
    comment(
        method.parent_service().parent_file_descriptor_proto(),
        method.path(),
    )
}

fn field_comment(field: &FieldDescriptor) -> String {
    comment(
        field.parent_message().parent_file_descriptor_proto(),
        field.path(),
    )
}

/// What stands before a definition in its .proto, on one line for each paragraph.
fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let info = file.source_code_info.as_ref();
    let location =
        info.and_then(|info| info.location.iter().find(|location| location.path == path));
    let text = location
        .and_then(|location| location.leading_comments.as_deref())
        .unwrap_or_default();
    let paragraphs = text.split("\n\n").map(|paragraph| {
        paragraph
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DescriptorPool;

    #[test]
    fn the_document_says_what_the_protos_say() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        let document = document(&Rules::read(&pool).unwrap());
        let risk = &document["paths"]["/v1/customers/{customerId}/churnRisk"]["get"];
        assert_eq!(risk["operationId"], "ChurnService_GetChurnRisk");
        assert_eq!(risk["parameters"][0]["in"], "path");
        let answer = &risk["responses"]["200"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(answer, "#/components/schemas/churn.v1.GetChurnRiskResponse");
        let field =
            &document["components"]["schemas"]["churn.v1.ChurnRisk"]["properties"]["probability"];
        assert!(
            field["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{field}"
        );
        let stream = &document["paths"]["/v1/transactions:scoreStream"]["post"];
        assert!(stream["requestBody"]["content"]["application/x-ndjson"].is_object());
    }

    #[test]
    fn every_reference_is_there() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        let document = document(&Rules::read(&pool).unwrap());
        let text = document.to_string();
        for reference in text
            .split("\"$ref\":\"#")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
        {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
    }
}
