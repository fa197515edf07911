//! What both engines promise: bytes in order whatever a socket takes at once, news of nobody who is gone, nothing left open.

use ringest_loadgen::io::{Chunk, Engine, Event, Intake, Io, News};
use ringest_loadgen::sink::{Known, Sink};
use ringest_sys::{net, ring};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Descriptors belong to the process, and tests share one.
static ALONE: Mutex<()> = Mutex::new(());

fn engines() -> impl Iterator<Item = Engine> {
    let uring = ring::probe().is_ok().then_some(Engine::Uring);
    uring.into_iter().chain([Engine::Epoll])
}

fn pair(listener: &TcpListener, io: &mut Io, at: usize) -> TcpStream {
    io.connect(at, listener.local_addr().unwrap()).unwrap();
    listener.accept().unwrap().0
}

/// The next news, which are expected to come.
fn news(io: &mut Io) -> Event {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(event) = io.next() {
            return event;
        }
        assert!(Instant::now() < patience, "nothing happens");
        io.wait(Duration::from_secs(1)).unwrap();
    }
}

fn text(io: &mut Io, chunk: Chunk) -> Vec<u8> {
    let bytes = io.bytes(&chunk).to_vec();
    io.release(chunk);
    bytes
}

/// Bytes that differ wherever they are misplaced.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(u32::to_le_bytes).take(len).collect()
}

#[test]
fn all_that_is_sent_arrives_in_order_through_a_peer_that_reads_slowly() {
    // More than the sockets of both sides hold.
    const LEN: usize = 16 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for engine in engines() {
        for piece in [100, 3000, 4096, 70_000, 1 << 20] {
            let mut io = Io::new(engine, Intake::Answers(1)).unwrap();
            let mut peer = pair(&listener, &mut io, 0);
            let bytes = pattern(LEN);
            let (full, begin) = channel();
            let reader = thread::spawn(move || {
                let mut read = vec![0; LEN];
                begin.recv().unwrap();
                peer.read_exact(&mut read).unwrap();
                read
            });
            let mut sent = 0;
            while sent < bytes.len() {
                match io.send(0, &bytes[sent..(sent + piece).min(bytes.len())]) {
                    Ok(len) => sent += len,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{engine} {error}");
                        // It reads once nothing more fits, and may be done before this is said again.
                        let _ = full.send(());
                        let event = news(&mut io);
                        assert!(matches!(event, Event { at: 0, news: News::Room }), "{engine} {event:?}");
                    }
                }
            }
            while !reader.is_finished() {
                io.wait(Duration::from_millis(20)).unwrap();
                while let Some(_room) = io.next() {}
            }
            assert!(reader.join().unwrap() == bytes, "{engine}, {piece} bytes at a time");
        }
    }
}

#[test]
fn what_comes_is_told_in_order_and_so_is_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for (engine, intake) in engines().flat_map(|engine| [(engine, Intake::Answers(1)), (engine, Intake::Lines)]) {
        let mut io = Io::new(engine, intake).unwrap();
        let mut peer = pair(&listener, &mut io, 3);
        let bytes = pattern(16 << 20);
        let copy = bytes.clone();
        let writer = thread::spawn(move || {
            peer.write_all(&copy).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        });
        let mut read = Vec::new();
        loop {
            match news(&mut io) {
                Event { at: 3, news: News::Bytes(chunk) } => read.extend(text(&mut io, chunk)),
                Event { at: 3, news: News::Ended } => break,
                event => panic!("{engine}: {event:?}"),
            }
        }
        assert!(read == bytes, "{engine}");
        drop(writer.join().unwrap());
    }
}

#[test]
fn a_dialled_connection_is_told_once_it_is_there_or_refused() {
    for engine in engines() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut io = Io::new(engine, Intake::Answers(2)).unwrap();
        // The first is replaced before anything could be told of it.
        io.dial(1, addr).unwrap();
        io.dial(1, addr).unwrap();
        let event = news(&mut io);
        assert!(matches!(event, Event { at: 1, news: News::Connected }), "{engine}: {event:?}");
        let mut peers = [listener.accept().unwrap().0, listener.accept().unwrap().0];
        io.send(1, b"here").unwrap();
        io.wait(Duration::ZERO).unwrap();
        peers[1].read_exact(&mut [0; 4]).unwrap();
        peers[1].write_all(b"there").unwrap();
        match news(&mut io) {
            Event { at: 1, news: News::Bytes(chunk) } => assert_eq!(text(&mut io, chunk), b"there", "{engine}"),
            event => panic!("{engine}: {event:?}"),
        }
        drop(listener);
        let refused = match io.dial(2, addr) {
            Err(error) => error,
            Ok(()) => match news(&mut io) {
                Event { at: 2, news: News::Broken(error) } => error,
                event => panic!("{engine}: {event:?}"),
            },
        };
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{engine}");
    }
}

#[test]
fn of_an_earlier_connection_of_the_same_number_nothing_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for engine in engines() {
        let mut io = Io::new(engine, Intake::Answers(2)).unwrap();
        let mut first = pair(&listener, &mut io, 1);
        first.write_all(b"old").unwrap();
        // The news are waiting when the connection is replaced.
        thread::sleep(Duration::from_millis(20));
        io.wait(Duration::from_millis(50)).unwrap();
        let mut second = pair(&listener, &mut io, 1);
        second.write_all(b"new").unwrap();
        match news(&mut io) {
            Event { at: 1, news: News::Bytes(chunk) } => assert_eq!(text(&mut io, chunk), b"new", "{engine}"),
            event => panic!("{engine}: {event:?}"),
        }
        assert_eq!(first.read(&mut [0; 8]).map_err(|error| error.kind()).unwrap_or(0), 0, "it was closed");
        drop(first);
        net::set_linger_zero(second.as_fd()).unwrap();
        drop(second);
        let event = news(&mut io);
        assert!(matches!(event, Event { at: 1, news: News::Broken(_) }), "{engine}: {event:?}");
        io.close(1);
        assert_eq!(io.send(1, b"x").unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

#[test]
fn connections_come_and_go_and_leave_no_descriptor() {
    let _alone = ALONE.lock().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for engine in engines() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let mut io = Io::new(engine, Intake::Answers(10)).unwrap();
        let mut peers = Vec::new();
        for round in 0..300 {
            let at = round % 10;
            peers.push(pair(&listener, &mut io, at));
            io.send(at, b"hello\n").unwrap();
            if round % 3 == 0 {
                io.wait(Duration::ZERO).unwrap();
                while let Some(event) = io.next() {
                    if let News::Bytes(chunk) = event.news {
                        io.release(chunk);
                    }
                }
            }
            if round % 7 == 0 {
                io.close(at);
            }
        }
        drop(io);
        for mut peer in peers {
            // It ends: nothing in the kernel holds the other side open.
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let ended = peer.read_to_end(&mut Vec::new());
            assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{engine}");
        }
        // Other tests of this process open some meanwhile, but not hundreds.
        assert!(open() < before + 100, "{engine}: {before} and then {}", open());
    }
}

#[test]
fn a_sink_answers_each_line_once_on_either_engine() {
    for engine in engines() {
        let listener = net::listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let sink = scope.spawn(|| Sink::new(engine, listener, Known::default()).unwrap().serve(&stop));
            // Also where an assertion fails: the scope waits for it.
            let guard = Stop(&stop);
            let lines = 100_000;
            let streams: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
            for mut stream in &streams {
                let mut half = stream.try_clone().unwrap();
                let writer = scope.spawn(move || half.write_all(&b"{\"level\":\"INFO\"}\n".repeat(lines)).unwrap());
                let mut answers = vec![0; lines * ringest_wire::reply::OK.len()];
                stream.read_exact(&mut answers).unwrap();
                assert!(answers == ringest_wire::reply::OK.repeat(lines), "{engine}");
                writer.join().unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                assert!(stream.read(&mut [0]).is_err(), "and no more, for as long as it waits");
            }
            drop(guard);
            sink.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_rate_that_nobody_could_keep_ends_in_time_all_the_same() {
    for engine in engines() {
        let listener = net::listen("127.0.0.1:0".parse().unwrap(), 64).unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| Sink::new(engine, listener, Known::default()).unwrap().serve(&stop));
            let _guard = Stop(&stop);
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringest-loadgen"));
            command.env_clear().args([
                "--host",
                "127.0.0.1",
                "--port",
                &addr.port().to_string(),
                "--io",
                engine.as_str(),
            ]);
            command.args(["-R", "100000000", "-d", "300ms", "--drain", "300ms", "-c", "50", "-q"]);
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            let patience = Instant::now() + Duration::from_secs(20);
            while child.try_wait().unwrap().is_none() {
                if Instant::now() > patience {
                    child.kill().unwrap();
                    panic!("{engine}: a run of 600 ms does not end");
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
