//! A plain client: a new name per connection, because in plain mode nobody can tell a line that is sent again. Its
//! ledger holds how many replies each name got.

use crate::World;
use crate::link::{Link, Packing};
use crate::support::dice::Dice;
use crate::support::lines::{OK, record};
use std::io;
use std::thread;
use std::time::Duration;

/// Each name, and how many of its lines were answered.
pub(crate) fn run(world: &World, number: u64, mut dice: Dice) -> Vec<(String, u64)> {
    let mut ledger = Vec::new();
    while !world.is_finishing() {
        let sender = format!("plain-{number}-{}", ledger.len());
        let mut replies = 0;
        // The connection ends by the server's death or by the end of the test; the ledger says the same.
        let _ = converse(world, number, &sender, &mut replies, &mut dice);
        ledger.push((sender, replies));
        thread::sleep(Duration::from_millis(2));
    }
    ledger
}

fn converse(world: &World, number: u64, sender: &str, replies: &mut u64, dice: &mut Dice) -> io::Result<()> {
    let mut link = Link::open(world.addr(), world.tls_of(number), Packing::of(dice.roll()))?;
    let mut sent = 0;
    while !world.is_finishing() || *replies < sent {
        if !world.is_finishing() && link.is_sent() && sent < *replies + 4000 {
            for _ in 0..=dice.below(64) {
                sent += 1;
                link.put(&record(sender, sent));
            }
        }
        link.push()?;
        while let Some(line) = link.next_line()? {
            assert_eq!(line, OK, "{sender}");
            *replies += 1;
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}
