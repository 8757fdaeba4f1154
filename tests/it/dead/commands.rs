//! `licet dead` as an operator meets it, and the worker program that makes the letters.

use licet_schema::{Request, topology};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{on_its_last_attempt, raw_channel, until_it_holds};
use crate::{
    processes::{Process, log_of},
    programs::{fails, run},
    world::{PATIENCE, World, amqp_url, message, purchase, raw, song, verdict},
};

/// `licet dead …` on the test's broker.
struct Desk {
    amqp: String,
    folder: std::path::PathBuf,
}

impl Desk {
    fn of(world: &World) -> Self {
        Self { amqp: amqp_url(), folder: world.folder.path().to_owned() }
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let arguments: Vec<_> = std::iter::once("dead").chain(arguments.iter().copied()).collect();
        run("licet", &arguments, &[("LICET_AMQP_URL", &self.amqp)], &self.folder)
    }

    fn told(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    fn ids(&self, arguments: &[&str]) -> Vec<String> {
        let told = self.told(arguments);
        let letters = told["letters"].as_array().expect("a list");
        letters.iter().map(|letter| letter["message_id"].as_str().expect("an id").to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn an_operator_lists_shows_replays_and_discards() {
    let mut world = World::services().await;
    world.start_workers();
    let desk = Desk::of(&world);
    assert_eq!(desk.told(&["list"]), json!({"letters": [], "looked_at": 0, "beyond_limit": 0}));
    let ids: Vec<_> = (0..3).map(|_| Uuid::new_v4()).collect();
    world.publish(raw(ids[0], "content.put", b"{\"a\x1b[2J\":1}".to_vec(), None)).await;
    until_it_holds(&world, "licet.dead.catalog", 1).await;
    world.publish(raw(ids[1], "purchase.request", vec![0xff, 0xfe], None)).await;
    world.publish(raw(ids[2], "purchase.request", b"{}".to_vec(), Some("licet.sneaky"))).await;
    until_it_holds(&world, "licet.dead.purchase", 2).await;
    world.stop_workers().await;
    let named: Vec<_> = ids.iter().map(Uuid::to_string).collect();

    assert_eq!(desk.ids(&["list"]), named);
    assert_eq!(desk.ids(&["list", "--queue", "purchase"]), named[1..]);
    assert_eq!(desk.ids(&["list", "--reason", "REPLY_TO"]), named[2..]);
    // The workers of a test live in 2023.
    assert_eq!(desk.ids(&["list", "--older-than", "1d"]), named);
    assert_eq!(desk.ids(&["list", "--newer-than", "1d"]), Vec::<String>::new());
    let told = desk.told(&["list", "--limit", "2"]);
    assert_eq!((&told["looked_at"], &told["beyond_limit"]), (&json!(2), &json!(1)));
    let text = String::from_utf8(desk.run(&["list", "--limit", "2"]).stdout).expect("text");
    assert_eq!(text.lines().count(), 3, "a line for each, and one about the rest: {text}");
    assert!(text.contains("1 attempt ") && text.contains("1 more were not looked at"), "{text}");

    let shown = desk.told(&["show", &named[1]]);
    let letter = &shown["letters"][0];
    assert_eq!((&letter["type"], &letter["sender"]), (&json!("purchase.request"), &json!("guest")));
    assert_eq!((&letter["body"], &letter["attempts"]), (&json!({"hex": "fffe"}), &json!(1)));
    let page = String::from_utf8(desk.run(&["show", &named[0]]).stdout).expect("text");
    assert!(page.contains("first_failed_at") && !page.contains('\x1b'), "{page}");
    fails(&desk.run(&["show", "nobody"]), 1, "licet dead list");
    assert_eq!(desk.ids(&["list"]), named, "looking changes nothing");

    fails(&desk.run(&["discard"]), 2, "licet dead list");
    fails(&desk.run(&["replay", "--limit", "7"]), 2, "--queue");
    fails(&desk.run(&["discard", &named[0]]), 2, "--yes");
    assert_eq!(desk.run(&["list", "--queue", "kitchen"]).status.code(), Some(2));
    assert_eq!(desk.run(&["list", "--older-than", "soon"]).status.code(), Some(2));
    assert_eq!(desk.run(&["replay", "--queue", "catalog", "--rate", "0"]).status.code(), Some(2));

    assert_eq!(desk.ids(&["discard", &named[0], "--yes"]), named[..1]);
    assert_eq!(desk.ids(&["list"]), named[1..]);
    assert_eq!(desk.ids(&["replay", "--queue", "purchase", "--rate", "100"]), named[1..]);
    until_it_holds(&world, "licet.purchase", 2).await;
    assert!(desk.ids(&["list"]).is_empty());
    world.start_workers();
    until_it_holds(&world, "licet.dead.purchase", 2).await;
    assert_eq!(desk.ids(&["list"]), named[1..], "what can never be read comes back");
    world.finish().await;
}

/// A row that cannot be makes a rule panic. The message is set aside alone and counted; when the
/// row is as it should be, its replay succeeds, and whoever asked is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_worker_program_counts_what_it_set_aside_and_a_replay_succeeds_once_the_cause_is_gone() {
    let mut world = World::services().await;
    world.start_workers();
    world.put_song(1).await;
    world.stop_workers().await;
    let set_price = async |minor: i64| {
        let sql = format!("UPDATE content SET price_minor = {minor}");
        world.machine.store.reader().execute_unprepared(&sql).await.expect("the row changes");
    };
    set_price(-1).await;
    let (queue, mut replies) = world.listen(&[]).await;
    let id = Uuid::new_v4();
    let mut copy = on_its_last_attempt(message(id, &purchase("alice", 1), Some(&queue)));
    copy.routing_key = "licet.purchase".into();
    copy.properties.headers.insert(topology::HEADER_SENDER.into(), "guest".into());
    world.publish(copy).await;
    let worker = Process::start(&world, "licet-purchase");
    until_it_holds(&world, "licet.dead.purchase", 1).await;
    assert_eq!(worker.terminate(), Some(0));
    let log = std::fs::read_to_string(log_of(&world, "licet-purchase")).expect("its log");
    let last = log.lines().last().expect("a line when it stops");
    for count in ["dropped_replies=0", "delayed=0", "dead_letters=1", "panics=1"] {
        assert!(last.contains(count), "{last}");
    }

    set_price(1000).await;
    let desk = Desk::of(&world);
    assert_eq!(desk.ids(&["replay", &id.to_string()]), [id.to_string()]);
    let _worker = Process::start(&world, "licet-purchase");
    assert_eq!(replies.next().await.properties.kind.as_deref(), Some("certificate.issued"));
    let again = world.client.ask_as(id, &purchase("alice", 1)).await.expect("an answer");
    assert_eq!(verdict(&again), "certificate.issued", "it is the same message still, and no conflict");
    world.finish().await;
}

/// What the broker itself sets aside tells who sent it and as what, and can be replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn what_the_broker_set_aside_can_be_shown_and_replayed() {
    let mut world = World::services().await;
    let (queue, mut replies) = world.listen(&[]).await;
    let id = Uuid::new_v4();
    let mut put = message(id, &Request::ContentPut(song(1)), Some(&queue));
    put.properties.kind = None;
    // What a sender writes into our headers says nothing.
    put.properties.headers.insert(topology::HEADER_SENDER.into(), "mallory".into());
    put.properties.headers.insert("traceparent".into(), "00-ab-cd-01".into());
    world.publish(put).await;
    let (_connection, channel) = raw_channel().await;
    let got = async {
        loop {
            if let Some(got) = channel.basic_get("licet.catalog".into(), Default::default()).await.expect("a queue") {
                return got.delivery;
            }
        }
    };
    let got = tokio::time::timeout(PATIENCE, got).await.expect("in time");
    channel.basic_reject(got.delivery_tag, Default::default()).await.expect("it is rejected");
    until_it_holds(&world, "licet.dead.catalog", 1).await;
    let desk = Desk::of(&world);
    let shown = desk.told(&["show"]);
    let letter = &shown["letters"][0];
    assert_eq!((&letter["type"], &letter["sender"]), (&json!("content.put"), &json!("guest")));
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("rejected")), "{letter}");
    assert_eq!(letter["body"]["request"]["title"], "A song");
    assert_eq!(letter["headers"]["traceparent"], "00-ab-cd-01");
    assert!(letter["failed_at"].is_string(), "{letter}");
    assert_eq!(desk.ids(&["replay", "--newer-than", "1h"]), [id.to_string()]);
    world.start_workers();
    assert_eq!(replies.next().await.properties.kind.as_deref(), Some("content.registered"));
    assert_eq!(world.journal().await[0].sender.as_deref(), Some("guest"));
    world.finish().await;
}
