//! Requests that are none, too large, too slow or too many.

use crate::support::Backend;
use crate::support::process::Setup;
use crate::web::{Page, connect, exchange, get, until_end};
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn what_is_no_request_is_refused_and_nothing_else_is_harmed() {
    let server = Setup::new(Backend::Epoll).admin().start();
    let admin = server.admin_addr();
    let long = "x".repeat(20_000);
    let many: String = (0..200).map(|number| format!("h{number}: x\r\n")).collect();
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("no HTTP", b"hello\r\n\r\n".to_vec(), &[400]),
        ("binary", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        ("a zero byte", b"GET /livez\0 HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("a long path", format!("GET /{long} HTTP/1.1\r\n\r\n").into_bytes(), &[414, 431]),
        ("a long header", format!("GET /livez HTTP/1.1\r\nx: {long}\r\n\r\n").into_bytes(), &[431]),
        ("many headers", format!("GET /livez HTTP/1.1\r\n{many}\r\n").into_bytes(), &[431]),
        ("two lengths", b"GET /livez HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx".to_vec(), &[400]),
        ("a way up", closing("/../../etc/passwd"), &[404]),
        ("a way up in code", closing("/%2e%2e/%2e%2e/etc/passwd"), &[404]),
        ("two slashes", closing("//livez"), &[404]),
        ("a slash too many", closing("/livez/"), &[404]),
        ("another case", closing("/LIVEZ"), &[404]),
        ("a whole address", closing("http://elsewhere/livez"), &[200]),
        ("a proxy's word", b"CONNECT elsewhere:80 HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(), &[405]),
        ("an invented method", b"BREW /livez HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(), &[405]),
        ("a query", closing("/livez?deep=1"), &[200]),
    ];
    for (what, bytes, expected) in cases {
        let said = exchange(admin, &bytes);
        let page = Page::parse(&said).unwrap_or_else(|| panic!("{what}: {:?}", String::from_utf8_lossy(&said)));
        assert!(expected.contains(&page.status), "{what}: {page:?}");
        assert_eq!(get(admin, "/livez").status, 200, "after {what}");
    }
    // HTTP/2, without having been asked whether that is spoken.
    assert_eq!(exchange(admin, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), b"");
    // A body that goes on and on is not read to its end.
    let mut endless = connect(admin);
    endless.write_all(b"GET /livez HTTP/1.1\r\ncontent-length: 100000000000\r\n\r\n").unwrap();
    let piece = [0x41; 65_536];
    let sent = (0..10_000).take_while(|_| endless.write_all(&piece).is_ok()).count();
    assert!(sent < 10_000, "a body of {sent} x 64 KiB was taken");
    assert_eq!(server.connect().ask(r#"{"level":"info","message":"still there"}"#), crate::support::lines::OK);
    server.stop();
}

#[test]
fn who_sends_too_slowly_or_too_often_keeps_nobody_out_for_long() {
    let server = Setup::new(Backend::Epoll).admin().start();
    let admin = server.admin_addr();
    // More than may be at once, each of them silent, or with a header that never ends.
    let started = Instant::now();
    let mut slow: Vec<TcpStream> = (0..40).map(|_| connect(admin)).collect();
    for stream in &mut slow {
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nx: ");
    }
    thread::sleep(Duration::from_millis(200));
    let turned_away = get(admin, "/livez");
    assert_eq!(turned_away.status, 503, "said at once: {turned_away:?}");
    assert!(turned_away.text().contains("too many connections"), "{turned_away:?}");

    // A byte now and then does not prolong it.
    let dripping = thread::spawn(move || {
        while slow.iter_mut().map(|stream| stream.write_all(b"x")).filter(Result::is_ok).count() > 0 {
            thread::sleep(Duration::from_millis(100));
            assert!(started.elapsed() < Duration::from_secs(30), "somebody drips on for ever");
        }
        slow
    });
    let freed = loop {
        if get(admin, "/livez").status == 200 {
            break started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(20), "places come back");
        thread::sleep(Duration::from_millis(100));
    };
    assert!(freed > Duration::from_secs(4), "a slow client has its time: {freed:?}");
    let mut slow = dripping.join().unwrap();
    assert!(slow.iter_mut().all(|stream| Page::parse(&until_end(stream)).is_none_or(|page| page.status != 200)));

    // Whoever takes no answer does not keep its place for ever either; here it is only seen that many do no harm.
    let mut deaf: Vec<TcpStream> = (0..20).map(|_| connect(admin)).collect();
    for stream in &mut deaf {
        let asked: String = (0..20).map(|_| "GET /metrics HTTP/1.1\r\n\r\n").collect();
        let _ = stream.write_all(asked.as_bytes());
    }
    assert_eq!(get(admin, "/livez").status, 200);
    server.stop();
}

fn closing(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
}
