//! Path of a call, with places for parameters: `/v1/customers/{id}/notes?expand=1`.

use std::collections::BTreeMap;

use reqwest::Url;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(String),
    Parameter(String),
}

/// A parsed path template. A parameter's value always stays within its own segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathTemplate {
    segments: Vec<Vec<Part>>,
    query: Option<String>,
}

/// Why a URL cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    /// No value was given.
    #[error("path parameter `{0}` is not given")]
    Missing(String),
    /// The value would change the path's shape.
    #[error("path parameter `{0}` is empty or a dot segment")]
    NotASegment(String),
    /// The base URL cannot carry a path.
    #[error("the base URL cannot carry a path")]
    NotABase,
}

impl PathTemplate {
    /// Parses `text`. `None` when a brace is not closed or a name is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (text, None),
        };
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() {
            return Some(Self { segments: Vec::new(), query });
        }
        let segments = path.split('/').map(segment).collect::<Option<_>>()?;
        Some(Self { segments, query })
    }

    /// Names of its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().flatten().filter_map(|part| match part {
            Part::Parameter(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The URL below `base`, with the values of `parameters` percent-encoded.
    ///
    /// # Errors
    /// [`PathError`] when a value is missing or would change the path's shape.
    pub fn url(&self, base: &Url, parameters: &BTreeMap<String, String>) -> Result<Url, PathError> {
        let mut url = base.clone();
        if !self.segments.is_empty() {
            let mut path = url.path_segments_mut().map_err(|()| PathError::NotABase)?;
            path.pop_if_empty();
            for segment in &self.segments {
                path.push(&render(segment, parameters)?);
            }
        }
        if let Some(query) = &self.query {
            url.set_query(Some(query));
        }
        Ok(url)
    }
}

fn segment(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name || literal.contains('}') {
            return None;
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        parts.push(Part::Parameter(name.to_owned()));
        rest = after;
    }
    if rest.contains('}') {
        return None;
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Some(parts)
}

fn render(segment: &[Part], parameters: &BTreeMap<String, String>) -> Result<String, PathError> {
    let mut text = String::new();
    for part in segment {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Parameter(name) => {
                let value = parameters.get(name).ok_or_else(|| PathError::Missing(name.clone()))?;
                if value.is_empty() {
                    return Err(PathError::NotASegment(name.clone()));
                }
                text.push_str(value);
            }
        }
    }
    // `Url` drops dot segments, also encoded ones, so that they would move the call to another path.
    let dots = text.to_ascii_lowercase().replace("%2e", ".");
    match segment.iter().find_map(|part| match part {
        Part::Parameter(name) => Some(name),
        Part::Literal(_) => None,
    }) {
        Some(name) if dots == "." || dots == ".." => Err(PathError::NotASegment(name.clone())),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(template: &str, base: &str, parameters: &[(&str, &str)]) -> Result<String, PathError> {
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let template = PathTemplate::parse(template).expect("a template");
        template.url(&Url::parse(base).expect("a URL"), &parameters).map(String::from)
    }

    #[test]
    fn parameters_are_encoded_within_their_segment() {
        assert_eq!(
            url(
                "/v1/customers/{id}/n-{n}.json?expand=1",
                "https://a.test/api/",
                &[("id", "a/b?c#d é"), ("n", "7")]
            )
            .as_deref(),
            Ok("https://a.test/api/v1/customers/a%2Fb%3Fc%23d%20%C3%A9/n-7.json?expand=1")
        );
        assert_eq!(url("", "https://a.test/hook/x", &[]).as_deref(), Ok("https://a.test/hook/x"));
        for value in ["", ".", "..", "%2e%2E"] {
            assert_eq!(
                url("/a/{id}", "https://a.test", &[("id", value)]),
                Err(PathError::NotASegment(String::from("id")))
            );
        }
        assert_eq!(url("/a/{id}", "https://a.test", &[]), Err(PathError::Missing(String::from("id"))));
    }

    #[test]
    fn broken_templates_are_refused() {
        for text in ["/a/{id", "/a/id}", "/a/{}", "/a/{a b}", "/{a}}"] {
            assert_eq!(PathTemplate::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_segment(value in any::<String>()) {
            if let Ok(url) = url("/a/{id}/b", "https://a.test", &[("id", &value)]) {
                let url = Url::parse(&url).expect("a URL");
                prop_assert_eq!(url.host_str(), Some("a.test"));
                let segments: Vec<&str> = url.path_segments().expect("a path").collect();
                prop_assert_eq!(segments.len(), 3);
                prop_assert_eq!((segments[0], segments[2]), ("a", "b"));
                prop_assert_eq!(url.query(), None);
            }
        }
    }
}
