//! Profiles of a server under load: they decode, they name its threads and functions, and the server goes on.

use crate::support::on_each_backend;
use crate::support::process::Setup;
use crate::web::{Page, fetch, get};
use flate2::read::GzDecoder;
use prost::Message;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

on_each_backend!(a_profile_under_load_names_threads_and_functions_and_harms_nothing, |setup: Setup| {
    let server = setup.admin().start();
    let admin = server.admin_addr();
    let is_over = AtomicBool::new(false);
    let (profile, flame, sent) = thread::scope(|scope| {
        let over = Over(&is_over);
        let client = scope.spawn(|| {
            let mut client = server.connect();
            let chunk = "{\"level\":\"info\",\"message\":\"for the profile\"}\n".repeat(500);
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                client.send(&chunk);
                client.lines(500);
                sent += 500;
            }
            sent
        });
        let profile = scope.spawn(|| fetch(admin, "/debug/pprof/profile?seconds=4", &[]));
        thread::sleep(Duration::from_millis(700));
        let second = get(admin, "/debug/flamegraph?seconds=1");
        assert_eq!(second.status, 409, "one at a time: {second:?}");
        assert_eq!(get(admin, "/livez").status, 200, "it answers meanwhile");
        let profile = profile.join().unwrap();
        let flame = fetch(admin, "/debug/flamegraph?seconds=1", &[]);
        drop(over);
        (profile, flame, client.join().unwrap())
    });
    assert_eq!((profile.status, profile.kind()), (200, "application/octet-stream"));
    let (profile, names) = decode(&profile);
    let samples: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
    // A busy machine gives a server little to be sampled.
    assert!(samples >= 5, "{samples} samples in four seconds of load");
    assert!(names.iter().any(|name| name == "shard-00"), "threads are named: {names:?}");
    assert!(names.iter().any(|name| name.contains("/src/driver/")), "functions have their files: {names:?}");
    assert_eq!(profile.string_table[0], "");
    let locations: Vec<u64> = profile.location.iter().map(|location| location.id).collect();
    assert!(profile.sample.iter().flat_map(|sample| &sample.location_id).all(|id| locations.contains(id)));

    assert_eq!((flame.status, flame.kind()), (200, "image/svg+xml"));
    let text = flame.text();
    assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n") && text.contains("<title>all ("), "{text}");

    for query in ["?seconds=0", "?seconds=61", "?seconds=x", "?minutes=1"] {
        let page = get(admin, &format!("/debug/pprof/profile{query}"));
        assert_eq!(page.status, 400, "{query}");
        assert!(page.text().contains("seconds=N"), "{page:?}");
    }
    let ended = server.stop();
    assert!(ended.stderr.contains(&format!("stored {sent} ")), "{sent} lines: {}", ended.stderr);
});

on_each_backend!(who_has_the_memory_is_told_where_it_is_sampled, |setup: Setup| {
    const PATH: &str = "/debug/pprof/heap";
    let setup = setup.admin();
    let server = setup.start();
    let page = fetch(server.admin_addr(), PATH, &[]);
    let lack = if cfg!(feature = "heap-profile") { "are not sampled" } else { "--features heap-profile" };
    assert!(page.status == 501 && page.text().contains(lack) && page.text().contains("prof:true"), "{page:?}");
    server.stop();
    if !cfg!(feature = "heap-profile") {
        return;
    }
    let setup = setup.env("_RJEM_MALLOC_CONF", "prof:true,prof_active:true,lg_prof_sample:19");
    let server = setup.start();
    let page = fetch(server.admin_addr(), PATH, &[]);
    assert_eq!((page.status, page.kind()), (200, "application/octet-stream"), "{page:?}");
    let (profile, names) = decode(&page);
    assert!(names.iter().any(|name| name == "inuse_space" || name == "space"), "{names:?}");
    // A shard's batches alone are 32 MiB.
    let held: i64 = profile.sample.iter().filter_map(|sample| sample.value.last()).sum();
    assert!(held > 32 << 20, "{held} bytes in {} samples", profile.sample.len());
    server.stop();
});

fn decode(page: &Page) -> (Profile, Vec<String>) {
    let mut bytes = Vec::new();
    GzDecoder::new(page.body.as_slice()).read_to_end(&mut bytes).expect("it is compressed");
    let profile = Profile::decode(bytes.as_slice()).expect("it is a profile");
    let names = profile.string_table.clone();
    (profile, names)
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// As much of profile.proto as is looked at.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
}
