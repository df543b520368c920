//! Whose turn it is: the order in which several brokers are tried, by each
//! strategy.
//!
//! Pure but for chance: knows weights, scores and what was counted, and refuses
//! to know addresses and connections. Whatever the strategy, a round tries
//! every broker once, and a broker that was tried last does not begin the next
//! round. [`Turns::begin`] is for a new search, after a session that was good.

use std::cmp::Reverse;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::seq::IndexedRandom as _;
use sha2::{Digest as _, Sha256};

use crate::config::Strategy;

/// Decides, one broker after the other. Brokers are numbers from 0, in the
/// order of the configuration.
#[derive(Debug)]
pub(super) struct Turns {
    strategy: Strategy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    candidates: Vec<Candidate>,
    /// The one that was tried last, in this search or an earlier one.
    last: Option<usize>,
}

#[derive(Debug)]
struct Candidate {
    weight: u32,
    /// How near this host is to it, by hash; the least is the nearest.
    distance: f64,
    /// Whether it had its turn in this round.
    tried: bool,
    /// What it is owed of the turns, for `weighted-round-robin`.
    credit: i64,
    /// Its connections, where known.
    connections: Option<u64>,
}

impl Turns {
    /// `brokers` are the name and the weight of each; `host` is what identifies
    /// this one.
    pub(super) fn new<'a>(
        strategy: Strategy,
        host: &str,
        brokers: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Self {
        let candidates = brokers
            .into_iter()
            .map(|(name, weight)| Candidate {
                weight,
                distance: distance(host, name, weight),
                tried: false,
                credit: 0,
                connections: None,
            })
            .collect();
        Self { strategy, state: Mutex::new(State { candidates, last: None }) }
    }

    /// Begins a new search: all brokers are candidates again.
    pub(super) fn begin(&self) {
        self.state().begin();
    }

    /// Whether the next turn is the first of a round.
    pub(super) fn at_begin_of_round(&self) -> bool {
        let state = self.state();
        state.candidates.iter().all(|one| !one.tried) || state.is_round_over()
    }

    /// Takes note of what was counted, in the brokers' order.
    pub(super) fn note_connections(&self, counted: &[Option<u64>]) {
        for (candidate, connections) in self.state().candidates.iter_mut().zip(counted) {
            candidate.connections = *connections;
        }
    }

    /// The broker whose turn it is; none if there are no brokers.
    pub(super) fn next(&self) -> Option<usize> {
        self.state().next(self.strategy)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self) {
        for candidate in &mut self.candidates {
            candidate.tried = false;
        }
    }

    fn is_round_over(&self) -> bool {
        self.candidates.iter().all(|one| one.tried)
    }

    fn next(&mut self, strategy: Strategy) -> Option<usize> {
        let again = self.is_round_over();
        if again {
            self.begin();
        }
        // It has just failed; with others there, it is not asked twice in a row.
        let barred = self.last.filter(|_| again && self.candidates.len() > 1);
        let open: Vec<usize> = (0..)
            .zip(&self.candidates)
            .filter(|(index, one)| !one.tried && Some(*index) != barred)
            .map(|(index, _)| index)
            .collect();
        let chosen = self.choose(strategy, &open)?;
        self.candidates.get_mut(chosen)?.tried = true;
        self.last = Some(chosen);
        Some(chosen)
    }

    fn choose(&mut self, strategy: Strategy, open: &[usize]) -> Option<usize> {
        let mut chance = rand::rng();
        let candidates = &self.candidates;
        let of = |index: &usize| candidates.get(*index);
        let open_ones = || open.iter().filter_map(|index| Some((*index, of(index)?)));
        match strategy {
            Strategy::RoundRobin => {
                // The next in the list after the last, and after its end the first.
                let after = self.last.map_or(0, |last| last + 1);
                open.iter().copied().min_by_key(|index| (*index < after, *index))
            }
            Strategy::WeightedRoundRobin => self.choose_by_credit(open),
            Strategy::Random => open.choose(&mut chance).copied(),
            Strategy::WeightedRandom => {
                // An error means that there is none to choose from.
                open.choose_weighted(&mut chance, |index| of(index).map_or(0, |one| one.weight))
                    .ok()
                    .copied()
            }
            Strategy::SourceHash => open_ones()
                .min_by(|(_, a), (_, b)| a.distance.total_cmp(&b.distance))
                .map(|(index, _)| index),
            Strategy::LeastConnections => {
                // Those of unknown number come last. Equals are left to chance, or all hosts
                // that start together would go to the same one.
                let load = |one: &Candidate| one.connections.unwrap_or(u64::MAX);
                let least = open_ones().map(|(_, one)| load(one)).min()?;
                let equals: Vec<usize> = open_ones()
                    .filter(|(_, one)| load(one) == least)
                    .map(|(index, _)| index)
                    .collect();
                equals.choose(&mut chance).copied()
            }
        }
    }

    /// Smooth weighted round-robin: each turn gives every candidate its weight
    /// in credit, and the richest pays all of it for being chosen. With the
    /// weights 5, 1 and 1 that is a a b a c a a, not a a a a a b c.
    fn choose_by_credit(&mut self, open: &[usize]) -> Option<usize> {
        let mut given = 0;
        let mut richest: Option<(i64, Reverse<usize>)> = None;
        for index in open {
            let candidate = self.candidates.get_mut(*index)?;
            candidate.credit += i64::from(candidate.weight);
            given += i64::from(candidate.weight);
            richest = richest.max(Some((candidate.credit, Reverse(*index))));
        }
        let (_, Reverse(chosen)) = richest?;
        self.candidates.get_mut(chosen)?.credit -= given;
        Some(chosen)
    }
}

/// Weighted rendezvous hashing: each host ranks the brokers by a number that
/// depends on nothing but the two names and the weight. When a broker comes or
/// goes, only hosts that are nearest to that one move. The number has an
/// exponential distribution of rate `weight`, so that a broker is the nearest
/// of as many hosts as its share of all weights says.
fn distance(host: &str, broker: &str, weight: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(host);
    // A separator, so that no two pairs of names are the same bytes.
    hash.update([0]);
    hash.update(broker);
    let number =
        hash.finalize().iter().take(8).fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    // The 53 bits that a float holds exactly, as a share between 0 and 1, never either.
    let share = ((number >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -share.ln() / f64::from(weight)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const NAMES: [&str; 5] = ["a:5672", "b:5672", "c:5672", "d:5672", "e:5672"];
    const ALL: [Strategy; 6] = [
        Strategy::RoundRobin,
        Strategy::WeightedRoundRobin,
        Strategy::Random,
        Strategy::WeightedRandom,
        Strategy::SourceHash,
        Strategy::LeastConnections,
    ];

    fn turns(strategy: Strategy, host: &str, weights: &[u32]) -> Turns {
        Turns::new(strategy, host, NAMES.into_iter().zip(weights.iter().copied()))
    }

    /// The brokers of `searches` searches, each of which succeeds at once.
    fn firsts(turns: &Turns, searches: usize) -> Vec<usize> {
        let search = |_| {
            turns.begin();
            turns.next().unwrap()
        };
        (0..searches).map(search).collect()
    }

    fn shares(chosen: &[usize]) -> BTreeMap<usize, usize> {
        let mut shares = BTreeMap::new();
        for one in chosen {
            *shares.entry(*one).or_default() += 1;
        }
        shares
    }

    /// Whether `part` of `whole` is what a share should give, within six
    /// standard deviations.
    fn is_about(part: usize, whole: usize, share: f64) -> bool {
        let (part, whole) = (part as f64, whole as f64);
        (part - whole * share).abs() < 6.0 * (whole * share * (1.0 - share)).sqrt()
    }

    #[test]
    fn every_round_tries_every_broker_once_and_none_twice_in_a_row() {
        for strategy in ALL {
            let turns = turns(strategy, "host", &[3, 1, 2, 1, 7]);
            turns.note_connections(&[Some(4), None, Some(0), Some(4), None]);
            let mut last = None;
            for round in 0..50 {
                assert!(turns.at_begin_of_round(), "{strategy} {round}");
                let mut seen = [false; 5];
                for turn in 0..5 {
                    let chosen = turns.next().unwrap();
                    assert_ne!(Some(chosen), last, "{strategy} {round}");
                    assert!(!std::mem::replace(&mut seen[chosen], true), "{strategy} {round}");
                    assert_eq!(turns.at_begin_of_round(), turn == 4);
                    last = Some(chosen);
                }
            }
        }
    }

    #[test]
    fn a_single_broker_is_always_chosen_and_without_any_there_is_none() {
        for strategy in ALL {
            let one = turns(strategy, "host", &[1]);
            assert_eq!([one.next(), one.next(), one.next()], [Some(0); 3]);
            assert_eq!(turns(strategy, "host", &[]).next(), None);
        }
    }

    #[test]
    fn round_robin_goes_on_after_the_last() {
        let turns = turns(Strategy::RoundRobin, "host", &[9, 1, 1]);
        assert_eq!(firsts(&turns, 4), [0, 1, 2, 0], "weights do not matter");
        assert_eq!(turns.next(), Some(1), "a failed attempt moves on");
        assert_eq!(firsts(&turns, 2), [2, 0], "and so does the next search");
    }

    #[test]
    fn weighted_round_robin_is_exact_and_smooth() {
        let chosen = firsts(&turns(Strategy::WeightedRoundRobin, "host", &[5, 1, 1]), 14);
        assert_eq!(chosen, [[0, 0, 1, 0, 2, 0, 0]; 2].concat());
        let weights = [1, 2, 3, 4, 10];
        let chosen = firsts(&turns(Strategy::WeightedRoundRobin, "host", &weights), 20 * 7);
        assert_eq!(shares(&chosen), (0..).zip(weights.map(|weight| weight as usize * 7)).collect());
        let even = firsts(&turns(Strategy::WeightedRoundRobin, "host", &[1, 1, 1]), 6);
        assert_eq!(even, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_dead_broker_leaves_its_turns_to_the_others() {
        // Number 0 is dead: each search that begins there moves on.
        let turns = turns(Strategy::WeightedRoundRobin, "host", &[2, 1, 1]);
        let search = |_| {
            turns.begin();
            (0..2).map(|_| turns.next().unwrap()).find(|chosen| *chosen != 0).unwrap()
        };
        let chosen: Vec<usize> = (0..400).map(search).collect();
        let shares = shares(&chosen);
        assert!(shares[&1].abs_diff(shares[&2]) <= 400 / 4, "{shares:?}");
    }

    #[test]
    fn random_spreads_evenly_and_weighted_random_by_weight() {
        let chosen = firsts(&turns(Strategy::Random, "host", &[9, 1, 1, 1]), 20_000);
        assert!(shares(&chosen).values().all(|part| is_about(*part, 20_000, 0.25)));
        let weights = [1, 2, 7];
        let chosen = firsts(&turns(Strategy::WeightedRandom, "host", &weights), 20_000);
        for (broker, part) in shares(&chosen) {
            assert!(is_about(part, 20_000, f64::from(weights[broker]) / 10.0), "{broker}: {part}");
        }
    }

    fn nearest(host: usize, names: &[&str]) -> String {
        let brokers = names.iter().map(|name| (*name, 1));
        let turns = Turns::new(Strategy::SourceHash, &format!("host-{host}"), brokers);
        names[turns.next().unwrap()].to_owned()
    }

    #[test]
    fn source_hash_always_gives_a_host_the_same_order() {
        let turns = turns(Strategy::SourceHash, "worker-7", &[1; 5]);
        let order = |_| {
            turns.begin();
            (0..5).map(|_| turns.next().unwrap()).collect::<Vec<_>>()
        };
        // Written down: another version of the host must not move anybody.
        assert_eq!((0..3).map(order).collect::<Vec<_>>(), vec![vec![2, 3, 1, 0, 4]; 3]);
    }

    #[test]
    fn source_hash_moves_only_the_hosts_of_a_broker_that_goes() {
        let (mut moved, mut of_it) = (0, 0);
        let fewer: Vec<&str> = NAMES.into_iter().filter(|name| *name != "c:5672").collect();
        for host in 0..2_000 {
            let (before, after) = (nearest(host, &NAMES), nearest(host, &fewer));
            of_it += usize::from(before == "c:5672");
            moved += usize::from(before != after);
            assert!(before == after || before == "c:5672", "{host}: {before} {after}");
        }
        assert_eq!(moved, of_it);
        assert!(is_about(of_it, 2_000, 0.2), "{of_it}");
    }

    #[test]
    fn source_hash_gives_each_broker_its_share_of_the_hosts() {
        let weights = [1, 3, 6];
        let chosen: Vec<usize> = (0..5_000)
            .map(|host| turns(Strategy::SourceHash, &format!("host-{host}"), &weights))
            .map(|turns| turns.next().unwrap())
            .collect();
        for (broker, part) in shares(&chosen) {
            assert!(is_about(part, 5_000, f64::from(weights[broker]) / 10.0), "{broker}: {part}");
        }
    }

    #[test]
    fn least_connections_orders_by_number_and_puts_the_unknown_last() {
        let turns = turns(Strategy::LeastConnections, "host", &[1; 4]);
        turns.note_connections(&[Some(7), None, Some(3), Some(0)]);
        let order = |_| turns.next().unwrap();
        assert_eq!((0..4).map(order).collect::<Vec<_>>(), [3, 2, 0, 1]);
        turns.begin();
        turns.note_connections(&[None, None, None, Some(9)]);
        assert_eq!(turns.next(), Some(3));
        // Nothing known, or all alike: any of them.
        turns.note_connections(&[None, None, None, None]);
        let chosen = firsts(&turns, 8_000);
        assert!(shares(&chosen).values().all(|part| is_about(*part, 8_000, 0.25)));
    }
}
