//! A gate is worth what turns it red: a planted slowdown, loss, leak, panic and stall each do, and nothing else does.

use crate::support::Bench;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// Short loads on a stand-in that can be told to break its promises.
fn gate(bench: &Bench, plant: &str, more: &[&str]) -> (i32, Value) {
    let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../soak/stand_in.py");
    let plant = format!("--server-arg=--plant={plant}");
    let args = [
        "gate",
        "--no-pin",
        "--dir",
        ".",
        "--baseline-dir",
        "baseline",
        "--server",
        stand_in,
        &plant,
        "--rounds",
        "1",
        "--window",
        "1",
        "--rate",
        "300",
        "--connections",
        "5",
        "--ignore-validity",
        "--json",
        "out.json",
    ];
    let output = bench.run(&[&args[..], more].concat());
    (output.status.code().unwrap(), bench.json("out.json"))
}

/// Of what is compared, what does not hold.
fn worse(report: &Value) -> Vec<String> {
    let gates = report["verification"]["gates"].as_array().unwrap();
    let failed = gates.iter().filter(|gate| gate["pass"] == false);
    failed.map(|gate| gate["expr"].as_str().unwrap().split(',').next().unwrap().to_owned()).collect()
}

fn baseline_file(bench: &Bench) -> PathBuf {
    let mut files = fs::read_dir(bench.path("baseline")).unwrap();
    files.next().unwrap().unwrap().path()
}

/// Makes a baseline, and makes it easy: this machine may be busier in the next minute, and what is planted is far off.
fn baseline(bench: &Bench) {
    assert_eq!(gate(bench, "nothing", &["--update"]).0, 0);
    let path = baseline_file(bench);
    let mut stored: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, figure) in stored["figures"].as_object_mut().unwrap() {
        let easier = match name.rsplit('.').next().unwrap() {
            // Half of what a stall of a second makes of a load of one.
            "p95_ms" => json!(120.0),
            "records_per_s" => json!(figure["median"].as_f64().unwrap() / 6.0),
            "cpu_ns_per_record" => json!(figure["median"].as_f64().unwrap() * 8.0),
            "peak_memory_mb" => json!(figure["median"].as_f64().unwrap() * 1.2),
            other => panic!("{other} is not known here"),
        };
        figure["median"] = easier;
    }
    fs::write(&path, stored.to_string()).unwrap();
}

#[test]
fn a_slowdown_a_leak_a_stall_a_panic_and_a_loss_each_turn_it_red() {
    let bench = Bench::new();
    baseline(&bench);

    let (code, report) = gate(&bench, "nothing", &[]);
    assert_eq!(
        (worse(&report), report["verification"]["remarks"].as_array().unwrap().len()),
        (Vec::new(), 0),
        "{report}"
    );
    assert_eq!(code, 0);

    let red = |plant: &str, figure: &str| {
        let (code, report) = gate(&bench, plant, &[]);
        assert_eq!(code, 3, "{plant}: {}", report["verification"]);
        assert!(worse(&report).iter().any(|name| name.contains(figure)), "{plant}: {:?}", worse(&report));
        // All of it was measured twice before it was said.
        assert_eq!(report["tests"].as_array().unwrap().len(), 4, "{plant}");
    };
    red("slowdown", "streaming.records_per_s");
    red("leak", "peak_memory_mb");
    red("stall", "steady.p95_ms");

    let (code, report) = gate(&bench, "panic", &[]);
    assert_eq!(code, 3, "{}", report["verification"]);
    let exit = &report["tests"][0]["resources"]["exit"];
    assert!(exit["is_clean"] == false && exit["how"].as_str().unwrap().contains("planted"), "{exit}");

    let (code, report) = gate(&bench, "loss", &[]);
    assert_eq!(code, 5, "{}", report["verification"]);
    let found = &report["tests"][0]["reconciliation"];
    assert_eq!((&found["lost"], &report["verification"]["verdict"]), (&json!(1), &json!("loss")), "{found}");
    bench.leaves_no_scratch();
}

#[test]
fn without_a_baseline_of_its_class_nothing_is_measured() {
    let bench = Bench::new();
    let output = bench.run(&["gate", "--no-pin", "--dir", ".", "--baseline-dir", "none"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--update") && said.contains("none/"), "{said}");
}
