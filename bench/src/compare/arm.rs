//! An arm of a comparison, as it is typed: `backend=uring,shards=2`, `server=target/old/ringest-server`, `default`.
//!
//! It says what is started and what is sent; it starts nothing.

use crate::load::Load;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

/// One of the two things that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    text: String,
    settings: Vec<Setting>,
}

/// What an arm sets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Setting {
    Server(PathBuf),
    /// Flags of the server.
    Flags(Vec<OsString>),
    /// Processors of the server, in the kernel's notation.
    Cpus(String),
    /// The scheduler decides where the server runs.
    NoPin,
    Ack(String),
    Size(u64),
    Connections(u64),
    Pipeline(u64),
    InSessions(bool),
    Compress(String),
}

impl Arm {
    /// As it was typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The program, where it is another one than usual.
    pub fn server(&self) -> Option<&PathBuf> {
        self.settings.iter().find_map(|setting| match setting {
            Setting::Server(path) => Some(path),
            _ => None,
        })
    }

    /// The server's processors, where they are not the usual ones; `Some(None)` leaves it to the scheduler.
    pub fn cpus(&self) -> Option<Option<&str>> {
        self.settings.iter().find_map(|setting| match setting {
            Setting::Cpus(list) => Some(Some(list.as_str())),
            Setting::NoPin => Some(None),
            _ => None,
        })
    }

    /// Flags of the server.
    pub fn flags(&self) -> Vec<OsString> {
        let mut flags = Vec::new();
        for setting in &self.settings {
            match setting {
                Setting::Flags(more) => flags.extend(more.iter().cloned()),
                Setting::NoPin => flags.push("--no-pin".into()),
                Setting::Ack(level) => flags.extend(["--ack".into(), level.into()]),
                Setting::Server(_)
                | Setting::Cpus(_)
                | Setting::Size(_)
                | Setting::Connections(_)
                | Setting::Pipeline(_)
                | Setting::InSessions(_)
                | Setting::Compress(_) => {}
            }
        }
        flags
    }

    /// What is sent, where that differs from the usual.
    #[must_use]
    pub fn load(&self, usual: &Load) -> Load {
        let mut load = usual.clone();
        for setting in &self.settings {
            match setting {
                Setting::Ack(level) => load.ack = Some(level.clone()),
                Setting::Size(bytes) => load.record_size = *bytes,
                Setting::Connections(count) => load.connections = *count,
                Setting::Pipeline(depth) => (load.pipeline, load.batch) = (*depth, *depth),
                Setting::InSessions(in_sessions) => load.in_sessions = *in_sessions,
                Setting::Compress(kind) => load.extra.extend(["--compress".into(), kind.into()]),
                Setting::Server(_) | Setting::Flags(_) | Setting::Cpus(_) | Setting::NoPin => {}
            }
        }
        load
    }
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(text: &str) -> Result<Arm, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != DEFAULT);
        let settings = words.map(setting).collect::<Result<Vec<_>, _>>()?;
        let keys: Vec<&str> = text.split(',').filter_map(|word| Some(word.split_once('=')?.0.trim())).collect();
        if let Some(twice) = keys.iter().enumerate().find_map(|(at, key)| keys[..at].contains(key).then_some(key)) {
            return Err(format!("\"{twice}\" is set twice"));
        }
        if ["cpus", "pin"].iter().all(|key| keys.contains(key)) {
            return Err("cpus pins, and pin=no does not: set one of them".into());
        }
        let text = if settings.is_empty() { DEFAULT } else { text.trim() };
        Ok(Arm { text: text.into(), settings })
    }
}

fn setting(word: &str) -> Result<Setting, String> {
    let (key, value) =
        word.split_once('=').ok_or_else(|| format!("\"{word}\" is no setting; write it like backend=epoll. {KEYS}"))?;
    let flag = |name: &str| Ok(Setting::Flags(vec![name.into(), value.into()]));
    let number = || match value.parse::<u64>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{key}=\"{value}\" is no number above 0")),
    };
    let on = |yes: &str, no: &str| match value {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => Err(format!("{key}=\"{value}\" is neither {yes} nor {no}")),
    };
    match key {
        "server" => Ok(Setting::Server(value.into())),
        "backend" => flag("--backend"),
        "shards" => number().and_then(|_| flag("--shards")),
        "batch" => number().and_then(|_| flag("--batch-size")),
        "flush" => flag("--batch-flush-ms"),
        "buffer" => number().and_then(|_| flag("--buffer-size")),
        "segments" => flag("--segment-compression"),
        // A comma parts settings.
        "cpus" => Ok(Setting::Cpus(value.replace('+', ","))),
        "pin" => Ok(if on("yes", "no")? { Setting::Flags(Vec::new()) } else { Setting::NoPin }),
        "ack" => Ok(Setting::Ack(value.into())),
        // Every batch is traced, for a collector that is not there: what a span costs, and no network.
        "tracing" => Ok(Setting::Flags(if on("on", "off")? {
            ["--otlp-endpoint", "http://127.0.0.1:9", "--otlp-sample", "1"].map(OsString::from).to_vec()
        } else {
            Vec::new()
        })),
        "size" => number().map(Setting::Size),
        "connections" => number().map(Setting::Connections),
        "pipeline" => number().map(Setting::Pipeline),
        "mode" => match value {
            "session" => Ok(Setting::InSessions(true)),
            "plain" => Ok(Setting::InSessions(false)),
            _ => Err(format!("mode=\"{value}\" is neither plain nor session")),
        },
        "compress" => Ok(Setting::Compress(value.into())),
        _ => Err(format!("there is no setting \"{key}\". {KEYS}")),
    }
}

const DEFAULT: &str = "default";
const KEYS: &str = "There are: server=PATH, backend, shards, cpus (0-3+8), pin=yes|no, ack, batch, flush, buffer, segments, \
                    tracing=on|off of the server; size, connections, pipeline, mode, compress of what is sent";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn arm(text: &str) -> Arm {
        text.parse().unwrap()
    }

    fn flags(text: &str) -> String {
        arm(text).flags().join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn an_arm_is_flags_of_the_server_and_changes_to_what_is_sent() {
        assert_eq!(flags("backend=uring,shards=2"), "--backend uring --shards 2");
        assert_eq!(flags("pin=no"), "--no-pin");
        assert_eq!(flags("pin=yes,tracing=off"), "");
        assert!(flags("tracing=on").contains("--otlp-sample 1"));
        assert_eq!(arm("cpus=0-1+3").cpus(), Some(Some("0-1,3")));
        assert_eq!(arm("pin=no").cpus(), Some(None));
        assert_eq!(arm("server=/old/ringest-server").server().unwrap(), &PathBuf::from("/old/ringest-server"));
        let usual = Load::closed(None, Duration::from_secs(1), 50);
        let load = arm("ack=written,size=400,connections=7,mode=session,pipeline=9").load(&usual);
        assert_eq!((load.record_size, load.connections, load.pipeline, load.in_sessions), (400, 7, 9, true));
        assert_eq!((load.ack.as_deref(), flags("ack=written").as_str()), (Some("written"), "--ack written"));
    }

    #[test]
    fn the_usual_is_an_arm_too() {
        for text in ["default", "", " "] {
            let arm = arm(text);
            assert_eq!((arm.as_str(), arm.flags().len(), arm.server(), arm.cpus()), ("default", 0, None, None));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        let refused = |text: &str| text.parse::<Arm>().unwrap_err();
        assert!(refused("backends=uring").contains("backend"));
        assert!(refused("uring").contains("backend=epoll"));
        assert!(refused("shards=none").contains("shards"));
        assert!(refused("size=0").contains("size"));
        assert!(refused("pin=maybe").contains("neither"));
        assert!(refused("ack=written,ack=durable").contains("twice"));
        assert!(refused("cpus=0,pin=no").contains("one of them"));
    }
}
