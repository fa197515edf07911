//! The books, as a scraper sees them while lines come in.

use crate::open_metrics::{self, Metrics};
use crate::support::process::Setup;
use crate::support::{Backend, on_each_backend};
use crate::web::fetch;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

on_each_backend!(the_books_close_exactly_at_every_scrape_under_load, |setup: Setup| {
    let server = setup.shards(2).flag("--min-level", "INFO").admin().start();
    let (addr, admin) = (server.addr(), server.admin_addr());
    let is_over = AtomicBool::new(false);
    let (sent, scrapes, in_flight) = thread::scope(|scope| {
        let over = Over(&is_over);
        let senders: Vec<_> = (0..6).map(|_| scope.spawn(|| send(addr, &is_over))).collect();
        let (mut scrapes, mut in_flight) = (0, 0);
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let metrics = scrape(admin);
            for shard in ["0", "1"] {
                in_flight += u64::from(close(&metrics, shard) > 0.0);
            }
            scrapes += 1;
        }
        drop(over);
        (senders.into_iter().map(|sender| sender.join().unwrap()).sum::<u64>(), scrapes, in_flight)
    });
    println!("{scrapes} scrapes, {in_flight} with records in flight, {sent} lines");
    assert!(scrapes >= 10 && in_flight > 0, "{scrapes} scrapes, {in_flight} with records in flight: no load");
    let settled = Instant::now() + Duration::from_secs(20);
    let metrics = loop {
        let metrics = scrape(admin);
        if close(&metrics, "0") + close(&metrics, "1") == 0.0 {
            break metrics;
        }
        assert!(Instant::now() < settled, "everything that was sent is answered");
    };
    let total = |name: &str| ["0", "1"].map(|shard| metrics.sum(name, ("shard", shard))).iter().sum::<f64>();
    assert_eq!(total("ringest_lines_received_total"), sent as f64, "each line that was sent is in the books");
    assert!(total("ringest_lines_filtered_total") > 0.0 && total("ringest_lines_rejected_total") > 0.0);
    for stage in ["receive", "parse", "queue", "write", "sync", "ack"] {
        let count = metrics.sum("ringest_stage_seconds_count", ("stage", stage));
        let seconds = metrics.sum("ringest_stage_seconds_sum", ("stage", stage));
        // Answers that are taken within the turn in which they may be said take no time that is measured.
        assert!(count > 0.0 && (seconds > 0.0 || stage == "ack"), "{stage} was passed {count} times, in {seconds} s");
    }
    server.stop();
});

on_each_backend!(metrics_say_what_they_are_counted_in_and_what_runs, |setup: Setup| {
    let (on, backend) = (setup.on, setup.on.as_str());
    let server = setup.shards(2).flag("--udp", "true").flag("--udp-port", "0").admin().start();
    let metrics = scrape(server.admin_addr());
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(metrics.value("ringest_build_info", &[("backend", backend), ("version", version)]), 1.0);
    assert_eq!(metrics.value("ringest_ready", &[]), 1.0);
    for shard in ["0", "1"] {
        assert_eq!(metrics.value("ringest_shard_up", &[("shard", shard)]), 1.0);
        let closed = [("ringest_storage_breaker", "closed"), ("shard", shard)];
        assert_eq!(metrics.value("ringest_storage_breaker", &closed), 1.0);
        assert_eq!(metrics.value("ringest_udp_kernel_drops_total", &[("shard", shard)]), 0.0);
    }
    assert!(metrics.sum("ringest_driver_events_total", ("shard", "0")) > 0.0, "the kernel interface counts");
    let expected = match on {
        Backend::Uring => None, // What the kernel takes.
        Backend::Epoll => Some("level-triggered, files on a writer thread"),
        #[cfg(feature = "glommio")]
        Backend::Glommio => Some("tasks on its executor, one-shot polls, large blocks copied"),
    };
    for shard in ["0", "1"] {
        match expected {
            Some(setup) => assert_eq!(metrics.value("ringest_driver_info", &[("setup", setup), ("shard", shard)]), 1.0),
            None => assert_eq!(metrics.sum("ringest_driver_info", ("shard", shard)), 1.0),
        }
    }
    let started = metrics.value("ringest_start_time_seconds", &[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((0.0..60.0).contains(&(now - started)), "{started}");
    server.stop();
});

on_each_backend!(what_the_kernel_does_on_threads_of_its_own_is_counted, |setup: Setup| {
    let on = setup.on;
    let server = setup.shards(1).admin().start();
    let mut client = TcpStream::connect(server.addr()).unwrap();
    for _ in 0..20 {
        client.write_all(b"{\"level\":\"info\",\"message\":\"a\"}\n").unwrap();
        client.read_exact(&mut [0; 3]).unwrap();
    }
    let metrics = scrape(server.admin_addr());
    let [workers, sleeps, cpu] = ["ringest_io_wq_workers", "ringest_io_wq_sleeps", "ringest_io_wq_cpu_seconds"]
        .map(|name| metrics.value(name, &[]));
    match on {
        Backend::Epoll => assert_eq!((workers, sleeps, cpu), (0.0, 0.0, 0.0)),
        // Rings leave syncs to the kernel, which always does them there; only our own counts them.
        _ => assert!(workers >= 1.0 && sleeps >= 5.0 && cpu > 0.0, "{workers} {sleeps} {cpu}"),
    }
    if on == Backend::Uring {
        let punted = metrics.value("ringest_driver_events_total", &[("event", "punted_syncs"), ("shard", "0")]);
        let synced = metrics.value("ringest_syncs_total", &[("shard", "0")]);
        assert!(punted >= synced && synced > 0.0, "{punted} of {synced}");
    }
    server.stop();
});

/// Says that it is over when it is dropped, so that a failed assertion does not wait for senders for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends good, filtered and bad lines, and reads what comes back, until it is over. How many.
fn send(addr: SocketAddr, is_over: &AtomicBool) -> u64 {
    let mut stream = TcpStream::connect(addr).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let replies = thread::spawn(move || {
        let (mut lines, mut buf) = (0, [0; 65_536]);
        while let Ok(len @ 1..) = reader.read(&mut buf) {
            lines += buf[..len].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        lines
    });
    let text = "x".repeat(120);
    let chunk: String = (0..100)
        .map(|number| match number % 10 {
            3 => "{\"level\":\"debug\",\"message\":1}\n".to_owned(),
            7 => "no record\n".to_owned(),
            _ => format!("{{\"level\":\"info\",\"message\":\"{text}\"}}\n"),
        })
        .collect();
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        stream.write_all(chunk.as_bytes()).unwrap();
        sent += 100;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(replies.join().unwrap(), sent, "one reply per line");
    sent
}

fn scrape(admin: SocketAddr) -> Metrics {
    let page = fetch(admin, "/metrics", &["-H", "Accept: application/openmetrics-text"]);
    assert_eq!(page.status, 200);
    open_metrics::parse(&page.text()).unwrap_or_else(|why| panic!("{why}"))
}

/// Sees that a shard's books close, to the line. How many are in flight.
fn close(metrics: &Metrics, shard: &str) -> f64 {
    let count = |name: &str| metrics.sum(name, ("shard", shard));
    let in_flight = count("ringest_lines_in_flight");
    let accounted = count("ringest_lines_stored_total")
        + count("ringest_lines_filtered_total")
        + count("ringest_lines_duplicate_total")
        + count("ringest_lines_rejected_total")
        + in_flight;
    assert_eq!(count("ringest_lines_received_total"), accounted, "the books of shard {shard} close");
    in_flight
}
