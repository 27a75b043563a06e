//! The JSON form of each method, and its paths: the `google.api.http` options in the .proto files,
//! read once at the start.

use std::{str::FromStr, sync::Arc};

use http::{Method as Verb, uri::PathAndQuery};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MethodDescriptor, ReflectMessage,
};

use super::template::Template;

/// The option beside an rpc.
const OPTION: &str = "google.api.http";
const VERBS: [(&str, Verb); 5] = [
    ("get", Verb::GET),
    ("put", Verb::PUT),
    ("post", Verb::POST),
    ("delete", Verb::DELETE),
    ("patch", Verb::PATCH),
];

/// One way to call a method over HTTP.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// The HTTP method.
    pub(super) verb: Verb,
    /// The path, with variables for fields.
    pub(super) template: Template,
    /// What the body of a request is.
    pub(super) body: RequestBody,
    /// The method that is called.
    pub(super) method: MethodDescriptor,
    /// Its path in gRPC.
    pub(super) path: PathAndQuery,
}

/// What the body of a request is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RequestBody {
    /// There is none: all fields are in the path and the query.
    None,
    /// All fields that are not in the path.
    Whole,
    /// One field; the others are in the path and the query.
    Field(FieldDescriptor),
}

/// Why a rule cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{method}: google.api.http: {problem}")]
pub(crate) struct RuleError {
    method: String,
    problem: String,
}

/// Every way to call a method over HTTP.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    rules: Vec<Arc<Rule>>,
}

/// What a verb and a path of HTTP stand for.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A call of this rule's method.
    Rule(&'a Arc<Rule>),
    /// A path that has other verbs.
    OtherVerb(Vec<&'a Verb>),
    /// Nothing.
    Nothing,
}

impl Rules {
    /// Reads the options of every method.
    ///
    /// # Errors
    /// [`RuleError`] names the method with options that cannot be used.
    pub(super) fn read(pool: &DescriptorPool) -> Result<Self, RuleError> {
        let Some(option) = pool.get_extension_by_name(OPTION) else {
            return Ok(Self { rules: Vec::new() });
        };
        let mut rules = Vec::new();
        for method in pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
        {
            let options = method.options();
            if !options.has_extension(&option) {
                continue;
            }
            let error = |problem| RuleError {
                method: method.full_name().to_owned(),
                problem,
            };
            let value = options.get_extension(&option);
            let rule = value
                .as_message()
                .ok_or_else(|| error("is not a message".to_owned()))?;
            rules.push(Arc::new(read(&method, rule).map_err(error)?));
            let more = rule.get_field_by_name("additional_bindings");
            for rule in more
                .as_ref()
                .and_then(|more| more.as_list())
                .unwrap_or_default()
            {
                let rule = rule
                    .as_message()
                    .ok_or_else(|| error("is not a message".to_owned()))?;
                rules.push(Arc::new(read(&method, rule).map_err(error)?));
            }
        }
        rules.sort_by_cached_key(|rule| rule.template.precedence());
        Ok(Self { rules })
    }

    /// The rule for a request.
    pub(super) fn find(&self, verb: &Verb, path: &str) -> Found<'_> {
        let mut others = Vec::new();
        for rule in &self.rules {
            if rule.template.values(path).is_some() {
                if rule.verb == *verb {
                    return Found::Rule(rule);
                }
                others.push(&rule.verb);
            }
        }
        if others.is_empty() {
            Found::Nothing
        } else {
            Found::OtherVerb(others)
        }
    }

    /// All rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|rule| &**rule)
    }
}

fn read(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<Rule, String> {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name)?;
        Some(value.as_str()?.to_owned()).filter(|text| !text.is_empty())
    };
    let (verb, template) = VERBS
        .iter()
        .find_map(|(name, verb)| Some((verb.clone(), text(name)?)))
        .ok_or("has none of get, put, post, delete, patch")?;
    if text("response_body").is_some() {
        return Err("has a response_body: an answer is written whole".to_owned());
    }
    let template = Template::from_str(&template).map_err(|error| error.to_string())?;
    let input = method.input();
    for field in template.fields() {
        let first = field.split('.').next().unwrap_or_default();
        input
            .get_field_by_name(first)
            .ok_or_else(|| format!("the request has no field `{first}`"))?;
    }
    let body = match text("body").as_deref() {
        None => RequestBody::None,
        Some("*") => RequestBody::Whole,
        Some(name) => {
            let field = input
                .get_field_by_name(name)
                .ok_or_else(|| format!("the request has no field `{name}`"))?;
            RequestBody::Field(field)
        }
    };
    if method.is_client_streaming() && body != RequestBody::Whole {
        return Err("a stream of requests is in the body".to_owned());
    }
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = PathAndQuery::try_from(path).map_err(|error| error.to_string())?;
    debug_assert_eq!(rule.descriptor().full_name(), "google.api.HttpRule");
    Ok(Rule {
        verb,
        template,
        body,
        method: method.clone(),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules::read(&DescriptorPool::decode(proto::DESCRIPTORS).unwrap()).unwrap()
    }

    #[test]
    fn every_method_of_the_api_has_a_json_form() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        let ours = pool
            .services()
            .filter(|service| service.full_name().starts_with("shopkeeper."));
        let all: usize = ours.map(|service| service.methods().len()).sum();
        assert_eq!(rules().iter().count(), all);
    }

    #[test]
    fn a_path_finds_its_method() {
        struct Case {
            verb: Verb,
            path: &'static str,
            expected: &'static str,
        }
        for Case {
            verb,
            path,
            expected,
        } in [
            Case {
                verb: Verb::GET,
                path: "/v1/customers/17850/churnRisk",
                expected: "GetChurnRisk",
            },
            Case {
                verb: Verb::POST,
                path: "/v1/customers/churnRisks:batchGet",
                expected: "BatchGetChurnRisks",
            },
            Case {
                verb: Verb::POST,
                path: "/v1/transactions:score",
                expected: "ScoreTransaction",
            },
            Case {
                verb: Verb::POST,
                path: "/v1/transactions:scoreStream",
                expected: "ScoreTransactions",
            },
            Case {
                verb: Verb::GET,
                path: "/v1/transactions:score",
                expected: "POST",
            },
            Case {
                verb: Verb::GET,
                path: "/v1/nothing",
                expected: "nothing",
            },
            Case {
                verb: Verb::GET,
                path: "/",
                expected: "nothing",
            },
        ] {
            let rules = rules();
            let found = match rules.find(&verb, path) {
                Found::Rule(rule) => rule.method.name().to_owned(),
                Found::OtherVerb(verbs) => verbs[0].to_string(),
                Found::Nothing => "nothing".to_owned(),
            };
            assert_eq!(found, expected, "{verb} {path}");
        }
    }
}
