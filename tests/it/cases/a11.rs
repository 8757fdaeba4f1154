//! Case A11: a database that is restored from a backup, and everything that was sent since the
//! backup is sent again.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::{clock::Clock, store::Store};
use licet_schema::{
    ExternalId, Output, Request,
    entity::{certificate_record, collection, entry, license, license_return, settlement, unmatched_settlement},
    message::{Item, PurchaseRequest},
    topology,
};
use sea_orm::{ConnectionTrait, DatabaseBackend};
use uuid::Uuid;

use crate::{
    nodes::postgres::run_client,
    system::{
        Bought, Mailbox, TestSystem, completion, license_receipt, license_request, license_return, name, on_both,
        outcome, receipt,
    },
};

on_both!(
    case_a11_after_a_restore_everything_that_is_sent_again_creates_the_same_ids_and_is_charged_once,
    case_a11_after_a_restore_another_message_under_a_used_id_creates_other_ids,
);

const HOUR_MS: i64 = 3_600_000;

/// A backup of a database.
enum Backup {
    /// The output of `pg_dump`.
    Dump(Vec<u8>),
    /// A copy of the SQLite file.
    File(std::path::PathBuf),
}

impl TestSystem {
    /// Makes a backup of the database, as docs/operations.md describes. On SQLite, the workers must
    /// be stopped.
    async fn back_up(&self) -> Backup {
        if let Some(url) = &self.database_url {
            return Backup::Dump(run_client("pg_dump", &["--format=custom", "--dbname", url], &[]));
        }
        let (file, copy) = (self.folder.path().join("licet.db"), self.folder.path().join("backup.db"));
        // Moves the write-ahead log into the file, as SQLite does when the database is closed.
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.resources.store.pool().execute_unprepared(checkpoint).await.expect("a checkpoint");
        std::fs::copy(file, &copy).expect("a copy");
        Backup::File(copy)
    }

    /// Continues with a database that is restored from the backup.
    async fn restore(&mut self, backup: &Backup) {
        self.resources.store = match backup {
            Backup::Dump(dump) => {
                let (server, _) = self.database_url.as_deref().and_then(|url| url.rsplit_once('/')).expect("a URL");
                let (name, maintenance) =
                    (format!("licet_restored_{}", Uuid::new_v4().simple()), format!("{server}/postgres"));
                let options = ["--encoding=UTF8", "--template=template0", "--maintenance-db", &maintenance, &name];
                run_client("createdb", &options, &[]);
                let url = format!("{server}/{name}");
                run_client("pg_restore", &["--no-owner", "--exit-on-error", "--dbname", &url], dump);
                let store = Store::open(&url.clone().into(), 12).await.expect("the restored database");
                self.database_url = Some(url);
                store
            }
            Backup::File(copy) => {
                let url = format!("sqlite:{}", copy.display());
                Store::open(&url.into(), 1).await.expect("the restored file")
            }
        };
        assert_eq!(self.resources.store.backend() == DatabaseBackend::Postgres, self.database_url.is_some());
        self.resources.store.check(true).await.expect("the tables of this release");
    }
}

/// A message that was sent, and its reply.
struct Sent {
    id: Uuid,
    request: Request,
    reply: Output,
}

/// An upstream system that keeps what it sent.
#[derive(Default)]
struct Upstream {
    sent: Vec<Sent>,
}

impl Upstream {
    async fn ask(&mut self, system: &TestSystem, request: Request) -> Output {
        let id = Uuid::now_v7();
        let reply = system.client.ask_as(id, &request).await.expect("a reply");
        self.sent.push(Sent { id, request, reply: reply.clone() });
        reply
    }

    /// Buys `count` songs under a reference, pays for them, gets a license for the first, and
    /// returns it for points.
    async fn trade(&mut self, system: &TestSystem, reference: &str, count: usize) {
        let bought = Bought::of(self.ask(system, purchase(reference, count)).await);
        assert_eq!(outcome(&self.ask(system, receipt(&bought)).await), "certificate.accepted");
        assert_eq!(outcome(&self.ask(system, completion(&bought)).await), "settlement.registered");
        let issued = self.ask(system, license_request(&bought.tokens[0], "player")).await;
        let Output::LicenseIssued(issued) = issued else { panic!("{issued:?}") };
        let license = issued.license_token.expect("a token");
        assert_eq!(outcome(&self.ask(system, license_receipt(&license)).await), "license.granted");
        let returned = self.ask(system, license_return(&license, "alice", true)).await;
        assert_eq!(outcome(&returned), "license.returned");
    }
}

fn purchase(reference: &str, count: usize) -> Request {
    Request::PurchaseRequest(PurchaseRequest {
        user: name("alice"),
        items: vec![Item { content: name("song"), version: None }; count],
        points: None,
        reference: ExternalId::try_from(reference).ok(),
    })
}

/// The ids in a reply.
fn ids_in(reply: &Output) -> Vec<Uuid> {
    match reply {
        Output::CertificateIssued(body) => {
            body.container.into_iter().chain(body.certificates.iter().map(|one| one.certificate)).collect()
        }
        Output::LicenseIssued(body) => vec![body.license],
        Output::LicenseReturned(body) => vec![body.license_return, body.license],
        _ => Vec::new(),
    }
}

/// The instructions for each reference: the ids of their messages, and the purchases to charge for.
type Instructions = BTreeMap<String, BTreeSet<(String, Uuid)>>;

/// Takes this number of instructions from the queue of the payment provider.
async fn instructions(queue: &mut Mailbox, count: usize) -> Instructions {
    let mut instructions = Instructions::new();
    for _ in 0..count {
        let delivery = queue.next().await;
        let kind = delivery.properties.kind.expect("a type");
        let Ok(Output::SettlementInstructed(body)) = Output::decode(&kind, &delivery.body) else { panic!("{kind}") };
        let purchase = body.container.or(body.certificate).expect("a purchase");
        let reference = body.reference.expect("a reference").to_string();
        let id = delivery.properties.message_id.expect("a message id");
        instructions.entry(reference).or_default().insert((id, purchase));
    }
    instructions
}

/// The ids in the tables that messages create rows in.
async fn created_ids(system: &TestSystem) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    ids.extend(system.rows::<certificate_record::Entity>().await.iter().map(|row| format!("certificate {}", row.id)));
    ids.extend(system.rows::<license::Entity>().await.iter().map(|row| format!("license {}", row.id)));
    ids.extend(system.rows::<license_return::Entity>().await.iter().map(|row| format!("return {}", row.id)));
    ids.extend(system.rows::<collection::Entity>().await.iter().map(|row| format!("collection {}", row.license)));
    ids.extend(system.rows::<entry::Entity>().await.iter().map(|row| format!("entry {} {}", row.id, row.delta)));
    ids.extend(system.rows::<settlement::Entity>().await.iter().map(|row| format!("{}", row.provider_reference)));
    ids
}

async fn case_a11_after_a_restore_everything_that_is_sent_again_creates_the_same_ids_and_is_charged_once(
    mut system: TestSystem,
) {
    // Message ids contain the current time, so the workers need it, too.
    system.resources.clock = Clock::ahead();
    system.put_song_with_workers().await;
    let consumer = system.resources.transport.consume(topology::INSTRUCTED, 1000).await.expect("the queue");
    let mut provider = Mailbox::of(consumer);
    Upstream::default().trade(&system, "order-before", 1).await;
    instructions(&mut provider, 1).await;
    system.stop_workers().await;
    let backup = system.back_up().await;
    system.start_workers();

    let mut upstream = Upstream::default();
    for number in 0..6 {
        upstream.trade(&system, &format!("order-{number}"), 1 + number % 3).await;
    }
    let instructed = instructions(&mut provider, 6).await;
    let created = created_ids(&system).await;
    system.stop_workers().await;

    system.restore(&backup).await;
    assert!(created_ids(&system).await.len() < created.len(), "the backup is older than the trade");
    // A decision after the restore has another time.
    system.resources.clock.advance_ms(2 * HOUR_MS);
    system.start_workers();
    for Sent { id, request, reply } in &upstream.sent {
        let again = system.client.ask_as(*id, request).await.expect("a reply");
        assert_eq!(outcome(&again), outcome(reply), "{request:?}: {again:?}");
        assert_eq!(ids_in(&again), ids_in(reply), "{request:?}");
    }
    assert_eq!(instructions(&mut provider, 6).await, instructed, "a provider that deduplicates charges once");
    assert_eq!(created_ids(&system).await, created);
    let unmatched = system.rows::<unmatched_settlement::Entity>().await;
    assert!(unmatched.is_empty(), "{unmatched:?}");
    system.finish().await;
}

async fn case_a11_after_a_restore_another_message_under_a_used_id_creates_other_ids(mut system: TestSystem) {
    system.resources.clock = Clock::ahead();
    system.put_song_with_workers().await;
    system.stop_workers().await;
    let backup = system.back_up().await;
    system.start_workers();
    let (v7, v4) = (Uuid::now_v7(), Uuid::new_v4());
    let ask = async |system: &TestSystem, id, reference: &str| {
        ids_in(&system.client.ask_as(id, &purchase(reference, 1)).await.expect("a reply"))
    };
    let (first, with_v4) = (ask(&system, v7, "order-1").await, ask(&system, v4, "order-1").await);
    system.stop_workers().await;

    system.restore(&backup).await;
    system.resources.clock.advance_ms(HOUR_MS);
    system.start_workers();
    let other = ask(&system, v7, "order-2").await;
    assert_eq!((first.len(), other.len()), (1, 1));
    assert_ne!(other, first);
    assert_ne!(ask(&system, v4, "order-1").await, with_v4, "a UUIDv4 contains no time");
    system.finish().await;
}
