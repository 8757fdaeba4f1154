//! Plays random histories.
//!
//! `LICET_TEST_SEED` sets the seed, and `LICET_TEST_HISTORIES` the number of histories. A history
//! that fails is shrunk and printed with every message.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use licet_schema::{Code, Output, Request, message::Privilege};
use licet_workers::fixture::outcome;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::{generator::history, player::Player, script::Step};

const SEED: u64 = 1;
const HISTORIES: u64 = 1000;

#[test]
fn random_histories_are_answered_as_the_model_predicts_and_violate_no_invariant() {
    let (seed, histories) = (from_env("LICET_TEST_SEED", SEED), from_env("LICET_TEST_HISTORIES", HISTORIES));
    println!("LICET_TEST_SEED={seed} LICET_TEST_HISTORIES={histories}");
    let seen = RefCell::new(Seen::default());
    let config = Config {
        cases: u32::try_from(histories).unwrap_or(u32::MAX),
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let played = runner.run(&history(), |sequences| play(&sequences, &seen).map_err(TestCaseError::fail));
    match played {
        Ok(()) => println!("{:#?}", seen.borrow()),
        Err(TestError::Fail(reason, shrunk)) => panic!("LICET_TEST_SEED={seed}\n{shrunk:?}\n{reason}"),
        Err(TestError::Abort(reason)) => panic!("LICET_TEST_SEED={seed}: {reason}"),
    }
    if histories >= HISTORIES {
        seen.borrow().assert_complete();
    }
}

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a whole number"))
}

fn play(sequences: &[Vec<Step>], seen: &RefCell<Seen>) -> Result<(), String> {
    let mut player = Player::new();
    player.register_contents()?;
    for step in sequences.iter().flatten() {
        player.step(step)?;
    }
    player.query_everything()?;
    seen.borrow_mut().count(&player);
    Ok(())
}

/// The number of occurrences of each outcome and event in all histories.
#[derive(Debug, Default)]
struct Seen {
    histories: usize,
    messages: usize,
    outcomes: BTreeMap<String, usize>,
    events: BTreeMap<String, usize>,
}

/// Outcomes and events that occur only in long histories. The histories must contain these, in
/// addition to every message type and refusal code.
const RARE: [&str; 29] = [
    "purchase.request → certificate.issued with points",
    "settlement.completion → settlement.registered reversed",
    "settlement.completion → settlement.registered reinstated",
    "settlement.completion → reversed",
    "settlement.completion → insufficient_points",
    "settlement.reversal → settlement.registered pending",
    "settlement.reversal → settlement.registered refunded",
    "settlement.reversal → settlement.registered reinstated",
    "settlement.reversal → amount_mismatch",
    "settlement.reinstatement → settlement.registered pending",
    "settlement.reinstatement → settlement.registered reinstated",
    "settlement.assignment → settlement.registered completed",
    "settlement.assignment → settlement.registered* completed",
    "settlement.assignment → already_settled",
    "settlement.assignment → amount_mismatch",
    "settlement.assignment → not_settled",
    "settlement.assignment → reversed",
    "settlement.failure → settlement.registered* completed",
    "settlement.reversal → settlement.registered* reversed",
    "license.return → license.returned upgrade",
    "license.deletion → license.returned* buyback",
    "holdings.query → holdings.listed with debt",
    "payout.completion → payout.registered failed",
    "payout.failure → payout.registered failed",
    "payout.failure → payout.registered pending",
    "certificate.retired expired",
    "certificate.retired reversed",
    "license.revoked reissued",
    "license.revoked reversed",
];

impl Seen {
    fn count(&mut self, player: &Player) {
        self.histories += 1;
        self.messages += player.system.log().len();
        for (request, response) in player.system.log() {
            let outcome = response.reply.as_ref().map_or_else(|| "-".into(), name);
            *self.outcomes.entry(format!("{} → {outcome}", request.kind())).or_default() += 1;
            for event in &response.events {
                *self.events.entry(name(event)).or_default() += 1;
            }
        }
    }

    /// Fails if an expected outcome or event never occurred. The histories then cover too little.
    fn assert_complete(&self) {
        let outcomes = self.outcomes.keys().filter_map(|line| line.split_once(" → ").map(|(_, outcome)| outcome));
        let word = |name: &str| name.split([' ', '*']).next().unwrap_or_default().to_owned();
        let words: BTreeSet<_> = outcomes.chain(self.events.keys().map(String::as_str)).map(word).collect();
        // These codes are produced when a message is read, or by the runtime.
        let absent = [Code::UnsupportedVersion, Code::Conflict];
        let codes = Code::ALL.iter().filter(|code| !absent.contains(code)).map(|code| code.as_str());
        let kinds = Output::KINDS.iter().filter(|kind| !["request.refused", "sweep.due"].contains(kind)).copied();
        for what in codes.chain(kinds) {
            assert!(words.contains(what), "{what} never occurred");
        }
        for kind in Request::KINDS {
            assert!(self.outcomes.keys().any(|line| line.starts_with(kind)), "{kind} was never sent");
        }
        for privilege in Privilege::ALL {
            let given = |name: &String| name.contains("license.returned") && name.ends_with(privilege.as_str());
            assert!(self.outcomes.keys().chain(self.events.keys()).any(given), "{privilege} was never given");
        }
        for what in RARE {
            let seen = self.outcomes.contains_key(what) || self.events.contains_key(what);
            assert!(seen, "{what:?} never occurred");
        }
    }
}

/// The outcome, with the detail that distinguishes it.
fn name(output: &Output) -> String {
    let more = match output {
        Output::SettlementRegistered(body) => format!(" {:?}", body.outcome),
        Output::PayoutRegistered(body) => format!(" {:?}", body.outcome),
        Output::CertificateRetired(body) => format!(" {:?}", body.reason),
        Output::LicenseRevoked(body) => format!(" {:?}", body.reason),
        Output::LicenseReturned(body) => format!(" {:?}", body.privilege.kind),
        Output::CertificateIssued(body) if body.points_held.get() > 0 => " with points".into(),
        Output::HoldingsListed(body) if body.debt.get() > 0 => " with debt".into(),
        _ => String::new(),
    };
    format!("{}{}", outcome(output), more.to_lowercase())
}
