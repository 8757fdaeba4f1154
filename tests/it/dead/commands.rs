//! The commands `licet dead …` for operators, and the worker program that dead-letters messages.

use licet_schema::{Request, Text, message::CertificateReissue, topology};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{on_its_last_attempt, raw_channel, wait_for_depth};
use crate::{
    processes::{Process, log_of},
    programs::{fails, run},
    system::{TIMEOUT, TestSystem, amqp_url, message, outcome, raw, song},
};

fn reissue(certificate: Uuid) -> Request {
    let reason = Text::try_from("the terminal was lost").expect("a text");
    Request::CertificateReissue(CertificateReissue { certificate, reason, granted: None })
}

/// Runs `licet dead …` against the broker of the tests.
struct DeadCommand {
    amqp: String,
    folder: std::path::PathBuf,
}

impl DeadCommand {
    fn of(system: &TestSystem) -> Self {
        Self { amqp: amqp_url(), folder: system.folder.path().to_owned() }
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let arguments: Vec<_> = std::iter::once("dead").chain(arguments.iter().copied()).collect();
        run("licet", &arguments, &[("LICET_AMQP_URL", &self.amqp)], &self.folder)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    /// The message ids of the letters that the command reports.
    fn ids(&self, arguments: &[&str]) -> Vec<String> {
        let report = self.json(arguments);
        let letters = report["letters"].as_array().expect("a list");
        letters.iter().map(|letter| letter["message_id"].as_str().expect("an id").to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn an_operator_can_list_show_replay_and_discard_dead_letters() {
    let mut system = TestSystem::services().await;
    system.start_workers();
    let dead = DeadCommand::of(&system);
    assert_eq!(dead.json(&["list"]), json!({"letters": [], "looked_at": 0, "beyond_limit": 0}));
    let ids: Vec<_> = (0..3).map(|_| Uuid::new_v4()).collect();
    system.publish(raw(ids[0], "content.put", b"{\"a\x1b[2J\":1}".to_vec(), None)).await;
    wait_for_depth(&system, "licet.dead.catalog", 1).await;
    system.publish(raw(ids[1], "purchase.request", vec![0xff, 0xfe], None)).await;
    system.publish(raw(ids[2], "purchase.request", b"{}".to_vec(), Some("licet.sneaky"))).await;
    wait_for_depth(&system, "licet.dead.purchase", 2).await;
    system.stop_workers().await;
    let ids: Vec<_> = ids.iter().map(Uuid::to_string).collect();

    assert_eq!(dead.ids(&["list"]), ids);
    assert_eq!(dead.ids(&["list", "--queue", "purchase"]), ids[1..]);
    assert_eq!(dead.ids(&["list", "--reason", "REPLY_TO"]), ids[2..]);
    // The clock of the test's workers is set to 2023.
    assert_eq!(dead.ids(&["list", "--older-than", "1d"]), ids);
    assert_eq!(dead.ids(&["list", "--newer-than", "1d"]), Vec::<String>::new());
    let report = dead.json(&["list", "--limit", "2"]);
    assert_eq!((&report["looked_at"], &report["beyond_limit"]), (&json!(2), &json!(1)));
    let text = String::from_utf8(dead.run(&["list", "--limit", "2"]).stdout).expect("text");
    assert_eq!(text.lines().count(), 3, "one line for each letter, and one about the rest: {text}");
    assert!(text.contains("1 attempt ") && text.contains("Letters not examined: 1"), "{text}");

    let shown = dead.json(&["show", &ids[1]]);
    let letter = &shown["letters"][0];
    assert_eq!((&letter["type"], &letter["sender"]), (&json!("purchase.request"), &json!("guest")));
    assert_eq!((&letter["body"], &letter["attempts"]), (&json!({"hex": "fffe"}), &json!(1)));
    let text = String::from_utf8(dead.run(&["show", &ids[0]]).stdout).expect("text");
    assert!(text.contains("first_failed_at") && !text.contains('\x1b'), "{text}");
    fails(&dead.run(&["show", "nobody"]), 1, "licet dead list");
    assert_eq!(dead.ids(&["list"]), ids, "reading changes nothing");

    fails(&dead.run(&["discard"]), 2, "licet dead list");
    fails(&dead.run(&["replay", "--limit", "7"]), 2, "--queue");
    fails(&dead.run(&["discard", &ids[0]]), 2, "--yes");
    assert_eq!(dead.run(&["list", "--queue", "kitchen"]).status.code(), Some(2));
    assert_eq!(dead.run(&["list", "--older-than", "soon"]).status.code(), Some(2));
    assert_eq!(dead.run(&["replay", "--queue", "catalog", "--rate", "0"]).status.code(), Some(2));

    assert_eq!(dead.ids(&["discard", &ids[0], "--yes"]), ids[..1]);
    assert_eq!(dead.ids(&["list"]), ids[1..]);
    assert_eq!(dead.ids(&["replay", "--queue", "purchase", "--rate", "100"]), ids[1..]);
    wait_for_depth(&system, "licet.purchase", 2).await;
    assert!(dead.ids(&["list"]).is_empty());
    system.start_workers();
    wait_for_depth(&system, "licet.dead.purchase", 2).await;
    assert_eq!(dead.ids(&["list"]), ids[1..], "unreadable messages are dead-lettered again");
    system.finish().await;
}

/// A row with impossible counts makes a rule find a defect. The message is dead-lettered and
/// counted. After the row is corrected, its replay succeeds, and the sender gets a reply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_worker_program_counts_its_dead_letters_and_a_replay_succeeds_once_the_cause_is_corrected() {
    let mut system = TestSystem::services().await;
    system.put_song_with_workers().await;
    let bought = system.ready("alice", 1).await;
    system.stop_workers().await;
    let set_granted = async |granted: i64| {
        let sql = format!("UPDATE certificate SET granted = {granted}");
        system.resources.store.pool().execute_unprepared(&sql).await.expect("the row is changed");
    };
    set_granted(2).await;
    let (queue, mut replies) = system.listen(&[]).await;
    let (id, request) = (Uuid::new_v4(), reissue(bought.certificates[0]));
    let mut copy = on_its_last_attempt(message(id, &request, Some(&queue)));
    copy.routing_key = "licet.reissue".into();
    copy.properties.headers.insert(topology::HEADER_SENDER.into(), "guest".into());
    system.publish(copy).await;
    let worker = Process::start(&system, "licet-reissue");
    wait_for_depth(&system, "licet.dead.reissue", 1).await;
    assert_eq!(worker.terminate(), Some(0));
    let log = std::fs::read_to_string(log_of(&system, "licet-reissue")).expect("its log");
    let last = log.lines().last().expect("a line when it stops");
    for count in ["dropped_replies=0", "delayed=0", "dead_letters=1", "panics=1"] {
        assert!(last.contains(count), "{last}");
    }
    let dead = DeadCommand::of(&system);
    let letter = &dead.json(&["list"])["letters"][0];
    let reason = letter["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("a rule found a defect: granted and outstanding licenses"), "{reason}");

    set_granted(0).await;
    assert_eq!(dead.ids(&["replay", &id.to_string()]), [id.to_string()]);
    let _worker = Process::start(&system, "licet-reissue");
    assert_eq!(replies.next().await.properties.kind.as_deref(), Some("certificate.reissued"));
    let again = system.client.ask_as(id, &request).await.expect("a reply");
    assert_eq!(outcome(&again), "certificate.reissued", "the replay is the same message, so there is no conflict");
    system.finish().await;
}

/// A message that the broker itself dead-lettered has a sender and a type, and can be replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_message_that_the_broker_dead_lettered_can_be_shown_and_replayed() {
    let mut system = TestSystem::services().await;
    let (queue, mut replies) = system.listen(&[]).await;
    let id = Uuid::new_v4();
    let mut put = message(id, &Request::ContentPut(song(1)), Some(&queue));
    put.properties.kind = None;
    // The `licet-` headers of a sender are ignored.
    put.properties.headers.insert(topology::HEADER_SENDER.into(), "mallory".into());
    put.properties.headers.insert("traceparent".into(), "00-ab-cd-01".into());
    system.publish(put).await;
    let (_connection, channel) = raw_channel().await;
    let getting = async {
        loop {
            if let Some(got) = channel.basic_get("licet.catalog".into(), Default::default()).await.expect("a queue") {
                return got.delivery;
            }
        }
    };
    let delivery = tokio::time::timeout(TIMEOUT, getting).await.expect("a delivery in time");
    channel.basic_reject(delivery.delivery_tag, Default::default()).await.expect("the message is rejected");
    wait_for_depth(&system, "licet.dead.catalog", 1).await;
    let dead = DeadCommand::of(&system);
    let shown = dead.json(&["show"]);
    let letter = &shown["letters"][0];
    assert_eq!((&letter["type"], &letter["sender"]), (&json!("content.put"), &json!("guest")));
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("rejected")), "{letter}");
    assert_eq!(letter["body"]["request"]["title"], "A song");
    assert_eq!(letter["headers"]["traceparent"], "00-ab-cd-01");
    assert!(letter["failed_at"].is_string(), "{letter}");
    assert_eq!(dead.ids(&["replay", "--newer-than", "1h"]), [id.to_string()]);
    system.start_workers();
    assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    assert_eq!(system.journal().await[0].sender.as_deref(), Some("guest"));
    system.finish().await;
}
