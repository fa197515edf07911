//! What a server tells the supervisor that started it, and when.

use crate::support::lines::{OK, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// The end at which a supervisor listens.
struct Ear(UnixDatagram);

impl Ear {
    /// One that the server is told of.
    fn of(setup: Setup) -> (Ear, Setup) {
        let path = setup.room().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let setup = setup.env("NOTIFY_SOCKET", path.to_str().unwrap());
        (Ear(socket), setup)
    }

    /// The next word that is not about being alive.
    fn hear(&self) -> String {
        loop {
            let said = self.next();
            if said != "WATCHDOG=1\n" {
                return said;
            }
        }
    }

    fn next(&self) -> String {
        let mut buf = [0; 4096];
        loop {
            match self.0.recv(&mut buf) {
                Ok(len) => return String::from_utf8(buf[..len].to_vec()).unwrap(),
                // A receive with a time limit is not taken up again behind a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the server says it: {error}"),
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let heard = self.0.recv(&mut [0; 4096]);
        self.0.set_nonblocking(false).unwrap();
        heard.is_err()
    }
}

on_each_backend!(a_supervisor_hears_of_readiness_reloads_and_the_end, |setup: Setup| {
    let file = setup.room().join("ringest.toml");
    fs::write(&file, "").unwrap();
    let (ear, setup) = Ear::of(setup.flag("--config", file.display()));
    let server = setup.start();
    let said = ear.hear();
    assert!(said.starts_with(&format!("READY=1\nSTATUS=listening on {}", server.addr())), "{said}");
    assert_eq!(server.connect().ask(record("p", 1)), OK);
    for text in ["batch-size = 7\n", "nonsense\n"] {
        fs::write(&file, text).unwrap();
        server.signal("HUP");
        assert!(ear.hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert!(ear.hear().starts_with("READY=1\n"), "also where nothing came of it");
    }
    assert!(ear.is_silent(), "nobody asked for a watchdog");
    server.signal("TERM");
    assert_eq!(ear.hear(), "STOPPING=1\nSTATUS=draining, asked to by SIGTERM\n");
    assert_eq!(server.wait().status.code(), Some(0));
});

on_each_backend!(a_server_that_cannot_start_is_never_said_to_be_ready, |setup: Setup| {
    let (ear, setup) = Ear::of(setup);
    let first = setup.clone().start();
    ear.hear();
    assert!(setup.try_start().is_err());
    assert!(ear.is_silent());
    drop(first);
});

on_each_backend!(a_watchdog_is_fed_while_the_shards_answer_and_no_longer, |setup: Setup| {
    let (ear, setup) = Ear::of(setup.shards(2).env("WATCHDOG_USEC", "1000000"));
    let server = setup.start();
    assert!(ear.next().starts_with("READY=1"));
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(ear.next(), "WATCHDOG=1\n");
        assert!(began.elapsed() < Duration::from_secs(5), "more often than has to be");
    }
    server.signal("STOP"); // No thread of it turns.
    while !ear.is_silent() {}
    std::thread::sleep(Duration::from_millis(600));
    assert!(ear.is_silent());
    server.signal("CONT");
    assert_eq!(ear.next(), "WATCHDOG=1\n");
    server.stop();
});
