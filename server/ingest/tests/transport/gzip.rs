//! Gzip: a stream of members, answered as they come, unpacked at the pace of the writer.

use crate::{House, lines, oks};
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use proptest::prelude::*;
use ringest_ingest::{GzipLimits, ShardId, home_shard};
use std::io::Write;

fn member(plain: &str) -> Vec<u8> {
    Member::default().of(plain.as_bytes())
}

/// How a member is made.
#[derive(Clone, Debug, Default)]
struct Member {
    level: Option<u32>,
    /// The extra field says how long the member is.
    is_sized: bool,
    extra: Option<usize>,
    name: Option<usize>,
    comment: Option<usize>,
    has_check: bool,
    is_text: bool,
}

impl Member {
    fn of(&self, plain: &[u8]) -> Vec<u8> {
        let level = self.level.map_or(Compression::default(), Compression::new);
        let mut encoder = GzEncoder::new(Vec::new(), level);
        encoder.write_all(plain).unwrap();
        let packed = encoder.finish().unwrap();
        let flags = [
            u8::from(self.is_text),
            u8::from(self.has_check) << 1,
            u8::from(self.is_sized || self.extra.is_some()) << 2,
            u8::from(self.name.is_some()) << 3,
            u8::from(self.comment.is_some()) << 4,
        ];
        let mut bytes = packed[..10].to_vec();
        bytes[3] = flags.iter().sum();
        let mut length_at = None;
        if self.is_sized || self.extra.is_some() {
            // Somebody else's field before the one that has the size.
            let foreign = self.extra.map_or(0, |len| len + 4);
            let len = foreign + if self.is_sized { 6 } else { 0 };
            bytes.extend_from_slice(&(len as u16).to_le_bytes());
            if let Some(len) = self.extra {
                bytes.extend_from_slice(b"AB");
                bytes.extend_from_slice(&(len as u16).to_le_bytes());
                bytes.extend((0..len).map(|at| at as u8));
            }
            if self.is_sized {
                bytes.extend_from_slice(b"BC\x02\x00");
                length_at = Some(bytes.len());
                bytes.extend_from_slice(&[0, 0]);
            }
        }
        for len in [self.name, self.comment].into_iter().flatten() {
            bytes.extend(std::iter::repeat_n(b'n', len));
            bytes.push(0);
        }
        let check_len = if self.has_check { 2 } else { 0 };
        if let Some(at) = length_at {
            let len = bytes.len() + check_len + packed.len() - 10 - 1;
            bytes[at..at + 2].copy_from_slice(&u16::try_from(len).unwrap().to_le_bytes());
        }
        if self.has_check {
            let mut crc = Crc::new();
            crc.update(&bytes);
            bytes.extend_from_slice(&(crc.sum() as u16).to_le_bytes());
        }
        bytes.extend_from_slice(&packed[10..]);
        bytes
    }
}

const FAILED: &str = "{\"status\":\"error\",\"message\":\"gzip decompression failed\",\"code\":\"gzip_corrupt\"}\n";

#[test]
fn each_small_member_on_an_open_connection_is_answered_at_once() {
    let mut house = House::new();
    let id = house.accept();
    for count in 1..=20 {
        house.send(id, &member(&lines(count..count + 1)));
        assert_eq!(house.said(id), oks(count));
    }
    house.end(id);
    assert!(house.is_closed(id));
    assert_eq!(String::from_utf8(house.stored).unwrap(), lines(1..21));
}

#[test]
fn a_stream_cut_at_any_byte_is_the_same_stream() {
    let plain = lines(0..3) + "broken\n" + &lines(3..4);
    let packed = [member(&plain), member("\n"), member(""), member(&lines(4..6))].concat();
    let (ok, bad) =
        (oks(1), "{\"status\":\"error\",\"message\":\"invalid JSON\",\"code\":\"bad_json\",\"offset\":0}\n");
    for cut in 0..packed.len() {
        let mut house = House::new();
        let id = house.accept();
        house.send(id, &packed[..cut]);
        house.send(id, &packed[cut..]);
        house.end(id);
        assert_eq!(house.said(id), format!("{ok}{ok}{ok}{bad}{ok}{ok}{ok}"), "cut at {cut}");
        assert_eq!(String::from_utf8(house.stored).unwrap(), lines(0..6), "cut at {cut}");
    }
}

#[test]
fn what_is_corrupt_or_cut_costs_only_what_follows() {
    let good = member(&lines(0..5));
    let mut corrupt = member(&lines(5..10));
    let at = corrupt.len() - 6; // In the checksum.
    corrupt[at] ^= 1;
    // A member's lines are taken as they come, before its checksum can be seen.
    let tails = [(corrupt, 10), (b"no gzip".to_vec(), 5), (good[..good.len() - 1].to_vec(), 10), (vec![0x1f], 5)];
    for (tail, count) in tails {
        let mut house = House::new();
        let id = house.accept();
        house.send(id, &[good.clone(), tail].concat());
        if !house.is_closed(id) {
            house.end(id);
        }
        assert_eq!(house.said(id), oks(count) + FAILED);
        assert!(house.is_closed(id));
    }
}

#[test]
fn a_bomb_goes_off_slowly_and_not_beyond_its_ratio() {
    let mut house = House::new();
    let id = house.accept();
    let bomb = member(&lines(7..8).repeat(1 << 20));
    house.send(id, &bomb);
    assert!(house.said(id).ends_with("\"code\":\"gzip_ratio\"}\n"));
    assert!(house.turn_len_max <= 2 * (1 << 20) + 8192, "{} bytes in one turn", house.turn_len_max);
    assert!(house.stored.len() >= 1 << 20, "what came before the bound is stored");

    let mut house = House::with(|config| config.limits.gzip = GzipLimits { ratio_max: 2000, ..GzipLimits::default() });
    let id = house.accept();
    house.send(id, &bomb);
    house.end(id);
    assert_eq!(house.said(id), oks(1 << 20));
    assert!(house.turn_len_max <= 2 * (1 << 20) + 8192, "{} bytes in one turn", house.turn_len_max);
}

#[test]
fn a_member_may_be_as_long_as_the_bound_and_no_longer() {
    let plain = lines(0..1000);
    for (bound, is_taken) in [(plain.len() as u64, true), (plain.len() as u64 - 1, false)] {
        let mut house = House::with(|config| config.limits.gzip.member_len_max = bound);
        let id = house.accept();
        house.send(id, &member(&plain));
        assert_eq!(house.said(id).ends_with(&oks(1)), is_taken, "{bound}");
        assert_eq!(house.said(id).ends_with("\"code\":\"gzip_too_large\"}\n"), !is_taken, "{bound}");
    }
}

#[test]
fn a_first_byte_like_gzip_and_a_second_one_unlike_it_is_text() {
    for second in [&b"\n"[..], b"x\n"] {
        let mut house = House::new();
        let id = house.accept();
        house.send(id, &[0x1f]);
        house.send(id, second);
        house.send(id, lines(0..1).as_bytes());
        let said = house.said(id);
        assert!(said.starts_with("{\"status\":\"error\",\"message\":\"invalid JSON\""), "{said}");
        assert!(said.ends_with(&oks(1)), "{said}");
    }
}

#[test]
fn a_session_inside_gzip_moves_to_its_home_with_what_is_not_unpacked() {
    let shards = 4;
    let producer =
        (0..).map(|number| format!("p{number}")).find(|name| home_shard(name, shards) == ShardId(3)).unwrap();
    let mut house = House::with(|config| config.shards = shards);
    let id = house.accept();
    let hello = format!("{{\"$hello\":{{\"v\":1,\"producer\":\"{producer}\",\"epoch\":1}}}}\n");
    let packed = member(&(hello + &lines(0..10_000)));
    house.send(id, &packed[..8000]);
    let (to, handover) = house.handed_off.pop().expect("it belongs elsewhere");
    assert_eq!(to, ShardId(3));

    let mut home = House::with(|config| (config.shard, config.shards) = (ShardId(3), shards));
    let id = home.shard.handle_handover(handover, home.now);
    home.run();
    home.send(id, &packed[8000..]);
    assert!(home.said(id).contains("$welcome"));
    assert!(home.said(id).contains("\"upto\":10000"), "{}", home.said(id));
    assert_eq!(String::from_utf8(home.stored).unwrap(), lines(0..10_000));
}

/// All that a header can have, and a member that says how long it is.
fn elaborate() -> [Member; 3] {
    let all = Member {
        extra: Some(300),
        name: Some(20),
        comment: Some(3),
        has_check: true,
        is_text: true,
        ..Member::default()
    };
    let sized = Member { is_sized: true, level: Some(1), ..Member::default() };
    [all.clone(), sized.clone(), Member { is_sized: true, ..all }]
}

#[test]
fn a_header_may_have_everything_a_header_can_have_and_be_cut_anywhere() {
    for kind in elaborate() {
        // Twice, because the first member of a stream and the others are met in different places.
        let packed = [kind.of(lines(0..2).as_bytes()), kind.of(lines(2..9).as_bytes())].concat();
        for cut in 0..packed.len() {
            let mut house = House::new();
            let id = house.accept();
            house.send(id, &packed[..cut]);
            house.send(id, &packed[cut..]);
            house.end(id);
            assert_eq!(house.said(id), oks(9), "{kind:?} cut at {cut}");
            assert_eq!(String::from_utf8(house.stored).unwrap(), lines(0..9), "{kind:?} cut at {cut}");
        }
    }
}

#[test]
fn a_byte_that_changed_is_noticed_or_means_nothing() {
    for kind in elaborate().into_iter().filter(|kind| !kind.has_check).chain([Member::default()]) {
        let first = kind.of(lines(0..3).as_bytes());
        let good = [first.clone(), member(&lines(3..5))].concat();
        for at in 2..first.len() {
            for mask in [1, 0x80, 0xff] {
                let mut packed = good.clone();
                packed[at] ^= mask;
                let mut house = House::new();
                let id = house.accept();
                house.send(id, &packed);
                if !house.is_closed(id) {
                    house.end(id);
                }
                let said = house.said(id);
                let stored = String::from_utf8_lossy(&house.stored).into_owned();
                let is_whole = said == oks(5) && stored == lines(0..5);
                assert!(is_whole || said.ends_with(FAILED), "byte {at}, mask {mask:#x}: {said}");
                let is_hint = (4..10).contains(&at); // The time, the level, the system.
                assert!(is_whole || !is_hint, "byte {at}, mask {mask:#x}: {said}");
            }
        }
    }
}

#[test]
fn a_header_with_a_wrong_check_a_reserved_flag_or_another_method_is_refused() {
    let [all, ..] = elaborate();
    let header_len = 10 + 2 + 304 + 21 + 4 + 2;
    let spoil = |at: usize, mask: u8| {
        let mut packed = all.of(lines(0..1).as_bytes());
        packed[at] ^= mask;
        packed
    };
    let endless = [&b"\x1f\x8b\x08\x08\0\0\0\0\0\0"[..], &[b'n'; 200_000]].concat();
    let cases = [spoil(header_len - 1, 1), spoil(5, 1), spoil(2, 1), spoil(3, 0x20), spoil(3, 0x80), endless];
    for (at, packed) in cases.iter().enumerate() {
        let mut house = House::new();
        let id = house.accept();
        house.send(id, &member(&lines(0..2)));
        house.send(id, packed);
        assert_eq!(house.said(id), oks(2) + FAILED, "case {at}");
        assert!(house.is_closed(id) && house.stored == lines(0..2).into_bytes(), "case {at}");
    }
}

#[test]
fn zeros_may_follow_the_last_member_and_nothing_may_follow_them() {
    let good = member(&lines(0..3));
    for (tail, is_fine) in [(&[0; 1][..], true), (&[0; 5000], true), (b"\0\0x", false), (&good, true)] {
        let mut house = House::new();
        let id = house.accept();
        house.send(id, &good);
        house.send(id, tail);
        if is_fine {
            house.end(id);
        }
        assert_eq!(house.said(id).ends_with(FAILED), !is_fine, "{} bytes behind", tail.len());
        assert!(house.said(id).starts_with(&oks(3)) && house.is_closed(id));
    }
}

#[test]
fn a_member_behind_padding_is_refused() {
    let mut house = House::new();
    let id = house.accept();
    house.send(id, &[member(&lines(0..1)), vec![0; 8], member(&lines(1..2))].concat());
    assert_eq!(house.said(id), oks(1) + FAILED);
}

#[test]
fn many_small_bombs_are_one_bomb() {
    // Each is below the length from which a ratio counts.
    let small = Member { is_sized: true, ..Member::default() }.of(lines(7..8).repeat(2000).as_bytes());
    for is_sized in [true, false] {
        let bomb = if is_sized { small.clone() } else { member(&lines(7..8).repeat(2000)) };
        let mut house = House::with(|config| config.limits.gzip.ratio_max = 100);
        let id = house.accept();
        for _ in 0..100 {
            if !house.is_closed(id) {
                house.send(id, &bomb);
            }
        }
        assert!(house.said(id).ends_with("\"code\":\"gzip_ratio\"}\n"), "sized: {is_sized}");
        assert!((1 << 20..2 << 20).contains(&house.stored.len()), "{} bytes stored", house.stored.len());
    }
}

#[test]
fn many_small_bombs_that_come_at_once_are_one_bomb_too() {
    // Two of them fill what one step unpacks to, so none is ever looked at in part.
    let plain = lines(7..8).repeat(4096 / lines(7..8).len()) + &"\n".repeat(4096 % lines(7..8).len());
    let stored = |is_sized: bool| {
        let bomb = Member { is_sized, ..Member::default() }.of(plain.as_bytes());
        let mut house = House::with(|config| {
            (config.limits.gzip.ratio_max, config.limits.chunk_len_max) = (20, 256 << 10);
            config.limits.batch_len_max = 512 << 10;
        });
        let id = house.accept();
        let all = bomb.repeat(3000);
        house.shard.handle_bytes(id, &all[..all.len().min(256 << 10)], house.now);
        house.run();
        assert!(house.said(id).ends_with("\"code\":\"gzip_ratio\"}\n"), "sized: {is_sized}");
        house.stored.len()
    };
    assert_eq!(stored(true) / plain.len(), stored(false) / plain.len());
}

#[test]
fn blocks_that_hold_nothing_are_work_and_take_turns() {
    // A stored block of no bytes, over and over: nothing comes out, and nothing is wrong.
    let empty = [&b"\x1f\x8b\x08\0\0\0\0\0\0\0"[..], &b"\0\0\0\xff\xff".repeat(100_000)].concat();
    let mut house = House::new();
    let (idle, busy) = (house.accept(), house.accept());
    house.send(busy, &empty);
    house.send(idle, &member(&lines(0..1)));
    assert_eq!((house.said(busy).as_str(), house.said(idle)), ("", oks(1)));
    // The last block of the stream, and its trailer.
    house.send(busy, &[&b"\x03\0"[..], &[0; 8]].concat());
    house.send(busy, &member(&lines(1..2)));
    house.end(busy);
    assert_eq!(house.said(busy), oks(1));
}

#[test]
fn a_connection_that_stays_inside_a_member_keeps_an_inflater_from_others_and_gives_it_back() {
    let mut house = House::with(|config| config.limits.gzip.inflaters_max = 2);
    let packed = member(&lines(0..50));
    let (half, rest) = packed.split_at(packed.len() / 2);
    let (one, two) = (house.accept(), house.accept());
    house.send(one, half);
    house.send(two, half);
    let three = house.accept();
    house.send(three, half);
    assert!(house.said(three).contains("\"code\":\"overloaded\""), "{}", house.said(three));
    assert!(house.is_closed(three));

    house.send(one, rest);
    assert_eq!(house.said(one), oks(50));
    let four = house.accept();
    house.send(four, &packed);
    assert_eq!(house.said(four), oks(50), "one is between members and holds none");

    let five = house.accept();
    house.send(five, half);
    house.shard.handle_lost(two, house.now);
    house.send(one, half);
    assert!(!house.is_closed(one) && !house.is_closed(five), "a connection that is gone holds none");
}

#[test]
fn a_line_over_the_limit_inside_gzip_is_refused_alone() {
    let mut house = House::new();
    let id = house.accept();
    let long = format!("{{\"level\":\"info\",\"message\":\"{}\"}}\n", "x".repeat(5000));
    house.send(id, &member(&(lines(0..1) + &long + &lines(1..2))));
    house.end(id);
    let said = house.said(id);
    assert!(said.starts_with(&oks(1)) && said.ends_with(&oks(1)) && said.contains("line_too_long"), "{said}");
    assert_eq!(String::from_utf8(house.stored).unwrap(), lines(0..2));
}

#[test]
fn a_session_inside_a_cut_member_is_told_what_is_settled() {
    let hello = "{\"$hello\":{\"v\":1,\"producer\":\"p\",\"epoch\":1}}\n";
    let packed = member(&(hello.to_owned() + &lines(0..100)));
    let mut house = House::new();
    let id = house.accept();
    house.send(id, &packed);
    house.send(id, b"no member");
    let said = house.said(id);
    assert!(said.contains("\"upto\":100") && said.contains("\"$goaway\"") && said.contains("gzip_corrupt"), "{said}");
    assert!(house.is_closed(id));
}

fn any_member() -> impl Strategy<Value = Member> {
    let field = || prop::option::weighted(0.2, 0usize..300);
    (prop::option::of(0u32..=9), prop::bool::weighted(0.4), field(), field(), field(), prop::bool::weighted(0.2))
        .prop_map(|(level, is_sized, extra, name, comment, has_check)| Member {
            level,
            is_sized,
            extra,
            name,
            comment,
            has_check,
            is_text: false,
        })
}

/// Lines, most of them records, with what is no record in between.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => (0usize..10_000).prop_map(|number| lines(number..number + 1).into_bytes()),
        2 => "[a-z0-9]{0,400}".prop_map(|text| format!("{{\"level\":\"warn\",\"message\":\"{text}\"}}\r\n").into_bytes()),
        1 => "[ -~]{0,40}".prop_map(|text| (text + "\n").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => Just("{\"level\":\"info\",\"message\":\"".to_owned() + &"y".repeat(6000) + "\"}\n").prop_map(String::into_bytes),
    ];
    (prop::collection::vec(line, 0..60), Just(b"{\"level\":".to_vec()))
        .prop_map(|(lines, start)| [start, b"1}\n".to_vec(), lines.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn packed_in_any_way_and_cut_anywhere_it_says_what_the_plain_stream_says(
        text in any_text(),
        kinds in prop::collection::vec((any_member(), 0usize..3000), 1..20),
        chunks in prop::collection::vec(1usize..4000, 1..50),
        padding in 0usize..20,
    ) {
        let mut plain = House::new();
        let id = plain.accept();
        plain.send(id, &text);
        plain.end(id);
        let said = plain.said(id);

        let (mut packed, mut rest) = (Vec::new(), &text[..]);
        for (kind, len) in kinds.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(len + 1));
            packed.extend_from_slice(&kind.of(now));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        packed.extend(std::iter::repeat_n(0, padding));
        let mut house = House::new();
        let id = house.accept();
        let mut rest = &packed[..];
        for len in chunks.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*len));
            house.send(id, now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        house.end(id);
        prop_assert_eq!(house.said(id), said);
        prop_assert!(house.stored == plain.stored, "what is stored differs");
        prop_assert!(house.is_closed(id));
    }
}
