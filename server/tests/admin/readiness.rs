//! Readiness tells the truth about storage: it turns within a second of the disk, both ways.

use crate::support::Backend;
use crate::support::disk::SmallDisk;
use crate::support::lines::OK;
use crate::support::on_each_backend;
use crate::support::process::{Setup, segment_mib};
use crate::thin_disk::ThinDisk;
use crate::web::{Page, get};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

on_each_backend!(readiness_turns_within_a_second_when_the_disk_hangs_and_back, |setup: Setup| {
    let Some(disk) = or_skipped(ThinDisk::mount(&setup, 300)) else { return };
    let setup = setup.small_segments().log_dir(disk.path().join("logs")).admin();
    let server = setup.start();
    let admin = server.admin_addr();
    let mut client = server.connect();
    assert_eq!(client.ask(line(1)), OK);
    assert_ready(&get(admin, "/readyz"));

    let Some(frozen) = or_skipped(Frozen::freeze(disk.path())) else { return };
    client.say(line(2));
    let page = turns(admin, 503, Duration::from_secs(1));
    println!("{:?}: {}", setup.on, page.text());
    let is_old = page.text().starts_with("shard 0: the oldest record that is not safe came ");
    if setup.on == Backend::Epoll {
        // Its files are on a thread of their own.
        assert!(is_old, "{}", page.text());
        assert_eq!(get(admin, "/livez").status, 200, "the disk hangs, and the server lives");
    } else {
        // A shard that writes small groups into the page cache itself is stopped by a file system that takes nothing.
        assert!(is_old || page.text() == "shard 0 does not answer\n", "{}", page.text());
    }

    drop(frozen);
    assert_ready(&turns(admin, 200, Duration::from_secs(2)));
    assert_eq!(client.line(), OK);
    server.stop();
});

on_each_backend!(readiness_turns_within_a_second_when_the_disk_fails_and_back, |setup: Setup| {
    let Some(disk) = or_skipped(ThinDisk::mount(&setup, 64)) else { return };
    let server = setup.small_segments().log_dir(disk.path().join("logs")).admin().start();
    let admin = server.admin_addr();
    assert_ready(&get(admin, "/readyz"));
    // What was taken waits for the disk without a word, so nobody here waits for answers.
    let mut stream = server.connect().stream().try_clone().unwrap();
    let record = format!("{{\"level\":\"info\",\"message\":\"{}\"}}\n", "x".repeat(200_000));
    let sender = thread::spawn(move || while stream.write_all(record.as_bytes()).is_ok() {});
    let started = Instant::now();
    while !server.stderr().contains(" failed: ") {
        assert!(started.elapsed() < Duration::from_secs(30), "a disk of 64 MiB fails sooner");
        thread::sleep(Duration::from_millis(5));
    }
    let page = turns(admin, 503, Duration::from_secs(1));
    assert!(page.text().contains("storage") || page.text().contains("not safe"), "{}", page.text());

    disk.thicken();
    // It is tried again once a second, with what was taken.
    assert_ready(&turns(admin, 200, Duration::from_secs(20)));
    server.kill();
    sender.join().unwrap();
});

on_each_backend!(a_server_that_starts_on_a_full_disk_is_not_ready_until_there_is_room, |setup: Setup| {
    let mib = segment_mib() + 8;
    let Some(disk) = or_skipped(SmallDisk::mount(&setup, mib)) else { return };
    disk.occupy(mib - 4);
    let server = setup.small_segments().log_dir(disk.path().join("logs")).admin().start();
    let admin = server.admin_addr();
    let page = turns(admin, 503, Duration::from_secs(1));
    assert_eq!(page.text(), "shard 0: storage takes nothing, lines are refused with storage_full\n");
    disk.free();
    assert_ready(&turns(admin, 200, Duration::from_secs(5)));
    server.stop();
});

on_each_backend!(a_server_that_drains_says_so, |setup: Setup| {
    let Some(disk) = or_skipped(ThinDisk::mount(&setup, 300)) else { return };
    let server = setup.small_segments().log_dir(disk.path().join("logs")).admin().start();
    let admin = server.admin_addr();
    let mut client = server.connect();
    assert_eq!(client.ask(line(1)), OK);
    let Some(frozen) = or_skipped(Frozen::freeze(disk.path())) else { return };
    client.say(line(2));
    thread::sleep(Duration::from_millis(100));
    server.signal("TERM");
    let signalled = Instant::now();
    while !get(admin, "/readyz").text().starts_with("draining") {
        assert!(signalled.elapsed() < Duration::from_secs(2), "{}", get(admin, "/readyz").text());
    }
    let alive = get(admin, "/livez");
    assert_eq!((alive.status, alive.text()), (200, "draining\n".into()));
    drop(frozen);
    assert_eq!(client.line(), OK, "what was taken is settled");
    assert!(server.wait().status.success());
});

/// Asks until the answer has this status, which it has to have in time.
fn turns(admin: SocketAddr, status: u16, within: Duration) -> Page {
    let started = Instant::now();
    loop {
        let page = get(admin, "/readyz");
        if page.status == status {
            println!("{status} after {:?}: {}", started.elapsed(), page.text().trim_end());
            return page;
        }
        assert!(started.elapsed() < within, "not {status} within {within:?}: {}", page.text());
        thread::sleep(Duration::from_millis(10));
    }
}

fn assert_ready(page: &Page) {
    assert!(page.status == 200 && page.text().starts_with("ready\nshard 0: "), "{page:?}");
}

fn line(number: u64) -> String {
    crate::support::lines::record("readiness", number)
}

/// A file system on which writes wait. Thawed when it is dropped: nothing that touches it could end before.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(at: &Path) -> Result<Frozen, String> {
        let status = Command::new("fsfreeze").arg("--freeze").arg(at).status();
        match status {
            Ok(status) if status.success() => Ok(Frozen(at.to_owned())),
            Ok(status) => Err(format!("fsfreeze: {status}")),
            Err(error) => Err(format!("fsfreeze cannot be run: {error}")),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

fn or_skipped<T>(made: Result<T, String>) -> Option<T> {
    made.inspect_err(|why| println!("skipped, it takes root: {why}")).ok()
}
