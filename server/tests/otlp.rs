//! Traces arrive at a collector as OTLP, one per batch, and a collector that is gone or hangs costs traces alone.
//!
//! Only with the feature `otlp`; `scripts/test` has a layer for it.
#![cfg(feature = "otlp")]

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use prost::Message;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::lines::{OK, record};
use support::on_each_backend;
use support::process::Setup;

/// What of OTLP is looked at; the numbers are those of opentelemetry-proto.
mod otlp {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Export {
        #[prost(message, repeated, tag = "1")]
        pub(crate) resources: Vec<ResourceSpans>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ResourceSpans {
        #[prost(message, repeated, tag = "2")]
        pub(crate) scopes: Vec<ScopeSpans>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub(crate) spans: Vec<Span>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(crate) trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(crate) span_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(crate) parent_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(crate) name: String,
        #[prost(fixed64, tag = "7")]
        pub(crate) begin_ns: u64,
        #[prost(fixed64, tag = "8")]
        pub(crate) end_ns: u64,
        #[prost(message, repeated, tag = "9")]
        pub(crate) attributes: Vec<KeyValue>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(crate) key: String,
        #[prost(message, optional, tag = "2")]
        pub(crate) value: Option<AnyValue>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct AnyValue {
        #[prost(int64, optional, tag = "3")]
        pub(crate) int: Option<i64>,
    }

    impl Span {
        pub(crate) fn number(&self, key: &str) -> i64 {
            let found = self.attributes.iter().find(|attribute| attribute.key == key);
            found.and_then(|attribute| attribute.value.as_ref()?.int).unwrap_or_else(|| panic!("{key} in {self:?}"))
        }
    }
}

/// Takes traces, by as much of HTTP as an exporter needs.
struct Collector {
    addr: SocketAddr,
    spans: Arc<Mutex<Vec<otlp::Span>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, spans) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let kept = spans.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = kept.clone();
                thread::spawn(move || serve(stream.unwrap(), &kept));
            }
        });
        Collector { addr, spans }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// Takes requests until the peer has no more.
fn serve(mut stream: TcpStream, kept: &Mutex<Vec<otlp::Span>>) {
    let (mut seen, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        let head = seen.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        let whole = head.and_then(|head| {
            let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
            assert!(text.starts_with("post /v1/traces http/1.1\r\n"), "{text}");
            assert!(text.contains("content-type: application/x-protobuf\r\n"), "{text}");
            let len = text.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            Some((head, head + len.parse::<usize>().unwrap())).filter(|(_, end)| seen.len() >= *end)
        });
        if let Some((head, end)) = whole {
            let export = otlp::Export::decode(&seen[head..end]).unwrap();
            let spans = export.resources.into_iter().flat_map(|one| one.scopes).flat_map(|scope| scope.spans);
            kept.lock().unwrap().extend(spans);
            seen.drain(..end);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            continue;
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(len) => seen.extend_from_slice(&piece[..len]),
        }
    }
}

on_each_backend!(each_batch_is_a_trace_with_a_span_per_stage, |setup: Setup| {
    let collector = Collector::start();
    let setup = setup.flag("--otlp-endpoint", collector.endpoint()).flag("--otlp-sample", 1);
    let server = setup.start();
    let mut client = server.connect();
    for number in 0..50 {
        assert_eq!(client.ask(record("traced", number)), OK);
        assert!(client.ask("no").contains("bad_json"));
    }
    drop(client);
    server.stop(); // Sends what is left.

    let spans = collector.spans.lock().unwrap();
    let batches: HashMap<_, _> =
        spans.iter().filter(|span| span.name == "batch").map(|span| (&span.span_id, span)).collect();
    assert_eq!(batches.values().map(|batch| batch.number("records")).sum::<i64>(), 50, "each record is in one batch");
    assert_eq!(spans.len(), batches.len() * 4);
    for (id, batch) in &batches {
        assert!(batch.parent_id.is_empty() && batch.number("segment") == 1 && batch.number("shard") == 0);
        let mut stages: Vec<_> = spans.iter().filter(|span| span.parent_id == **id).collect();
        stages.sort_by_key(|stage| stage.begin_ns);
        let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["queue", "write", "sync"]);
        assert!(stages.iter().all(|stage| stage.trace_id == batch.trace_id));
        assert!(stages.iter().all(|stage| stage.begin_ns >= batch.begin_ns && stage.end_ns <= batch.end_ns));
        assert!(stages.is_sorted_by(|a, b| a.end_ns <= b.end_ns));
    }
});

on_each_backend!(a_part_of_the_batches_is_traced_where_a_part_is_asked_for, |setup: Setup| {
    let collector = Collector::start();
    let server = setup.flag("--otlp-endpoint", collector.endpoint()).flag("--otlp-sample", 0.2).start();
    let mut client = server.connect();
    (0..500).for_each(|number| assert_eq!(client.ask(record("traced", number)), OK));
    drop(client);
    server.stop();
    let spans = collector.spans.lock().unwrap();
    let batches = spans.iter().filter(|span| span.name == "batch").count();
    // 100 are expected; that it is off by 60 happens by chance in less than one of a billion runs.
    assert!((40..=160).contains(&batches), "{batches} of 500");
    assert_eq!(spans.len(), batches * 4, "a trace is there as a whole or not at all");
});

on_each_backend!(a_collector_that_is_gone_or_hangs_costs_no_record, |setup: Setup| {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // Takes connections and never answers.
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    let gone = format!("http://{}", {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        closed.local_addr().unwrap()
    });
    for (endpoint, says) in [(gone, "traces are lost"), (hanging, "the last traces are lost")] {
        let setup = setup.beside().flag("--otlp-endpoint", endpoint).flag("--otlp-sample", 1);
        let server = setup.start();
        let mut client = server.connect();
        (0..20).for_each(|number| assert_eq!(client.ask(record("lost", number)), OK));
        drop(client);
        let stopped = Instant::now();
        let ended = server.stop();
        assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
        assert_eq!(setup.records().len(), 20);
        assert_eq!(ended.stderr.matches(says).count(), 1, "{}", ended.stderr);
    }
    drop(silent);
});
