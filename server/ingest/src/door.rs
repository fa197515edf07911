//! Who may come in: how many connections, how many of one address, how fast, and with which token.
//!
//! A [`Door`] is shared by all shards of a server, so its bounds are exact whichever shard the kernel deals a
//! connection to: a share per shard would turn clients away while there is room, because the dealing is uneven and a
//! session moves to its producer's home. It is locked once when a connection comes, once when it goes, and once per
//! `$hello`; the path of a record never meets it.

use crate::limits::Limits;
use ringest_wire::Code;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subtle::{Choice, ConstantTimeEq};

/// The entrance of a server. Clones are the same entrance.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

struct Shared {
    /// Whether there is nobody to be let in without a token. Which are valid may change, this does not.
    needs_token: bool,
    state: Mutex<State>,
}

struct State {
    connections_max: usize,
    per_address_max: usize,
    connections: usize,
    /// Only those that have connections, so it is never longer than there are connections.
    by_address: HashMap<IpAddr, usize>,
    tokens: Tokens,
}

/// A connection's place: held for as long as its descriptor is open, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    door: Door,
    address: IpAddr,
}

/// The tokens that let a session in: two at once, so that one can be replaced while clients still have the other.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Vec<u8>>);

impl Door {
    /// A door without anybody behind it. With tokens nobody comes in without one.
    pub fn new(limits: &Limits, tokens: Option<Tokens>) -> Door {
        Door(Arc::new(Shared {
            needs_token: tokens.is_some(),
            state: Mutex::new(State {
                connections_max: limits.connections_max,
                per_address_max: limits.connections_per_address_max,
                connections: 0,
                by_address: HashMap::new(),
                tokens: tokens.unwrap_or_default(),
            }),
        }))
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Why there is none: too many of all, or of this address.
    pub fn enter(&self, peer: IpAddr) -> Result<Place, Full> {
        let address = neighbourhood(peer);
        let mut state = self.state();
        if state.connections >= state.connections_max {
            return Err(Full::Everywhere);
        }
        let per_address_max = state.per_address_max;
        let of_address = state.by_address.entry(address).or_default();
        if *of_address >= per_address_max {
            return Err(Full::ForAddress);
        }
        *of_address += 1;
        state.connections += 1;
        Ok(Place { door: self.clone(), address })
    }

    /// Whether a session has to show a token, and plain connections are refused.
    pub fn needs_token(&self) -> bool {
        self.0.needs_token
    }

    /// Whether a session with this token may go on. Takes as long whichever token of that length is asked about.
    pub fn admits(&self, token: Option<&str>) -> bool {
        !self.0.needs_token || token.is_some_and(|token| self.state().tokens.contain(token.as_bytes()))
    }

    /// Other tokens are valid from now on, for sessions that begin. Without effect on a door that needs none.
    pub fn change_tokens(&self, tokens: Tokens) {
        self.state().tokens = tokens;
    }

    /// So many may be in from now on. Who is in stays, also where that is more.
    pub fn change_limits(&self, limits: &Limits) {
        let mut state = self.state();
        state.connections_max = limits.connections_max;
        state.per_address_max = limits.connections_per_address_max;
    }

    /// Places taken.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together, so what a panic elsewhere leaves is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Door {
    /// Without the tokens, so that no log has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("connections_max", &self.state().connections_max).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.door.state();
        state.connections -= 1;
        if let Some(of_address) = state.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                state.by_address.remove(&self.address);
            }
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many connections as may be.
    Everywhere,
    /// There are as many of this address as may be.
    ForAddress,
}

impl Full {
    /// What the client is told.
    pub fn code(self) -> Code {
        match self {
            Full::Everywhere | Full::ForAddress => Code::TooManyConnections,
        }
    }
}

impl Tokens {
    /// Reads a list: one token per line; blank lines and blanks around a token do not count.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it, and shows no token.
    pub fn parse(text: &str) -> Result<Tokens, String> {
        let tokens: Vec<Vec<u8>> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.as_bytes().to_vec()).collect();
        if tokens.is_empty() {
            return Err("it has no token, so nobody could come in; write one token per line".into());
        }
        if tokens.len() > TOKENS_MAX {
            return Err(format!("it has {} tokens; two can be valid at once, the old and the new", tokens.len()));
        }
        if let Some(at) = tokens.iter().position(|token| token.len() > TOKEN_LEN_MAX) {
            return Err(format!("token {} has more than {TOKEN_LEN_MAX} bytes", at + 1));
        }
        if let Some(at) = tokens.iter().position(|token| !token.iter().all(u8::is_ascii_graphic)) {
            return Err(format!("token {} has other than visible ASCII characters", at + 1));
        }
        Ok(Tokens(tokens))
    }

    fn contain(&self, shown: &[u8]) -> bool {
        // Compared with each in full: how long it takes says neither which one matches nor how far.
        let found = self.0.iter().fold(Choice::from(0), |found, token| found | token.as_slice().ct_eq(shown));
        bool::from(found)
    }
}

impl fmt::Display for Tokens {
    /// How many, and none of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} token{}", self.0.len(), if self.0.len() == 1 { "" } else { "s" })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How fast one shard takes connections: so many at once, and so many per second from then on. It counts and keeps
/// nobody waiting by itself; who is not taken yet is kept by the kernel.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: u32,
    /// What may be taken at once, as time: each connection uses up one interval of it.
    spent_until: Option<Instant>,
}

impl Pace {
    /// `None` takes as fast as they come.
    pub(crate) fn new(per_second: Option<u32>) -> Pace {
        Pace { per_second: per_second.unwrap_or(0), spent_until: None }
    }

    /// When the next connection may be taken, if that is not now.
    pub(crate) fn wait_until(&self, now: Instant) -> Option<Instant> {
        let interval = self.interval()?;
        let until = self.spent_until?.checked_sub(BURST.saturating_sub(interval))?;
        (until > now).then_some(until)
    }

    /// One was taken.
    pub(crate) fn take(&mut self, now: Instant) {
        if let Some(interval) = self.interval() {
            let from = self.spent_until.map_or(now, |until| until.max(now));
            self.spent_until = Some(from + interval);
        }
    }

    /// So many per second from now on.
    pub(crate) fn change(&mut self, per_second: Option<u32>) {
        self.per_second = per_second.unwrap_or(0);
    }

    fn interval(&self) -> Option<Duration> {
        (self.per_second > 0).then(|| Duration::from_secs(1) / self.per_second)
    }
}

/// Whoever has one address of these has all of them: an IPv6 network of 64 bits is one site's.
fn neighbourhood(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

/// The old one and the new one.
const TOKENS_MAX: usize = 2;
/// A `$hello` has to have room for it.
const TOKEN_LEN_MAX: usize = 1024;
/// A shard that took nobody for this long takes so much at once.
const BURST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn door(connections_max: usize, connections_per_address_max: usize) -> Door {
        let limits = Limits { connections_max, connections_per_address_max, ..Limits::default() };
        Door::new(&limits, None)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn there_are_as_many_places_as_connections_may_be_and_each_comes_back() {
        let door = door(3, 3);
        let mut places: Vec<Place> = (1..=3).map(|at| door.enter(ip(&format!("10.0.0.{at}"))).unwrap()).collect();
        assert_eq!(door.enter(ip("10.0.0.9")).unwrap_err(), Full::Everywhere);
        places.pop();
        let again = door.clone().enter(ip("10.0.0.9"));
        assert_eq!((again.is_ok(), door.connections()), (true, 3));
        drop((again, places));
        assert_eq!((door.connections(), door.state().by_address.len()), (0, 0), "nothing is kept of who is gone");
    }

    #[test]
    fn one_address_takes_no_more_than_its_own_places() {
        let door = door(10, 2);
        let _places = [door.enter(ip("10.0.0.1")).unwrap(), door.enter(ip("::ffff:10.0.0.1")).unwrap()];
        assert_eq!(door.enter(ip("10.0.0.1")).unwrap_err(), Full::ForAddress);
        let _other = door.enter(ip("10.0.0.2")).unwrap();
        let _site = [door.enter(ip("2001:db8::1")).unwrap(), door.enter(ip("2001:db8::ffff:2")).unwrap()];
        assert_eq!(door.enter(ip("2001:db8::3")).unwrap_err(), Full::ForAddress, "a site is one address");
        assert!(door.enter(ip("2001:db8:0:1::3")).is_ok(), "its neighbour is another");
    }

    #[test]
    fn a_pace_lets_a_burst_in_and_then_one_per_interval() {
        #[allow(clippy::disallowed_methods, reason = "the one moment from which time counts")]
        let start = Instant::now();
        let mut pace = Pace::new(Some(10));
        let mut taken = 0;
        while pace.wait_until(start).is_none() {
            pace.take(start);
            taken += 1;
        }
        assert_eq!(taken, 10, "a second's worth at once");
        let next = pace.wait_until(start).unwrap();
        assert_eq!(next, start + Duration::from_millis(100));
        assert_eq!(pace.wait_until(next), None);
        pace.take(next);
        assert_eq!(pace.wait_until(next), Some(start + Duration::from_millis(200)));
        let later = start + Duration::from_secs(60);
        (0..10).for_each(|_| pace.take(later));
        assert!(pace.wait_until(later).is_some(), "a long rest saves up no more than one burst");
        assert_eq!(Pace::new(None).wait_until(start), None);
    }

    #[test]
    fn a_token_lets_in_while_it_is_on_the_list() {
        let tokens = Tokens::parse("old-token\n  new-token \n\n").unwrap();
        let door = Door::new(&Limits::default(), Some(tokens));
        for (token, is_let_in) in [
            (Some("old-token"), true),
            (Some("new-token"), true),
            (Some("old-toke"), false),
            (Some("old-tokem"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(door.admits(token), is_let_in, "{token:?}");
        }
        door.clone().change_tokens(Tokens::parse("new-token").unwrap());
        assert!(door.admits(Some("new-token")) && !door.admits(Some("old-token")));
        assert!(Door::new(&Limits::default(), None).admits(None), "without a list nobody is asked");
    }

    #[test]
    fn a_list_of_tokens_is_refused_for_a_stated_reason_that_shows_none() {
        let long = "x".repeat(TOKEN_LEN_MAX + 1);
        for (text, reason) in
            [("", "no token"), ("\n \n", "no token"), ("a\nb\nc", "3 tokens"), ("se cret", "visible"), (&long, "1024")]
        {
            let error = Tokens::parse(text).unwrap_err();
            assert!(error.contains(reason) && !error.contains("cret") && error.len() < 200, "{error}");
        }
        let tokens = Tokens::parse("secret").unwrap();
        assert!(!format!("{tokens:?} {:?}", Door::new(&Limits::default(), Some(tokens.clone()))).contains("secret"));
    }
}
