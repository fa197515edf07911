//! Gzip: a stream of members, answered as they come, unpacked at the pace of the writer.

use crate::{House, lines, oks};
use flate2::Compression;
use flate2::write::GzEncoder;
use ringest_ingest::{GzipLimits, ShardId, home_shard};
use std::io::Write;

fn member(plain: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

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
    let failed = "{\"status\":\"error\",\"message\":\"gzip decompression failed\",\"code\":\"gzip_corrupt\"}\n";
    // A member's lines are taken as they come, before its checksum can be seen.
    let tails = [(corrupt, 10), (b"no gzip".to_vec(), 5), (good[..good.len() - 1].to_vec(), 10), (vec![0x1f], 5)];
    for (tail, count) in tails {
        let mut house = House::new();
        let id = house.accept();
        house.send(id, &[good.clone(), tail].concat());
        if !house.is_closed(id) {
            house.end(id);
        }
        assert_eq!(house.said(id), oks(count) + failed);
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

    let mut house = House::with(|config| config.limits.gzip = GzipLimits { ratio_max: 2000, member_len_max: 4 << 30 });
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
    let id = home.shard.handle_handover(handover, home.now).unwrap();
    home.run();
    home.send(id, &packed[8000..]);
    assert!(home.said(id).contains("$welcome"));
    assert!(home.said(id).contains("\"upto\":10000"), "{}", home.said(id));
    assert_eq!(String::from_utf8(home.stored).unwrap(), lines(0..10_000));
}
