//! What the simulation found, each as a world that is small enough to read.

use ringest_ingest::{Action, Block, BreakerLimits, Fault, Limits, PAGE, SegmentId, SessionId, Shard, ShardConfig};
use ringest_wire::{AckLevel, Code, Severity, reply};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A driver that completes what it is told to, when it is told to. Segments open and sends arrive by themselves.
struct Hand {
    shard: Shard,
    now: Instant,
    writes: Vec<Block>,
    syncs: Vec<SegmentId>,
    /// What each session was told and has not been looked at.
    said: HashMap<u64, String>,
    closed: Vec<SessionId>,
    /// Segments that ended, and where.
    cuts: Vec<(u64, u64)>,
    /// Sends do not arrive.
    is_stuck: bool,
}

impl Hand {
    fn new(ack: AckLevel) -> Hand {
        Hand::with(ack, |_| {})
    }

    fn with(ack: AckLevel, change: impl FnOnce(&mut Limits)) -> Hand {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
        let now = Instant::now();
        let mut limits = Limits {
            line_len_max: 4096,
            chunk_len_max: 1024,
            batch_len_max: 8192,
            batches: 4,
            writes_max: 2,
            linger: Duration::ZERO,
            ahead_len_min: 0,
            ..Limits::default()
        };
        limits.segment_len = limits.segment_len_min().next_multiple_of(PAGE as u64);
        change(&mut limits);
        let config = ShardConfig { ack, min_level: Severity::Info, ..ShardConfig::alone(limits) };
        let shard = Shard::new(config, now).unwrap();
        let (writes, syncs, said, closed) = (Vec::new(), Vec::new(), HashMap::new(), Vec::new());
        let mut hand = Hand { shard, now, writes, syncs, said, closed, cuts: Vec::new(), is_stuck: false };
        hand.poll();
        hand
    }

    fn accept(&mut self) -> SessionId {
        self.shard.handle_accepted(self.now).unwrap()
    }

    /// Hands a chunk over, if it is wanted.
    fn offer(&mut self, id: SessionId, chunk: &str) -> bool {
        let is_wanted = self.shard.wants(id);
        if is_wanted {
            self.shard.handle_bytes(id, chunk.as_bytes(), self.now);
        }
        self.poll();
        is_wanted
    }

    fn send(&mut self, id: SessionId, chunk: &str) {
        assert!(self.offer(id, chunk), "it is wanted");
    }

    fn end(&mut self, id: SessionId) {
        assert!(self.shard.wants(id), "it is wanted");
        self.shard.handle_end(id, self.now);
        self.poll();
    }

    fn drain(&mut self) {
        self.shard.handle_drain(self.now);
        self.poll();
    }

    fn poll(&mut self) {
        loop {
            self.shard.handle_timeout(self.now);
            let Some(action) = self.shard.poll() else { return };
            match action {
                Action::Open(id) => self.shard.handle_opened(id, Ok(()), self.now),
                Action::Write(block) => self.writes.push(block),
                Action::Sync(id) => self.syncs.push(id),
                Action::Send(id, buf) => {
                    self.said.entry(id.token()).or_default().push_str(std::str::from_utf8(&buf).unwrap());
                    if !self.is_stuck {
                        self.shard.handle_sent(id, buf, self.now);
                    }
                }
                Action::Close(id) => self.closed.push(id),
                Action::CloseSegment { segment, len, .. } => self.cuts.push((segment.0, len)),
                Action::Resume(_) | Action::ResumeDatagrams => {}
                Action::HandOff { .. } => panic!("there is one shard"),
            }
        }
    }

    fn wrote(&mut self, outcome: Result<(), Fault>) {
        let block = self.writes.remove(0);
        self.shard.handle_written(block, outcome, self.now);
        self.poll();
    }

    fn synced(&mut self, outcome: Result<(), Fault>) {
        let segment = self.syncs.remove(0);
        self.shard.handle_synced(segment, outcome, self.now);
        self.poll();
    }

    /// Completes everything.
    fn disk(&mut self) {
        while !self.writes.is_empty() || !self.syncs.is_empty() {
            if self.writes.is_empty() { self.synced(Ok(())) } else { self.wrote(Ok(())) }
        }
    }

    fn said(&mut self, id: SessionId) -> String {
        self.said.remove(&id.token()).unwrap_or_default()
    }

    fn hello(&mut self, level: &str, resume_from: u64) -> SessionId {
        let id = self.accept();
        self.send(id, &hello(level, resume_from));
        assert!(self.said(id).starts_with("{\"$welcome\""), "nothing is to be waited for");
        id
    }
}

fn hello(level: &str, resume_from: u64) -> String {
    format!(
        "{{\"$hello\":{{\"v\":1,\"producer\":\"p\",\"epoch\":1,\"ack\":\"{level}\",\"resume_from\":{resume_from}}}}}\n"
    )
}

fn line(text: &str) -> String {
    format!("{{\"level\":\"info\",\"message\":\"{text}\"}}\n")
}

const OK: &str = match std::str::from_utf8(reply::OK) {
    Ok(text) => text,
    Err(_) => panic!("a reply is text"),
};

#[test]
fn a_session_is_welcomed_before_it_is_acked() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    hand.send(id, &(hello("accepted", 1) + &line("sent along with the hello")));
    let said = hand.said(id);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("{\"$welcome\"") && lines[1].starts_with("{\"$ack\""), "{said}");
}

#[test]
fn a_hello_in_pieces_is_read_to_its_end() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    for byte in hello("durable", 1).chars() {
        hand.send(id, &byte.to_string());
    }
    assert!(hand.said(id).starts_with("{\"$welcome\""));
}

#[test]
fn half_a_line_at_the_end_of_a_stream_uses_up_no_number() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.hello("durable", 1);
    hand.send(id, &line("1")[..20]);
    hand.end(id);
    hand.disk();
    assert_eq!(hand.said(id), "");
    let id = hand.hello("durable", 1);
    hand.send(id, &line("1"));
    hand.disk();
    assert!(hand.said(id).contains("\"stored\":1,\"filtered\":0,\"dup\":0"));
}

#[test]
fn a_bye_is_answered_although_the_stream_ends_with_it() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.hello("durable", 1);
    hand.send(id, &(line("1") + "{\"$bye\":1}\n"));
    hand.end(id);
    hand.disk();
    let said = hand.said(id);
    assert!(said.contains("\"upto\":1") && said.lines().last().unwrap().starts_with("{\"$bye\""), "{said}");
    assert_eq!(hand.closed, [id]);
}

#[test]
fn memory_is_won_back_although_nobody_waits_for_a_sync() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.hello("accepted", 1);
    let chunk = line(&"x".repeat(900));
    let mut taken = 0;
    for _ in 0..400 {
        taken += u64::from(hand.offer(id, &chunk));
        hand.disk();
    }
    assert!(taken > 300, "{taken} chunks of 400 were wanted");
}

#[test]
fn an_ack_does_not_go_back_with_its_client() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.hello("durable", 1);
    hand.send(id, &line("x").repeat(5));
    hand.disk();
    assert!(hand.said(id).contains("\"upto\":5"));
    hand.send(id, &("{\"$resume\":{\"from\":2}}\n".to_owned() + &line("x").repeat(2)));
    hand.disk();
    let said = hand.said(id);
    assert!(said.contains("\"upto\":5") && said.contains("\"dup\":2"), "{said}");
}

#[test]
fn what_failed_is_named_until_a_sync_covers_the_name() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    hand.send(id, &line("x"));
    let counts = hand.writes[0].len();
    hand.disk();
    assert_eq!(hand.said(id), OK);
    hand.send(id, &line("x"));
    hand.wrote(Err(Fault::Broken));
    assert_eq!(hand.writes[0].segment(), SegmentId(2), "it is written again elsewhere");
    assert!(hand.syncs.is_empty(), "there is nothing yet that a sync could cover");
    hand.wrote(Err(Fault::Broken));
    hand.now += Limits::default().storage_retry;
    hand.poll();
    let text = String::from_utf8_lossy(hand.writes[0].bytes()).into_owned();
    assert!(text.contains(&format!("\"void\":[[1,{counts}],[2,0]]")), "{text}");
    hand.disk();
    assert_eq!(hand.said(id), OK);
}

#[test]
fn segments_that_fail_together_are_cut_from_the_newest_back() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    let chunk = line(&"x".repeat(900));
    let has_rolled = (0..100).any(|_| {
        hand.disk();
        hand.send(id, &chunk);
        hand.wrote(Ok(())); // And a sync is under way.
        hand.send(id, &chunk);
        hand.writes.first().is_some_and(|ahead| ahead.segment().0 == 2)
    });
    assert!(has_rolled, "a write goes ahead into the next segment");
    hand.wrote(Ok(()));
    while hand.cuts.is_empty() && !hand.writes.is_empty() {
        hand.wrote(Ok(())); // The first segment's last line.
    }
    hand.synced(Err(Fault::Broken));
    while !hand.writes.is_empty() && hand.writes[0].segment().0 <= 2 {
        hand.wrote(Ok(()));
    }
    let cut: Vec<u64> = hand.cuts.iter().map(|&(segment, _)| segment).collect();
    assert_eq!(cut, [2, 1]);
}

#[test]
fn a_failed_sync_is_not_tried_again_and_acks_wait_for_the_new_segment() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    hand.send(id, &line("x"));
    hand.wrote(Ok(()));
    hand.synced(Err(Fault::Broken));
    assert!(hand.syncs.is_empty() && hand.said(id).is_empty());
    assert_eq!(hand.writes[0].segment(), SegmentId(2));
    hand.wrote(Ok(()));
    assert_eq!(hand.syncs, [SegmentId(2)]);
    assert_eq!(hand.said(id), "");
    hand.synced(Ok(()));
    assert_eq!(hand.said(id), OK);
}

#[test]
fn nothing_is_durable_behind_a_segment_that_failed_until_that_is_told() {
    // Where nobody asked for a sync, a segment is synced when it ends, and its successor is written by then.
    let mut hand = Hand::new(AckLevel::Written);
    let id = hand.accept();
    while hand.syncs.is_empty() {
        hand.offer(id, &line(&"x".repeat(900)));
        while !hand.writes.is_empty() {
            hand.wrote(Ok(()));
        }
    }
    hand.synced(Err(Fault::Broken));
    let durable = hand.hello("durable", 1);
    hand.send(durable, &line("x"));
    let text = String::from_utf8_lossy(hand.writes[0].bytes()).into_owned();
    assert!(text.contains("\"id\":3,\"void\":[[1,") && text.contains(",[2,"), "{text}");
}

#[test]
fn the_segment_that_failed_first_is_named_however_long_storage_fails() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    hand.send(id, &line("x"));
    let counts = hand.writes[0].len();
    hand.disk();
    hand.send(id, &line("x"));
    for _ in 0..50 {
        hand.wrote(Err(Fault::Broken));
        hand.now += Limits::default().storage_retry;
        hand.poll();
    }
    let text = String::from_utf8_lossy(hand.writes[0].bytes()).into_owned();
    assert!(text.contains(&format!("\"void\":[[1,{counts}],[")), "{text}");
}

#[test]
fn what_is_to_be_written_again_is_not_acked_as_written() {
    let mut hand = Hand::new(AckLevel::Durable);
    let (writer, other) = (hand.hello("written", 1), hand.accept());
    hand.is_stuck = true; // Its ack has to wait for an answer that is still under way.
    hand.send(writer, "{\"$ping\":1}\n");
    assert_eq!(hand.said(writer), "{\"$pong\":1}\n");
    hand.send(writer, &line("1"));
    hand.wrote(Ok(()));
    hand.send(other, &line("2"));
    while hand.syncs.is_empty() {
        hand.wrote(Ok(()));
    }
    hand.synced(Err(Fault::Broken));
    while hand.writes[0].segment() == SegmentId(1) {
        hand.wrote(Ok(())); // What is under way has to come back first.
    }
    hand.is_stuck = false;
    hand.shard.handle_sent(writer, Vec::new(), hand.now);
    hand.poll();
    assert_eq!(hand.said(writer), "", "the only copy that counts is not written yet");
    hand.disk();
    assert!(hand.said(writer).contains("\"upto\":1"));
}

#[test]
fn a_durable_session_waits_for_what_was_only_written_and_is_refused_what_may_be_lost() {
    for outcome in [Ok(()), Err(Fault::Broken)] {
        let mut hand = Hand::new(AckLevel::Written);
        let id = hand.hello("written", 1);
        hand.send(id, &line("1"));
        hand.disk();
        assert!(hand.said(id).contains("\"upto\":1"));
        let id = hand.accept();
        hand.send(id, &hello("durable", 2));
        assert_eq!(hand.said(id), "", "what is written is not durable");
        hand.synced(outcome);
        let said = hand.said(id);
        match outcome {
            Ok(()) => assert!(said.starts_with("{\"$welcome\""), "{said}"),
            Err(_) => assert!(said.contains("storage_error"), "{said}"),
        }
    }
}

#[test]
fn a_chunk_that_was_wanted_is_not_refused_halfway() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    // Pieces of lines, so that each chunk completes a line, holds one and leaves one unfinished.
    let stream = line(&"x".repeat(700)).repeat(200);
    let mut rest = stream.as_str();
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(1000)];
        if hand.offer(id, chunk) {
            rest = &rest[chunk.len()..];
        } else {
            hand.wrote(Ok(()));
            hand.disk();
        }
    }
    hand.disk();
    assert_eq!(hand.said(id), OK.repeat(200));
}

#[test]
fn a_filtered_line_is_answered_at_once_and_writes_nothing() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    hand.send(id, "{\"level\":\"debug\",\"message\":\"x\"}\n");
    assert_eq!(hand.said(id), OK);
    assert!(hand.writes.is_empty());
}

#[test]
fn a_drain_tells_goaway_to_sessions_only() {
    let mut hand = Hand::new(AckLevel::Durable);
    let (silent, session) = (hand.accept(), hand.hello("durable", 1));
    hand.drain();
    hand.disk();
    assert_eq!(hand.said(silent), "");
    assert!(hand.said(session).contains("shutting_down"));
    assert!(hand.shard.is_drained() && hand.closed.len() == 2);
}

#[test]
fn a_drain_does_not_wait_for_a_client_that_reads_nothing() {
    let mut hand = Hand::new(AckLevel::Accepted);
    let id = hand.accept();
    hand.is_stuck = true;
    hand.send(id, &line("x"));
    hand.drain();
    hand.disk();
    assert!(!hand.shard.is_drained(), "it may still read");
    hand.now += Limits::default().ack_stall;
    hand.poll();
    assert!(hand.shard.is_drained() && hand.closed == [id]);
}

#[test]
fn a_drain_ends_a_session_that_asked_for_no_acks() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.hello("none", 1);
    hand.send(id, &line("x"));
    hand.drain();
    hand.disk();
    assert!(hand.said(id).contains("shutting_down") && hand.shard.is_drained());
}

#[test]
fn a_producer_that_was_never_welcome_can_begin_where_it_likes() {
    let mut hand = Hand::new(AckLevel::Durable);
    let id = hand.accept();
    assert!(hand.shard.wants(id));
    hand.shard.handle_bytes(id, hello("durable", 500).as_bytes(), hand.now);
    hand.shard.handle_lost(id, hand.now); // Before anybody asked what to do.
    hand.poll();
    hand.hello("durable", 500);
}

#[test]
fn who_is_refused_is_told_why() {
    let mut hand = Hand::new(AckLevel::Durable);
    hand.hello("durable", 1);
    let id = hand.accept();
    hand.send(id, &hello("durable", 1).replace("\"epoch\":1", "\"epoch\":0"));
    assert!(hand.said(id).contains("stale_epoch") && hand.closed.contains(&id));
}

/// A chunk that is looked at piece by piece was counted in its last piece alone.
#[test]
fn lines_count_for_their_breaker_also_where_answers_have_to_be_waited_for() {
    let mut hand = Hand::with(AckLevel::None, |limits| {
        (limits.owed_runs_max, limits.line_breaker) = (10, Some(BreakerLimits::of_lines()))
    });
    let id = hand.accept();
    hand.send(id, "{\"$hello\":{\"v\":1,\"producer\":\"p\",\"epoch\":1}}\n");
    hand.send(id, &"no\n".repeat(300));
    hand.poll();
    let tally = hand.shard.tally();
    assert_eq!((tally.received, tally.line_breakers_opened), (300, 1));
    assert_eq!(tally.rejected[Code::BadJson as usize] % 10, 0, "it opened behind a piece");
    assert!(tally.rejected[Code::CircuitOpen as usize] > 100);
}
