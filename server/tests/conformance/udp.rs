//! Datagrams: lines without answers, each accounted for in the books, and what the kernel dropped beside them.

use crate::support::client::PATIENCE;
use crate::support::disk::SmallDisk;
use crate::support::lines::{OK, joined, origin, record};
use crate::support::on_each_backend;
use crate::support::process::{Ended, Server, Setup, segment_mib};
use std::collections::HashSet;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

on_each_backend!(a_datagram_with_one_line_is_stored, |setup: Setup| {
    let setup = udp(setup);
    let server = setup.start();
    let said = format!(", datagrams on {} with a receive buffer of ", server.udp_addr());
    sender(&server).send(record("p", 1).as_bytes()).unwrap();
    let ended = server.stop();
    assert!(ended.stderr.contains(&said), "where they are taken is said: {}", ended.stderr);
    let books = Books::of(&ended);
    assert_eq!(setup.records(), [record("p", 1)]);
    assert_eq!(books, Books { received: 1, stored: 1, datagrams: 1, ..Books::default() });
    setup.assert_verified();
});

on_each_backend!(a_datagram_holds_any_number_of_lines_with_any_ending, |setup: Setup| {
    let setup = udp(setup);
    let server = setup.start();
    let sender = sender(&server);
    let [one, two, three] = [1, 2, 3].map(|number| record("p", number));
    let datagrams = [
        format!("{one}\n{two}\n{three}\n"),
        format!("{one}\n{two}\n{three}"),
        format!("{one}\r\n{two}\r\n{three}\r\n"),
        format!("\n\r\n{one}\n\n{two}\r\n\r\n{three}\r"),
        one.clone(),
    ];
    for datagram in &datagrams {
        sender.send(datagram.as_bytes()).unwrap();
    }
    let books = Books::of(&server.stop());
    let expected = [one.as_str(), &two, &three].repeat(4);
    assert_eq!(setup.records(), [&expected[..], &[&one]].concat());
    assert_eq!(books, Books { received: 13, stored: 13, datagrams: 5, ..Books::default() });
    setup.assert_verified();
});

on_each_backend!(the_longest_datagram_there_is_is_taken_whole, |setup: Setup| {
    let setup = udp(setup);
    let server = setup.start();
    let long = |len: usize| {
        let [head, tail] = [r#"{"level":"info","message":""#, r#""}"#];
        format!("{head}{}{tail}", "x".repeat(len - head.len() - tail.len()))
    };
    let lines = [long(65_507), long(65_000)];
    lines.iter().for_each(|line| assert_eq!(sender(&server).send(line.as_bytes()).unwrap(), line.len()));
    let books = Books::of(&server.stop());
    assert_eq!(books, Books { received: 2, stored: 2, datagrams: 2, ..Books::default() });
    assert!(setup.records() == lines);
});

on_each_backend!(a_bad_line_in_a_datagram_is_counted_under_its_code_and_costs_no_other, |setup: Setup| {
    let setup = udp(setup).env("MAX_LINE", "4096");
    let server = setup.start();
    let long = format!(r#"{{"level":"info","message":"{}"}}"#, "x".repeat(4096));
    let bad: [&[u8]; 14] = [
        b"nonsense",
        b"[]",
        b"{}",
        b"{\"level\":1,\"message\":1}",
        b"{\"level\":\"info\",\"message\":\"\xff\"}",
        long.as_bytes(),
        b"{\"$hello\":{\"v\":1,\"producer\":\"p\"}}",
        b"{\"$ping\":1}",
        b"{\"$x\":1,\"level\":\"info\",\"message\":\"m\"}",
        b"{\"level\":\"info\",\"mess",
        b"\x1f\x8b\x08\0",
        b"\x16\x03\x01\x02\0",
        b"\0",
        b"<13>Oct 11 22:14:15 host su: syslog",
    ];
    let sender = sender(&server);
    for (number, bad) in (1..).zip(bad) {
        let (before, behind) = (record("before", number), record("behind", number));
        sender.send(&[before.as_bytes(), b"\n", bad, b"\n", behind.as_bytes()].concat()).unwrap();
        sender.send(bad).unwrap();
    }
    let ended = server.stop();
    let books = Books::of(&ended);
    let (good, bad) = (28, 28);
    let expected = Books { received: good + bad, stored: good, rejected: bad, datagrams: 28, ..Books::default() };
    assert_eq!(books, expected, "{}", ended.stderr);
    let codes =
        "bad_json 10, not_object 2, missing_field 2, bad_type 2, invalid_utf8 4, line_too_long 2, reserved_key 6";
    assert!(ended.stderr.contains(codes), "{}", ended.stderr);
    let records = setup.records();
    let senders: Vec<_> = records.iter().map(|line| origin(line).unwrap().0).collect();
    assert_eq!(senders, ["before", "behind"].repeat(14));
});

on_each_backend!(empty_datagrams_are_harmless, |setup: Setup| {
    let setup = udp(setup);
    let server = setup.start();
    let sender = sender(&server);
    for number in 0..200 {
        let bytes = if number % 2 == 0 { String::new() } else { record("p", number) };
        assert_eq!(sender.send(bytes.as_bytes()).unwrap(), bytes.len());
    }
    let books = Books::of(&server.stop());
    assert_eq!(books, Books { received: 100, stored: 100, datagrams: 200, ..Books::default() });
});

on_each_backend!(nothing_is_replied_to_a_datagram, |setup: Setup| {
    let setup = udp(setup).env("MIN_LOG_LEVEL", "WARNING");
    let server = setup.start();
    let sender = sender(&server);
    for line in [r#"{"level":"error","message":1}"#, r#"{"level":"info","message":2}"#, "nonsense", "{\"$ping\":1}"] {
        sender.send(line.as_bytes()).unwrap();
    }
    sender.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(sender.recv(&mut [0; 100]).is_err(), "silence");
    let books = Books::of(&server.stop());
    let expected = Books { received: 4, stored: 1, filtered: 1, rejected: 2, datagrams: 4, ..Books::default() };
    assert_eq!(books, expected);
});

on_each_backend!(connections_and_datagrams_are_taken_side_by_side, |setup: Setup| {
    const LINES: u64 = 3000;
    let setup = udp(setup).shards(2);
    let server = setup.start();
    let addr = server.udp_addr();
    let threads: Vec<_> = (0..4)
        .map(|at| {
            thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                for number in 1..=LINES {
                    socket.send_to(record(&format!("udp-{at}"), number).as_bytes(), addr).unwrap();
                    if number % 50 == 0 {
                        thread::sleep(Duration::from_millis(2)); // So that the receive buffers need not hold it all.
                    }
                }
            })
        })
        .collect();
    let mut client = server.connect();
    for number in 1..=100 {
        assert_eq!(client.ask(record("tcp", number)), OK);
    }
    let flood = client.exchange(joined((101..=20_000).map(|number| record("tcp", number))));
    assert_eq!(flood, vec![OK; 19_900]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let books = Books::of(&server.stop());
    assert_eq!(books.datagrams + books.kernel_drops, 4 * LINES);
    assert_eq!((books.received, books.stored), (20_000 + books.datagrams, 20_000 + books.datagrams));
    assert_eq!(setup.records().len() as u64, books.stored);
    setup.assert_verified();
});

on_each_backend!(what_the_kernel_drops_is_counted_to_the_last_datagram, |setup: Setup| {
    const SENT: u64 = 20_000;
    let setup = udp(setup).env("UDP_BUFFER_SIZE", "65536");
    let server = setup.start();
    let sender = sender(&server);
    sender.send(record("first", 1).as_bytes()).unwrap();
    for round in 0..2 {
        server.signal("STOP");
        (0..SENT / 2).for_each(|number| drop_len(sender.send(record("p", round * SENT + number).as_bytes())));
        server.signal("CONT");
        thread::sleep(Duration::from_millis(200));
    }
    let books = Books::of(&server.stop());
    assert!(books.kernel_drops > SENT / 2, "the buffer was never full, so nothing was tested: {books:?}");
    assert!(books.datagrams > 1, "{books:?}");
    assert_eq!(books.datagrams + books.kernel_drops, SENT + 1, "{books:?}");
    assert_eq!((books.received, books.stored), (books.datagrams, books.datagrams));
    assert_eq!(setup.records().len() as u64, books.stored);
});

on_each_backend!(what_came_before_the_end_is_in_the_books_although_nobody_had_read_it, |setup: Setup| {
    const SENT: u64 = 500;
    let setup = udp(setup);
    let server = setup.start();
    let sender = sender(&server);
    server.signal("STOP");
    (0..SENT).for_each(|number| drop_len(sender.send(record("p", number).as_bytes())));
    server.signal("TERM");
    server.signal("CONT");
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let books = Books::of(&ended);
    assert_eq!(books.datagrams + books.kernel_drops, SENT, "{books:?}");
    assert_eq!(books.stored, books.datagrams, "a receive buffer holds so many, and so does the writer");
    let numbers: Vec<u64> = setup.records().iter().map(|line| origin(line).unwrap().1).collect();
    assert!(numbers.is_sorted() && numbers.len() as u64 == books.stored);
});

on_each_backend!(a_flood_that_goes_on_does_not_keep_a_server_from_stopping, |setup: Setup| {
    let setup = udp(setup).shards(2);
    let server = setup.start();
    let addr = server.udp_addr();
    let flood = thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let line = record("flood", 1);
        let mut sent = 0_u64;
        // Once nobody takes them any more, the sender is told so.
        while socket.connect(addr).is_ok() && socket.send(line.as_bytes()).is_ok() {
            sent += 1;
        }
        sent
    });
    thread::sleep(Duration::from_millis(300));
    let ended = server.stop();
    assert!(ended.took < Duration::from_secs(5), "{:?}", ended.took);
    let (books, sent) = (Books::of(&ended), flood.join().unwrap());
    assert!(books.datagrams > 0 && books.datagrams + books.kernel_drops <= sent, "{books:?} of {sent}");
    assert_eq!(setup.records().len() as u64, books.stored);
    setup.assert_verified();
});

on_each_backend!(datagrams_that_a_full_disk_cannot_take_are_refused_and_the_books_close, |setup: Setup| {
    let Ok(disk) = SmallDisk::mount(&setup, 2 * segment_mib() + 4).inspect_err(|why| println!("skipped: {why}")) else {
        return;
    };
    let setup = udp(setup).log_dir(disk.path().join("logs")).small_segments();
    disk.occupy(2 * segment_mib());
    let server = setup.start();
    let refused = server.connect().ask(record("tcp", 1));
    assert!(refused.contains("storage_full"), "{refused}");
    let sender = sender(&server);
    for number in 0..100 {
        sender.send(&joined([record("p", number), "nonsense".into()])).unwrap();
    }
    disk.free();
    let started = Instant::now();
    while server.connect().ask(record("tcp", 2)) != OK {
        assert!(started.elapsed() < PATIENCE, "there is room, and nothing is taken");
        thread::sleep(Duration::from_millis(50));
    }
    for number in 100..150 {
        sender.send(record("p", number).as_bytes()).unwrap();
    }
    let ended = server.stop();
    let books = Books::of(&ended);
    assert_eq!((books.datagrams, books.kernel_drops), (150, 0), "{}", ended.stderr);
    assert!(ended.stderr.contains("bad_json 100"), "{}", ended.stderr);
    let kept = setup.records().iter().filter(|line| origin(line).unwrap().0 == "p").count();
    assert_eq!(kept, 50, "those before were refused, those behind are stored");
    setup.assert_verified();
});

on_each_backend!(a_port_for_datagrams_that_is_taken_is_refused_with_its_address, |setup: Setup| {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let setup = udp(setup).env("UDP_PORT", &port.to_string());
    let refused = setup.try_start().err().expect("the port is taken");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("127.0.0.1:{port}")), "it names the address: {}", refused.stderr);
});

on_each_backend!(each_shard_has_a_socket_for_datagrams_if_that_is_asked_for_and_else_none, |setup: Setup| {
    let sockets = |setup: Setup| {
        let server = setup.shards(2).start();
        let fds = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().map(|fd| fd.unwrap().path());
        let opened = fds.filter_map(|fd| fs::read_link(fd).ok());
        // Each once: a socket may have a second descriptor, by which it is watched.
        let sockets: HashSet<PathBuf> = opened.filter(|to| to.to_string_lossy().starts_with("socket:")).collect();
        (sockets.len(), server.stop().stderr.contains("datagrams"))
    };
    let (without, is_said) = sockets(setup.clone());
    assert!(!is_said, "nothing is said of what is not there");
    assert_eq!(sockets(udp(setup)), (without + 2, true));
});

/// With datagrams, on a port that the kernel chooses.
fn udp(setup: Setup) -> Setup {
    setup.env("ENABLE_UDP", "true").env("UDP_PORT", "0")
}

fn sender(server: &Server) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.udp_addr()).unwrap();
    socket
}

fn drop_len(sent: std::io::Result<usize>) {
    assert!(sent.unwrap() > 0);
}

/// The last line of the books.
#[derive(Debug, Default, PartialEq, Eq)]
struct Books {
    received: u64,
    stored: u64,
    filtered: u64,
    rejected: u64,
    datagrams: u64,
    kernel_drops: u64,
}

impl Books {
    fn of(ended: &Ended) -> Books {
        let total = ended.stderr.lines().find_map(|line| line.split_once("total: ")).expect("the books are said").1;
        assert!(total.ends_with("; the books close"), "{total}");
        let figure = |behind: &str| {
            let rest = total.split_once(behind).unwrap_or_else(|| panic!("no {behind:?} in {total}")).1;
            let digits = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
            rest[..digits].parse().unwrap_or_else(|_| panic!("no number behind {behind:?} in {total}"))
        };
        Books {
            received: figure("received "),
            stored: figure("stored "),
            filtered: figure("filtered "),
            rejected: figure("rejected "),
            datagrams: figure("datagrams "),
            kernel_drops: figure("cut) and "),
        }
    }
}
