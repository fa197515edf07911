//! Descriptors: connections leave enough of them for files.

use crate::support::client::Client;
use crate::support::lines::{OK, record};
use crate::support::on_each_backend;
use crate::support::process::Setup;

on_each_backend!(a_roll_works_with_as_many_connections_as_there_are_descriptors_for, |setup: Setup| {
    const DESCRIPTORS: usize = 120;
    let setup = setup.small_segments().ack("written");
    let limited =
        setup.clone().through(["sh", "-c", &format!("ulimit -Sn 64; ulimit -Hn {DESCRIPTORS}; exec \"$@\""), "sh"]);
    let limited = limited.flag("--max-connections-per-address", 10_000);
    let server = limited.start();
    let said = server.stderr();
    assert!(said.contains("instead of 16384") && said.contains("120 descriptors"), "it says so: {said}");
    // More than fit: the last are refused, and nobody else is harmed.
    let mut clients: Vec<Client> = (0..DESCRIPTORS).map(|_| server.connect()).collect();
    let mut served = 0;
    for (at, client) in clients.iter_mut().enumerate() {
        client.stream().set_nodelay(true).unwrap();
        let _ = std::io::Write::write_all(&mut client.stream(), (record("c", at as u64) + "\n").as_bytes());
        served += usize::from(client.next_line_or_end().as_deref() == Some(OK));
    }
    let room = DESCRIPTORS - 32 - 16;
    assert_eq!(served, room, "as many are served as it said");
    assert!(server.descriptors() <= DESCRIPTORS);
    let line = format!("{{\"level\":\"info\",\"message\":\"{}\"}}\n", "x".repeat(200 << 10));
    let before = setup.segments(0).len();
    let rolled = crate::support::process::segment_mib() * 2 * 5 + 5;
    for _ in 0..rolled {
        clients[0].send(&line);
        assert_eq!(clients[0].line(), OK);
    }
    assert!(setup.segments(0).len() > before + 1, "it has rolled");
    assert!(server.descriptors() <= DESCRIPTORS);
    drop(clients);
    server.stop();
    setup.assert_verified();
});

on_each_backend!(a_limit_that_leaves_no_connection_is_refused_in_words, |setup: Setup| {
    let ended = setup.through(["sh", "-c", "ulimit -n 40; exec \"$@\"", "sh"]).try_start().err().expect("refused");
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("40 descriptors") && ended.stderr.contains("ulimit -Hn"), "{}", ended.stderr);
});
