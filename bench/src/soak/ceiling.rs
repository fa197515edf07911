//! What a server's design allows it, as equalities: threads and descriptors are sums, and so is memory.
//!
//! One more of any is a leak, however slowly it grows. `docs/OPERATIONS.md` has the same sums.

use super::record::Ceiling;
use serde_json::Value;

/// By the configuration that the server prints, and what it was born with; none where it has parts that are not in the sums.
pub(super) fn of(config: &Value, connections: u64, inherited: u64) -> Option<Ceiling> {
    if !config["udp"].is_null() || !config["otlp_endpoint"].is_null() {
        return None;
    }
    let shards = config["shards"].as_u64()?;
    let (threads, fds) = match config["backend"].as_str()? {
        "uring" => (1, 3),
        // A shard has a writer.
        "epoll" => (2, 3),
        // An executor has a thread for what would block, and two rings more.
        "glommio" => (2, 8),
        _ => return None,
    };
    let memory = |name: &str| config["memory_bytes"][name].as_u64();
    // Where a client may compress or encrypt is not known before it comes.
    let per_connection = memory("per_encoded_connection")?;
    Some(Ceiling {
        threads: THREADS + shards * threads,
        fds_at_rest: FDS + inherited + shards * fds,
        segment_fds: shards * SEGMENT_FDS,
        connections,
        memory_bytes: memory("base")? + shards * memory("per_shard")? + connections * per_connection,
    })
}

/// The main one, one that takes signals, one that watches segments' age, one that closes files, the admin listener's.
const THREADS: u64 = 5;
/// Standard input, output and error, the directory and its lock, the listeners' addresses, signals, the admin listener.
const FDS: u64 = 14;
/// The segment that is written, the next one, and one that is being closed: three descriptors each at most.
const SEGMENT_FDS: u64 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(backend: &str, shards: u64) -> Value {
        let memory = json!({ "base": 100, "per_shard": 10, "per_encoded_connection": 1 });
        json!({ "backend": backend, "shards": shards, "memory_bytes": memory, "udp": null, "otlp_endpoint": null })
    }

    #[test]
    fn sums_are_by_shard_and_backend() {
        let sums = |backend, shards| {
            of(&config(backend, shards), 7, 0).map(|sum| (sum.threads, sum.fds_at_rest, sum.memory_bytes))
        };
        assert_eq!(sums("uring", 1), Some((6, 17, 117)));
        assert_eq!(sums("uring", 2), Some((7, 20, 127)));
        assert_eq!(sums("epoll", 2), Some((9, 20, 127)));
        assert_eq!(sums("glommio", 2), Some((9, 30, 127)));
        assert_eq!(sums("kqueue", 2), None);
    }

    #[test]
    fn what_is_in_no_sum_has_no_ceiling() {
        let mut with_udp = config("uring", 1);
        with_udp["udp"] = json!("127.0.0.1:9001");
        assert_eq!(of(&with_udp, 1, 0), None);
        assert_eq!(of(&json!({}), 1, 0), None);
    }
}
