//! The processes of one-core: the server and the floor, each on its one processor.

use super::case::Served;
use crate::cli::OneCore;
use crate::floor::{Answer, Backend, Writing};
use crate::process::{LOGS, Launch, Process, Server};
use ringest_sys::cpu::CpuList;
use ringest_wire::AckLevel;
use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::path::Path;

/// Starts the server; it takes connections when this returns.
pub(super) fn server(task: &OneCore, dir: &Path, backend: Served, ack: AckLevel) -> io::Result<Server> {
    server_with(task, dir, backend, ack, &[])
}

/// Starts the server with these arguments, too.
pub(super) fn server_with(
    task: &OneCore,
    dir: &Path,
    backend: Served,
    ack: AckLevel,
    args: &[&OsStr],
) -> io::Result<Server> {
    let cpu = task.server_cpu.to_string();
    let ack = ack.to_string();
    let usual = ["--backend", served_name(backend), "--ack", &ack, "--cpu-list", &cpu].map(OsStr::new);
    let launch = Launch::new(&task.server, args.iter().copied().chain(usual));
    Server::start(&launch.on(Some(&one(task.server_cpu)?)), dir)
}

/// Starts the floor, which is this binary; its port.
pub(super) fn floor(task: &OneCore, dir: &Path, backend: Backend, writing: Writing) -> io::Result<(Process, u16)> {
    let writing = match writing {
        Writing::Buffered => "buffered",
        Writing::Direct => "direct",
    };
    floor_with(task, dir, backend, &["--write", writing])
}

/// Starts the floor that answers each line; its port.
pub(super) fn answering_floor(
    task: &OneCore,
    dir: &Path,
    backend: Backend,
    answer: Answer,
) -> io::Result<(Process, u16)> {
    let answer = match answer {
        Answer::Written => "written",
        Answer::Durable => "durable",
    };
    floor_with(task, dir, backend, &["--answer", answer])
}

fn floor_with(task: &OneCore, dir: &Path, backend: Backend, args: &[&str]) -> io::Result<(Process, u16)> {
    let (cpu, size) = (task.server_cpu.to_string(), task.record_size.to_string());
    let (window, warm_up) = (task.window.to_string(), task.warm_up.to_string());
    let usual = ["floor", "--backend", backend_name(backend), "--cpu", &cpu, "--record-size", &size];
    let times = ["--seconds", &window, "--warm-up", &warm_up, "--dir"];
    let all = usual.into_iter().chain(args.iter().copied()).chain(times);
    let mut launch = Launch::new(&std::env::current_exe()?, all);
    launch.args.push(dir.join(LOGS).into());
    let mut process = Process::start(&launch.on(Some(&one(task.server_cpu)?)), dir)?;
    let mut line = String::new();
    process.stdout.read_line(&mut line)?;
    let port = line.split_whitespace().last().and_then(|address| address.rsplit_once(':')?.1.parse().ok());
    let port = port.ok_or_else(|| process.explain("the floor does not listen"))?;
    Ok((process, port))
}

fn one(cpu: usize) -> io::Result<CpuList> {
    cpu.to_string().parse().map_err(io::Error::other)
}

fn served_name(backend: Served) -> &'static str {
    match backend {
        Served::Uring => "uring",
        Served::Epoll => "epoll",
        Served::Glommio => "glommio",
    }
}

fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Uring => "uring",
        Backend::Epoll => "epoll",
    }
}
