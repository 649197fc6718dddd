//! Form bodies: `application/x-www-form-urlencoded`, nested names in brackets.

use reqwest::Url;
use serde_json::Value;

/// Encodes pairs.
pub fn encode_pairs<'a>(pairs: &[(&'a str, &'a str)]) -> String {
    let base = Url::parse("http://form");
    let encoded = base.map(|mut url| {
        url.query_pairs_mut().extend_pairs(pairs);
        url.query().unwrap_or_default().to_owned()
    });
    encoded.unwrap_or_default()
}

/// Encodes an object: `{"a": {"b": 1}, "c": [2]}` is `a[b]=1&c[0]=2`. Null fields are left out. `None` when `body` is
/// no object.
pub fn encode(body: &Value) -> Option<String> {
    let object = body.as_object()?;
    let mut pairs = Vec::new();
    for (name, value) in object {
        flatten(name.clone(), value, &mut pairs);
    }
    let pairs: Vec<(&str, &str)> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Some(encode_pairs(&pairs))
}

fn flatten(name: String, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::String(text) => pairs.push((name, text.clone())),
        Value::Bool(_) | Value::Number(_) => pairs.push((name, value.to_string())),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(format!("{name}[{at}]"), item, pairs);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(format!("{name}[{key}]"), value, pairs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_names_stand_in_brackets() {
        let body = serde_json::json!({
            "amount": 4200, "description": "a & b", "metadata": {"order": "7"}, "items": [{"price": "p1"}], "none": null
        });
        assert_eq!(
            encode(&body).as_deref(),
            Some("amount=4200&description=a+%26+b&items%5B0%5D%5Bprice%5D=p1&metadata%5Border%5D=7")
        );
        assert_eq!(encode(&serde_json::json!([1])), None);
    }
}
