//! Counts of one worker: plain numbers, published once a second.

use std::collections::BTreeMap;

/// What became of the lines, and of the connections that carried them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines whose turn came.
    pub offered: u64,
    /// Lines the server said it took.
    pub acked: u64,
    /// Bad lines that the server refused, as it should.
    pub refused_as_meant: u64,
    /// Lines sent as datagrams: nobody answers those.
    pub sent: u64,
    /// Acknowledged lines that the server said it filtered by level.
    pub filtered: u64,
    /// Lines that the server said it had already.
    pub duplicate: u64,
    /// Lines written again after a reconnect or a refusal.
    pub resent: u64,
    /// Bytes given to sockets.
    pub bytes: u64,
    /// Calls that gave bytes to sockets.
    pub sends: u64,
    /// Connections opened, the first ones included.
    pub connects: u64,
    /// Connections that were given up: no other in their place would have got further.
    pub given_up: u64,
    /// `$nack` answers.
    pub nacks: u64,
    /// `$goaway` answers.
    pub goaways: u64,
    /// Lines that failed, by the reason.
    pub failures: BTreeMap<String, u64>,
    /// What went wrong with connections, by kind.
    pub faults: BTreeMap<String, u64>,
    /// What connections did because they are in the habit of it, by kind.
    pub habits: BTreeMap<String, u64>,
}

impl Tally {
    /// `count` lines failed for that reason.
    pub fn fail(&mut self, reason: &str, count: u64) {
        bump(&mut self.failures, reason, count);
    }

    /// Something went wrong with a connection.
    pub fn fault(&mut self, kind: &str) {
        bump(&mut self.faults, kind, 1);
    }

    /// A connection did what it is in the habit of.
    pub fn habit(&mut self, kind: &str, count: u64) {
        bump(&mut self.habits, kind, count);
    }

    /// Lines that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Lines of which nothing more will be heard: taken, refused as meant, failed, or sent as datagrams.
    pub fn finished(&self) -> u64 {
        self.acked + self.refused_as_meant + self.sent + self.failed()
    }

    /// Failed lines out of finished ones, 0 to 1.
    pub fn error_rate(&self) -> f64 {
        let finished = self.finished();
        if finished == 0 { 0.0 } else { self.failed() as f64 / finished as f64 }
    }

    /// Takes out what is counted by the line, and leaves what is counted by the connection.
    pub fn take_lines(&mut self) -> Tally {
        let Tally { connects, given_up, nacks, goaways, .. } = *self;
        let (faults, habits) = (std::mem::take(&mut self.faults), std::mem::take(&mut self.habits));
        let connections = Tally { connects, given_up, nacks, goaways, faults, habits, ..Tally::default() };
        let mut lines = std::mem::replace(self, connections);
        (lines.connects, lines.given_up, lines.nacks, lines.goaways) = (0, 0, 0, 0);
        lines
    }

    /// What was counted since an earlier state of the same tally.
    pub fn since(&self, earlier: &Tally) -> Tally {
        let since = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let more = now.iter().map(|(name, count)| (name, count - before.get(name).unwrap_or(&0)));
            more.filter(|(_, count)| *count > 0).map(|(name, count)| (name.clone(), count)).collect()
        };
        Tally {
            offered: self.offered - earlier.offered,
            acked: self.acked - earlier.acked,
            refused_as_meant: self.refused_as_meant - earlier.refused_as_meant,
            sent: self.sent - earlier.sent,
            filtered: self.filtered - earlier.filtered,
            duplicate: self.duplicate - earlier.duplicate,
            resent: self.resent - earlier.resent,
            bytes: self.bytes - earlier.bytes,
            sends: self.sends - earlier.sends,
            connects: self.connects - earlier.connects,
            given_up: self.given_up - earlier.given_up,
            nacks: self.nacks - earlier.nacks,
            goaways: self.goaways - earlier.goaways,
            failures: since(&self.failures, &earlier.failures),
            faults: since(&self.faults, &earlier.faults),
            habits: since(&self.habits, &earlier.habits),
        }
    }

    /// Adds what another worker counted.
    pub fn add(&mut self, other: &Tally) {
        self.offered += other.offered;
        self.acked += other.acked;
        self.refused_as_meant += other.refused_as_meant;
        self.sent += other.sent;
        self.filtered += other.filtered;
        self.duplicate += other.duplicate;
        self.resent += other.resent;
        self.bytes += other.bytes;
        self.sends += other.sends;
        self.connects += other.connects;
        self.given_up += other.given_up;
        self.nacks += other.nacks;
        self.goaways += other.goaways;
        other.failures.iter().for_each(|(reason, count)| bump(&mut self.failures, reason, *count));
        other.faults.iter().for_each(|(kind, count)| bump(&mut self.faults, kind, *count));
        other.habits.iter().for_each(|(kind, count)| bump(&mut self.habits, kind, *count));
    }
}

fn bump(counts: &mut BTreeMap<String, u64>, name: &str, by: u64) {
    // No allocation for a name that is known: under overload this is the path of a record.
    match counts.get_mut(name) {
        Some(count) => *count += by,
        None if by > 0 => {
            counts.insert(name.into(), by);
        }
        None => {}
    }
}
