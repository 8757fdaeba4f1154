//! Random histories, played to the end.
//!
//! `LICET_TEST_SEED` repeats a run or makes another one, `LICET_TEST_HISTORIES` says how many there
//! are. A history that fails is shrunk, and told with every message of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use licet_schema::{Code, Output, Request};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::{chance::history, player::Player, script::Step};
use crate::testing::verdict;

const SEED: u64 = 1;
const HISTORIES: u64 = 1000;

#[test]
fn random_histories_are_answered_as_the_model_says_and_break_no_invariant() {
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
    let played = runner.run(&history(), |scenes| play(&scenes, &seen).map_err(TestCaseError::fail));
    match played {
        Ok(()) => println!("{:#?}", seen.borrow()),
        Err(TestError::Fail(why, shortest)) => panic!("LICET_TEST_SEED={seed}\n{shortest:?}\n{why}"),
        Err(TestError::Abort(why)) => panic!("LICET_TEST_SEED={seed}: {why}"),
    }
    if histories >= HISTORIES {
        seen.borrow().everything();
    }
}

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a whole number"))
}

fn play(scenes: &[Vec<Step>], seen: &RefCell<Seen>) -> Result<(), String> {
    let mut player = Player::new();
    player.open_shop()?;
    for step in scenes.iter().flatten() {
        player.step(step)?;
    }
    player.ask_for_everything()?;
    seen.borrow_mut().count(&player);
    Ok(())
}

/// What came up in all histories together, and how often.
#[derive(Debug, Default)]
struct Seen {
    histories: usize,
    messages: usize,
    answers: BTreeMap<String, usize>,
    events: BTreeMap<String, usize>,
}

/// Answers and events that take a long story, besides one of each type and code.
const DEEP: [&str; 12] = [
    "purchase.request → certificate.issued with points",
    "settlement.completion → settlement.registered reversed",
    "settlement.completion → settlement.registered* reversed",
    "settlement.failure → settlement.registered* completed",
    "settlement.reversal → settlement.registered* reversed",
    "license.return → license.returned upgrade",
    "license.deletion → license.returned* buyback",
    "holdings.query → holdings.listed with debt",
    "certificate.retired expired",
    "certificate.retired reversed",
    "license.revoked reissued",
    "license.revoked reversed",
];

impl Seen {
    fn count(&mut self, player: &Player) {
        self.histories += 1;
        self.messages += player.world.heard().len();
        for (request, heard) in player.world.heard() {
            let answer = heard.reply.as_ref().map_or_else(|| "-".into(), name);
            *self.answers.entry(format!("{} → {answer}", request.kind())).or_default() += 1;
            for event in &heard.events {
                *self.events.entry(name(event)).or_default() += 1;
            }
        }
    }

    /// Fails if something never came up: then the histories have become too tame.
    fn everything(&self) {
        let answers = self.answers.keys().filter_map(|answer| answer.split_once(" → ").map(|(_, answer)| answer));
        let word = |name: &str| name.split([' ', '*']).next().unwrap_or_default().to_owned();
        let words: BTreeSet<_> = answers.chain(self.events.keys().map(String::as_str)).map(word).collect();
        // Beyond reading, or the runtime's.
        let absent = [Code::UnsupportedVersion, Code::Conflict];
        let codes = Code::ALL.iter().filter(|code| !absent.contains(code)).map(|code| code.as_str());
        let kinds = Output::KINDS.iter().filter(|kind| !["request.refused", "sweep.due"].contains(kind)).copied();
        for what in codes.chain(kinds) {
            assert!(words.contains(what), "{what} never came up");
        }
        for kind in Request::KINDS {
            assert!(self.answers.keys().any(|answer| answer.starts_with(kind)), "{kind} was never sent");
        }
        for what in DEEP {
            let seen = self.answers.contains_key(what) || self.events.contains_key(what);
            assert!(seen, "{what:?} never came up");
        }
    }
}

/// The verdict, and what distinguishes it further.
fn name(output: &Output) -> String {
    let more = match output {
        Output::SettlementRegistered(body) => format!(" {:?}", body.outcome),
        Output::CertificateRetired(body) => format!(" {:?}", body.reason),
        Output::LicenseRevoked(body) => format!(" {:?}", body.reason),
        Output::LicenseReturned(body) => format!(" {:?}", body.privilege.kind),
        Output::CertificateIssued(body) if body.points_held.get() > 0 => " with points".into(),
        Output::HoldingsListed(body) if body.debt.get() > 0 => " with debt".into(),
        _ => String::new(),
    };
    format!("{}{}", verdict(output), more.to_lowercase())
}
