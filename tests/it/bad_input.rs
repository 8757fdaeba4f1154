//! Bad input of every kind: the properties of [`licet_tests::fuzzing`], held on stable Rust against
//! the corpus that fuzzers found, and against random bytes near to good ones.

use std::{collections::BTreeMap, fs, path::PathBuf};

use licet_common::transport::{Outgoing, Properties};
use licet_schema::{Format, Request, topology};
use licet_tests::{
    figures,
    fuzzing::{TARGETS, Target, genuine, hold},
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;
use uuid::Uuid;

use crate::world::{PATIENCE, World, on_both, purchase};

on_both!(whatever_is_in_an_envelope_it_is_answered_or_set_aside_exactly_once);

/// Random inputs to each target.
const CASES: u32 = 2_000;
/// No target has fewer files than this.
const FILES_MIN: usize = 8;

/// The corpus of a target: each file's name and bytes, in the order of their names.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files
        .map(|file| file.expect("an entry").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a readable file")))
        .collect();
    files.sort();
    files
}

#[test]
fn what_fuzzers_found_and_what_random_bytes_make_of_it_holds() {
    let seed = seed();
    let (mut files, mut broken) = (0, Vec::new());
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(corpus.len() >= FILES_MIN, "{} has {} files", target.name, corpus.len());
        for (name, bytes) in &corpus {
            assert!(!bytes.is_empty(), "{name} is empty");
            if std::panic::catch_unwind(|| hold(target.name, bytes)).is_err() {
                broken.push(name.clone());
            }
        }
        files += corpus.len();
    }
    assert!(broken.is_empty(), "these do not hold: {broken:#?}");
    for target in TARGETS {
        changed(target, corpus(target).into_iter().map(|(_, bytes)| bytes).collect(), seed);
    }
    let cases = CASES as usize * TARGETS.len();
    let figures = json!({ "targets": TARGETS.len(), "corpus_files": files, "property_cases": cases });
    figures::record("bad-input", &figures).expect("the figures are kept");
}

/// Inputs of the corpus with a few bytes changed, or part of one put into another.
fn changed(target: &Target, corpus: Vec<Vec<u8>>, seed: u64) {
    let whole = select(corpus.clone());
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 0..6);
    let inputs = (whole, select(corpus), edits);
    let held = runner(seed).run(&inputs, |(mut bytes, other, edits)| {
        for (place, how, byte) in edits {
            let place = place.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(place, byte),
                1 if place < bytes.len() => bytes[place] = byte,
                2 => bytes.truncate(place),
                _ => bytes.extend_from_slice(&other[other.len() / 2..]),
            }
        }
        hold(target.name, &bytes);
        Ok(())
    });
    held.unwrap_or_else(|error| panic!("{}: {error}", target.name));
}

fn runner(seed: u64) -> TestRunner {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4)))
}

fn seed() -> u64 {
    let random = || u64::from_le_bytes(*Uuid::new_v4().as_bytes().first_chunk().expect("16 bytes"));
    let seed = std::env::var("LICET_TEST_SEED").map_or_else(|_| random(), |seed| seed.parse().expect("a number"));
    println!("LICET_TEST_SEED={seed}");
    seed
}

/// Every change of one bit, and of one character, at every place of every kind of token.
#[test]
fn a_token_is_accepted_in_exactly_its_bytes() {
    const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/. \t\n\r\0";
    for token in genuine() {
        hold("token", token.as_bytes());
        for place in 0..token.len() {
            let put = |byte: u8| {
                let mut changed = token.clone().into_bytes();
                changed[place] = byte;
                hold("token", &changed);
            };
            (0..8).for_each(|bit| put(token.as_bytes()[place] ^ (1 << bit)));
            CHARACTERS.iter().for_each(|byte| put(*byte));
            hold("token", &[&token.as_bytes()[..place], &token.as_bytes()[place + 1..]].concat());
        }
        for around in ["=", "==", " ", "\n", "\0", ".", "A", "\u{feff}"] {
            hold("token", format!("{token}{around}").as_bytes());
            hold("token", format!("{around}{token}").as_bytes());
        }
    }
}

/// Messages to the purchase worker whose every property may be anything.
fn envelopes(queue: &str) -> impl Strategy<Value = Outgoing> + use<> {
    let request = TARGETS.iter().find(|target| target.name == "request").expect("the target");
    let bodies = corpus(request).into_iter().filter_map(|(_, bytes)| {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        bytes.starts_with(b"purchase.request").then(|| bytes[end + 1..].to_vec())
    });
    let texts = |some: &[&str]| {
        let some: Vec<_> = some.iter().map(|text| Some((*text).to_owned())).chain([None]).collect();
        prop_oneof![4 => select(some), 1 => "\\PC{0,60}".prop_map(Some)]
    };
    let header = (select(vec!["licet-attempt", "licet-sender", "x-death", "h"]), "\\PC{0,20}");
    let id = prop_oneof![
        6 => any::<u128>().prop_map(|id| Some(Uuid::from_u128(id).to_string())),
        1 => any::<u128>().prop_map(|id| Some(Uuid::from_u128(id).braced().to_string())),
        1 => texts(&["00000000-0000-0000-0000-000000000000", "17"]),
    ];
    let good = serde_json::to_vec(&json!({"user": "a", "items": [{"content": "song"}]})).expect("JSON");
    let properties = (
        id,
        texts(&["purchase.request", "purchase.request", "certificate.check"]),
        texts(&["application/json", "application/json", "application/vnd.licet.postcard"]),
        texts(&[queue, queue, "nobody", "licet.purchase"]),
        texts(&["mine"]),
        prop::collection::btree_map(header.0.prop_map(str::to_owned), header.1, 0..3),
    );
    let body = prop_oneof![2 => select(bodies.collect::<Vec<_>>()), 1 => Just(good), 1 => any::<Vec<u8>>()];
    (properties, body).prop_map(|((message_id, kind, content_type, reply_to, correlation_id, headers), body)| {
        let properties =
            Properties { message_id, kind, content_type, reply_to, correlation_id, headers, ..Properties::default() };
        let (exchange, routing_key) = (topology::IN.to_owned(), "purchase.request".to_owned());
        Outgoing { exchange, routing_key, mandatory: true, properties, body: body.into() }
    })
}

/// What the contract says of an envelope, in other words than the code's.
fn readable(message: &Outgoing) -> bool {
    let Properties { message_id, kind, content_type, reply_to, .. } = &message.properties;
    let format = match content_type.as_deref() {
        None | Some("application/json") => Format::Json,
        Some("application/vnd.licet.postcard") => Format::Postcard,
        Some(_) => return false,
    };
    message_id.as_ref().is_some_and(|id| Uuid::parse_str(id).is_ok_and(|id| !id.is_nil()))
        && kind.as_deref().is_none_or(|kind| kind == message.routing_key)
        && !reply_to.as_deref().unwrap_or_default().starts_with("licet.")
        && Request::read(&message.routing_key, format, &message.body).is_ok()
}

async fn whatever_is_in_an_envelope_it_is_answered_or_set_aside_exactly_once(mut world: World) {
    let (queue, mut replies) = world.listen(&[]).await;
    let mut dead = world.dead_letters("purchase").await;
    let (mut runner, envelopes) = (runner(seed()), envelopes(&queue));
    let messages: Vec<_> = (0..400).map(|_| envelopes.new_tree(&mut runner).expect("an envelope").current()).collect();
    world.publish_all(&messages).await;
    world.start_workers();

    let of = |message: &Outgoing| (message.properties.correlation_id.clone(), message.body.clone());
    let mut set_aside: BTreeMap<_, usize> = BTreeMap::new();
    messages
        .iter()
        .filter(|message| !readable(message))
        .for_each(|message| *set_aside.entry(of(message)).or_default() += 1);
    let asked = messages.iter().filter(|message| message.properties.reply_to.as_deref() == Some(&queue)).count();
    println!("{} of {} set aside, {asked} to be answered", set_aside.values().sum::<usize>(), messages.len());
    for _ in 0..set_aside.values().sum() {
        let letter = dead.next().await;
        assert!(letter.properties.headers.contains_key(topology::HEADER_REASON));
        let left = set_aside.get_mut(&(letter.properties.correlation_id, letter.body)).filter(|left| **left > 0);
        *left.expect("only what cannot be read, and once") -= 1;
    }
    for _ in 0..asked {
        replies.next().await;
    }
    world.ask(&purchase("alice", 1)).await;
    assert!(dead.try_next(PATIENCE / 100).await.is_none() && replies.try_next(PATIENCE / 100).await.is_none());
    world.finish().await;
}
