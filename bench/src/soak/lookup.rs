//! A figure out of a JSON document, for scripts: from a file, or from a server's admin listener.

use crate::status::ask;
use serde_json::Value;
use std::fs;
use std::io;

/// The figure at a path like `/shards/*/connections_accepted`: of all that a star stands for, the sum.
///
/// # Errors
/// There is no such document, or no number there.
pub fn run(source: &str, pointer: &str) -> io::Result<f64> {
    let document = if source.starts_with("http://") {
        ask(source)?
    } else {
        let text = fs::read(source).map_err(|error| io::Error::new(error.kind(), format!("{source}: {error}")))?;
        serde_json::from_slice(&text).map_err(|error| io::Error::other(format!("{source}: {error}")))?
    };
    let steps: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
    sum(&document, &steps).ok_or_else(|| io::Error::other(format!("{source} has no number at {pointer}")))
}

fn sum(value: &Value, steps: &[&str]) -> Option<f64> {
    let Some((step, rest)) = steps.split_first() else { return value.as_f64() };
    match value {
        Value::Array(items) if *step == "*" => items.iter().map(|item| sum(item, rest)).sum(),
        Value::Object(members) if *step == "*" => members.values().map(|member| sum(member, rest)).sum(),
        Value::Array(items) => sum(items.get(step.parse::<usize>().ok()?)?, rest),
        // What has not come yet is in no tally.
        Value::Object(members) => sum(members.get(*step)?, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_star_is_the_sum_of_all_and_what_is_missing_is_no_nought() {
        let document = json!({ "shards": [{ "received": 3 }, { "received": 4.5 }], "name": "x" });
        let at = |pointer: &str| sum(&document, &pointer[1..].split('/').collect::<Vec<_>>());
        assert_eq!(at("/shards/*/received"), Some(7.5));
        assert_eq!(at("/shards/1/received"), Some(4.5));
        assert_eq!((at("/shards/*/sent"), at("/name"), at("/shards/2/received")), (None, None, None));
    }
}
