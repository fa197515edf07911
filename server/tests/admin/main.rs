//! How a server is looked at, from outside: every path by a client that others wrote, hostile requests by literal bytes.

mod hostile;
mod open_metrics;
mod page;
mod profile;
mod readiness;
mod scrapes;
mod web;

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../faults/thin_disk.rs"]
mod thin_disk;

use support::Backend;
use support::on_each_backend;
use support::process::Setup;
use web::{Page, fetch, get};

on_each_backend!(each_path_is_answered_to_a_client_that_others_wrote, |setup: Setup| {
    let server = setup.shards(2).admin().start();
    let admin = server.admin_addr();
    let page = fetch(admin, "/livez", &[]);
    assert_eq!((page.status, page.kind(), page.text()), (200, "text/plain; charset=utf-8", "alive\n".into()));
    let page = fetch(admin, "/readyz", &[]);
    assert_eq!(page.status, 200);
    assert_eq!(page.text(), "ready\nshard 0: nothing to sync so far\nshard 1: nothing to sync so far\n");
    let page = fetch(admin, "/metrics", &[]);
    assert_eq!((page.status, page.kind()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let page = fetch(admin, "/metrics", &["-H", "Accept: application/openmetrics-text; version=1.0.0"]);
    assert_eq!((page.status, page.kind()), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    open_metrics::parse(&page.text()).expect("it is OpenMetrics, to the letter");
    let page = fetch(admin, "/status.json", &[]);
    assert_eq!((page.status, page.kind()), (200, "application/json"));
    let status: serde_json::Value = serde_json::from_str(&page.text()).unwrap();
    assert_eq!(status["shards"].as_array().unwrap().len(), 2, "{status}");
    let page = fetch(admin, "/nothing?x=1", &[]);
    assert_eq!(page.status, 404);
    assert!(page.text().contains("/readyz"), "it says what there is: {}", page.text());

    for path in ["/livez", "/readyz", "/metrics", "/status.json"] {
        let (whole, head) = (get(admin, path), fetch(admin, path, &["--head"]));
        assert_eq!((head.status, head.kind()), (200, whole.kind()), "{path}");
        assert!(head.body.is_empty(), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let page = fetch(admin, path, &["-X", method]);
            assert_eq!((page.status, page.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    server.stop();
});

#[test]
fn an_address_that_is_taken_is_refused_with_what_to_do() {
    let setup = Setup::new(Backend::Epoll);
    let server = setup.clone().admin().start();
    let taken = server.admin_addr().to_string();
    let ended = setup.beside().env("ADMIN_ADDR", &taken).try_start().err().expect("two cannot have one address");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains(&taken) && ended.stderr.contains("--admin-addr"), "{}", ended.stderr);
    let ended = setup.beside().env("ADMIN_ADDR", "nowhere").try_start().err().expect("that is no address");
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("ADMIN_ADDR") && ended.stderr.contains("none"), "{}", ended.stderr);
}

#[test]
fn without_an_admin_listener_nothing_listens_but_the_server() {
    let server = Setup::new(Backend::Epoll).start();
    assert!(!server.stderr().contains("admin on"), "{}", server.stderr());
    let listening = web::listening_sockets(server.pid());
    assert_eq!(listening, 1, "one shard, one listener");
    server.stop();
}

#[test]
fn one_that_other_machines_can_reach_is_spoken_of() {
    let server = Setup::new(Backend::Epoll).env("ADMIN_ADDR", "0.0.0.0:0").start();
    assert!(server.stderr().contains("can be reached from other machines"), "{}", server.stderr());
    let port = server.admin_addr().port();
    let page: Page = get(([127, 0, 0, 1], port).into(), "/livez");
    assert_eq!(page.status, 200);
}
