//! The JSON Schemas in `loadgen/schema` are what the types say: derived from them, and compared at each test.
//!
//! Where a type was changed on purpose, `RINGEST_BLESS=1 cargo test -p ringest-loadgen schema` writes them anew.

use crate::report::Report;
use crate::timeline::Row;
use schemars::{JsonSchema, schema_for};
use std::path::Path;

fn assert_checked_in<T: JsonSchema>(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema").join(name);
    let derived = serde_json::to_string_pretty(&schema_for!(T)).unwrap() + "\n";
    if std::env::var_os("RINGEST_BLESS").is_some() {
        std::fs::write(&path, derived).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == derived, "{} is not what the types say; see loadgen/src/schema.rs", path.display());
}

#[test]
fn the_schema_of_the_report_is_what_its_types_say() {
    assert_checked_in::<Report>("report.v1.json");
}

#[test]
fn the_schema_of_the_series_is_what_its_types_say() {
    assert_checked_in::<Row>("series.v1.json");
}
