//! Bad input of every kind. The tests check the properties in [`licet_tests::fuzzing`] on stable
//! Rust, with the fuzzing corpus and with random changes to it. They also send messages with random
//! properties.

use std::{collections::BTreeMap, fs, path::PathBuf};

use licet_common::transport::{Outgoing, Properties};
use licet_schema::{Request, topology};
use licet_tests::{
    figures,
    fuzzing::{TARGETS, Target, check, genuine_tokens},
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;
use uuid::Uuid;

use crate::system::{TIMEOUT, TestSystem, on_both, purchase};

on_both!(every_message_with_random_properties_is_answered_and_every_unreadable_one_is_dead_lettered_once);

/// The number of random inputs for each target.
const CASES: u32 = 2_000;
/// The minimum number of corpus files of each target.
const FILES_MIN: usize = 8;

/// The corpus of a target: the name and the content of each file, ordered by name.
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
fn every_property_holds_for_the_corpus_and_for_random_changes_to_it() {
    let seed = seed();
    let (mut files, mut violations) = (0, Vec::new());
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(corpus.len() >= FILES_MIN, "{} has {} files", target.name, corpus.len());
        for (name, bytes) in &corpus {
            assert!(!bytes.is_empty(), "{name} is empty");
            if std::panic::catch_unwind(|| check(target.name, bytes)).is_err() {
                violations.push(name.clone());
            }
        }
        files += corpus.len();
    }
    assert!(violations.is_empty(), "a property does not hold for these files: {violations:#?}");
    for target in TARGETS {
        check_changed(target, corpus(target).into_iter().map(|(_, bytes)| bytes).collect(), seed);
    }
    let cases = CASES as usize * TARGETS.len();
    let figures = json!({ "targets": TARGETS.len(), "corpus_files": files, "property_cases": cases });
    figures::record("bad-input", &figures).expect("the figures can be written");
}

/// Checks corpus files in which a few bytes are changed, or to which part of another file is
/// appended.
fn check_changed(target: &Target, corpus: Vec<Vec<u8>>, seed: u64) {
    let whole = select(corpus.clone());
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 0..6);
    let inputs = (whole, select(corpus), edits);
    let result = runner(seed).run(&inputs, |(mut bytes, other, edits)| {
        for (position, how, byte) in edits {
            let position = position.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(position, byte),
                1 if position < bytes.len() => bytes[position] = byte,
                2 => bytes.truncate(position),
                _ => bytes.extend_from_slice(&other[other.len() / 2..]),
            }
        }
        check(target.name, &bytes);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{}: {error}", target.name));
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

/// Tries every change of one bit and of one character, at every position of every kind of token.
#[test]
fn a_token_with_any_changed_byte_is_refused() {
    const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/. \t\n\r\0";
    for token in genuine_tokens() {
        check("token", token.as_bytes());
        for position in 0..token.len() {
            let put = |byte: u8| {
                let mut changed = token.clone().into_bytes();
                changed[position] = byte;
                check("token", &changed);
            };
            (0..8).for_each(|bit| put(token.as_bytes()[position] ^ (1 << bit)));
            CHARACTERS.iter().for_each(|byte| put(*byte));
            check("token", &[&token.as_bytes()[..position], &token.as_bytes()[position + 1..]].concat());
        }
        for around in ["=", "==", " ", "\n", "\0", ".", "A", "\u{feff}"] {
            check("token", format!("{token}{around}").as_bytes());
            check("token", format!("{around}{token}").as_bytes());
        }
    }
}

/// Messages for the purchase worker in which every property can have any value.
fn messages_for(queue: &str) -> impl Strategy<Value = Outgoing> + use<> {
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

/// Whether the contract accepts a message. This check is written independently of Licet's code.
fn is_readable(message: &Outgoing) -> bool {
    let Properties { message_id, kind, content_type, reply_to, .. } = &message.properties;
    matches!(content_type.as_deref(), None | Some("application/json" | "APPLICATION/json; charset=utf-8"))
        && message_id.as_ref().is_some_and(|id| Uuid::parse_str(id).is_ok_and(|id| !id.is_nil()))
        && kind.as_deref().is_none_or(|kind| kind == message.routing_key)
        && !reply_to.as_deref().unwrap_or_default().starts_with("licet.")
        && Request::read(&message.routing_key, &message.body).is_ok()
}

async fn every_message_with_random_properties_is_answered_and_every_unreadable_one_is_dead_lettered_once(
    mut system: TestSystem,
) {
    let (queue, mut replies) = system.listen(&[]).await;
    let mut dead = system.dead_letters("purchase").await;
    let (mut runner, strategy) = (runner(seed()), messages_for(&queue));
    let messages: Vec<_> = (0..400).map(|_| strategy.new_tree(&mut runner).expect("a message").current()).collect();
    system.publish_all(&messages).await;
    system.start_workers();

    let of = |message: &Outgoing| (message.properties.correlation_id.clone(), message.body.clone());
    let mut unreadable: BTreeMap<_, usize> = BTreeMap::new();
    messages
        .iter()
        .filter(|message| !is_readable(message))
        .for_each(|message| *unreadable.entry(of(message)).or_default() += 1);
    let answered = messages.iter().filter(|message| message.properties.reply_to.as_deref() == Some(&queue)).count();
    println!("{} of {} cannot be read, {answered} expect a reply", unreadable.values().sum::<usize>(), messages.len());
    for _ in 0..unreadable.values().sum() {
        let letter = dead.next().await;
        assert!(letter.properties.headers.contains_key(topology::HEADER_REASON));
        let remaining =
            unreadable.get_mut(&(letter.properties.correlation_id, letter.body)).filter(|remaining| **remaining > 0);
        *remaining.expect("each unreadable message is dead-lettered exactly once") -= 1;
    }
    for _ in 0..answered {
        replies.next().await;
    }
    system.ask(&purchase("alice", 1)).await;
    assert!(dead.try_next(TIMEOUT / 100).await.is_none() && replies.try_next(TIMEOUT / 100).await.is_none());
    system.finish().await;
}
