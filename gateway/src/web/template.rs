//! Path templates of `google.api.http`: `/v1/customers/{customer_id}/segment`,
//! `/v1/{name=shelves/*}:move`. The grammar is in google/api/http.proto, "Path template syntax".

use std::{borrow::Cow, fmt, ops::Range, str::FromStr};

use percent_encoding::percent_decode_str;

/// A path with variables for fields of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    variables: Vec<Variable>,
    verb: Option<String>,
}

/// The part between two slashes. Literals sort before wildcards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    /// These characters.
    Literal(String),
    /// Any one segment.
    One,
    /// All further segments.
    Rest,
}

/// A field of the request and the segments that are its value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variable {
    field: String,
    segments: Range<usize>,
}

/// A text that is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a path template")]
pub(super) struct TemplateError(String);

impl Template {
    /// Fields that the path names, in its order.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.variables
            .iter()
            .map(|variable| variable.field.as_str())
    }

    /// Values of the fields, if the path matches the template. `path` is as it was sent.
    pub(super) fn values<'a>(&'a self, path: &str) -> Option<Vec<(&'a str, String)>> {
        let length = path.bytes().filter(|byte| *byte == b'/').count();
        let whole = !matches!(self.segments.last(), Some(Segment::Rest));
        if length < self.segments.len() || (whole && length > self.segments.len()) {
            return None;
        }
        let mut segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        if let Some(verb) = &self.verb {
            let last = segments.last_mut()?;
            *last = last.strip_suffix(verb.as_str())?.strip_suffix(':')?;
        }
        let matched = self
            .segments
            .iter()
            .zip(&segments)
            .all(|(segment, sent)| match segment {
                Segment::Literal(literal) => {
                    decoded(sent).is_some_and(|sent| sent == literal.as_str())
                }
                Segment::One | Segment::Rest => true,
            });
        if !matched {
            return None;
        }
        let value = |variable: &'a Variable| {
            let end = if variable.segments.end == self.segments.len() {
                segments.len()
            } else {
                variable.segments.end
            };
            let parts: Option<Vec<_>> = segments
                .get(variable.segments.start..end)?
                .iter()
                .map(|s| decoded(s))
                .collect();
            Some((variable.field.as_str(), parts?.join("/")))
        };
        self.variables.iter().map(value).collect()
    }

    /// Which template is tried first: literals before wildcards, from left to right, and a template
    /// with a verb before one without.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        (self.segments.clone(), self.verb.is_none())
    }
}

/// A segment without percent-encoding; none if it is not UTF-8.
fn decoded(segment: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(segment).decode_utf8().ok()
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let error = || TemplateError(text.to_owned());
        let path = text.strip_prefix('/').ok_or_else(error)?;
        let (path, verb) = match path.rsplit_once(':') {
            Some((path, verb)) if !verb.contains(['/', '}']) => (path, Some(verb.to_owned())),
            Some(_) | None => (path, None),
        };
        let mut template = Self {
            segments: Vec::new(),
            variables: Vec::new(),
            verb,
        };
        let mut rest = path;
        loop {
            let (taken, after) = match rest.strip_prefix('{') {
                Some(variable) => {
                    let (variable, after) = variable.split_once('}').ok_or_else(error)?;
                    let (field, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
                    let start = template.segments.len();
                    template.segments.extend(pattern.split('/').map(segment));
                    let segments = start..template.segments.len();
                    template.variables.push(Variable {
                        field: field.to_owned(),
                        segments,
                    });
                    (field, after)
                }
                None => {
                    let end = rest.find('/').unwrap_or(rest.len());
                    template.segments.push(segment(&rest[..end]));
                    rest.split_at(end)
                }
            };
            if taken.is_empty() || taken.contains(['{', '}']) {
                return Err(error());
            }
            if after.is_empty() {
                break;
            }
            rest = after.strip_prefix('/').ok_or_else(error)?;
        }
        let rests = template
            .segments
            .iter()
            .rev()
            .skip(1)
            .any(|segment| *segment == Segment::Rest);
        if rests { Err(error()) } else { Ok(template) }
    }
}

fn segment(text: &str) -> Segment {
    match text {
        "*" => Segment::One,
        "**" => Segment::Rest,
        literal => Segment::Literal(literal.to_owned()),
    }
}

/// As OpenAPI writes it: every variable by its name alone.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut index = 0;
        while let Some(segment) = self.segments.get(index) {
            f.write_str("/")?;
            let variable = self
                .variables
                .iter()
                .find(|variable| variable.segments.start == index);
            match (variable, segment) {
                (Some(variable), _) => write!(f, "{{{}}}", variable.field)?,
                (None, Segment::Literal(literal)) => f.write_str(literal)?,
                (None, Segment::One) => f.write_str("*")?,
                (None, Segment::Rest) => f.write_str("**")?,
            }
            index = variable.map_or(index + 1, |variable| variable.segments.end);
        }
        self.verb
            .as_ref()
            .map_or(Ok(()), |verb| write!(f, ":{verb}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        let template: Template = template.parse().unwrap();
        Some(
            template
                .values(path)?
                .into_iter()
                .map(|(field, value)| (field.to_owned(), value))
                .collect(),
        )
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        reason = "a table of paths and the fields that they give"
    )]
    fn a_path_gives_the_values_of_its_fields() {
        let segment = "/v1/customers/{customer_id}/segment";
        struct Case {
            template: &'static str,
            path: &'static str,
            expected: Option<Vec<(&'static str, &'static str)>>,
        }
        for Case {
            template,
            path,
            expected,
        } in [
            Case {
                template: segment,
                path: "/v1/customers/17850/segment",
                expected: Some(vec![("customer_id", "17850")]),
            },
            Case {
                template: segment,
                path: "/v1/customers/a%2Fb%20%C3%A9/segment",
                expected: Some(vec![("customer_id", "a/b é")]),
            },
            Case {
                template: segment,
                path: "/v1/customers/a:b/segment",
                expected: Some(vec![("customer_id", "a:b")]),
            },
            Case {
                template: segment,
                path: "/v1/customers//segment",
                expected: Some(vec![("customer_id", "")]),
            },
            Case {
                template: segment,
                path: "/v1/customers/%ff/segment",
                expected: None,
            },
            Case {
                template: segment,
                path: "/v1/customers/1/2/segment",
                expected: None,
            },
            Case {
                template: segment,
                path: "/v1/customers/1/segments",
                expected: None,
            },
            Case {
                template: segment,
                path: "/v1/customers/1/segment/",
                expected: None,
            },
            Case {
                template: "/v1/churn:score",
                path: "/v1/churn:score",
                expected: Some(vec![]),
            },
            Case {
                template: "/v1/churn:score",
                path: "/v1/churn",
                expected: None,
            },
            Case {
                template: "/v1/churn:score",
                path: "/v1/churnscore",
                expected: None,
            },
            Case {
                template: "/v1/{name=shelves/*}:move",
                path: "/v1/shelves/7:move",
                expected: Some(vec![("name", "shelves/7")]),
            },
            Case {
                template: "/v1/{path=**}",
                path: "/v1/a/b/c",
                expected: Some(vec![("path", "a/b/c")]),
            },
            Case {
                template: "/v1/{a}/x/{b.c}",
                path: "/v1/1/x/2",
                expected: Some(vec![("a", "1"), ("b.c", "2")]),
            },
        ] {
            let expected = expected.map(|e| {
                e.into_iter()
                    .map(|(f, v)| (f.to_owned(), v.to_owned()))
                    .collect::<Vec<_>>()
            });
            assert_eq!(values(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "", "v1", "/", "/v1//x", "/{a", "/a}", "/{a}b", "/**/x", "/{}", "/{=x}",
        ] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    #[test]
    fn it_prints_as_openapi_writes_it() {
        for (text, printed) in [
            (
                "/v1/customers/{customer_id}/segment",
                "/v1/customers/{customer_id}/segment",
            ),
            ("/v1/{name=shelves/*}/books:list", "/v1/{name}/books:list"),
        ] {
            assert_eq!(text.parse::<Template>().unwrap().to_string(), printed);
        }
    }

    proptest! {
        #[test]
        fn any_value_is_found_again(value in "\\PC*") {
            let all = percent_encoding::NON_ALPHANUMERIC;
            let sent = percent_encoding::utf8_percent_encode(&value, all);
            let path = format!("/v1/customers/{sent}/segment");
            prop_assert_eq!(
                values("/v1/customers/{customer_id}/segment", &path),
                Some(vec![("customer_id".to_owned(), value)])
            );
        }

        #[test]
        fn no_text_breaks_it(template in "[/{}=*:a.]{0,20}", path in "[/:%a0-9]{0,20}") {
            if let Ok(template) = template.parse::<Template>() {
                let _ = template.values(&path);
            }
        }
    }
}
