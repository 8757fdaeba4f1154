//! The client terminal over a whole Licet: what it holds, what it does with it, and what it does not
//! take.

mod crashes;

use std::{path::PathBuf, time::Duration};

use licet_client::{
    Client, Keyring, Patience,
    terminal::{Bought, Fetched, Outcome, Resumed, Return, Standing, Store, Terminal, TerminalError},
};
use licet_common::transport::{Consumer, Outgoing, Properties};
use licet_schema::{
    Code, Count, Format, Output, Request, Text, Version,
    message::{
        CertificateReissue, ContentPut, ContentVersion, Instruction, Item, Media, Privilege, PurchaseRequest,
        ReturnPolicy,
    },
    topology,
};
use licet_workers::registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{PATIENCE, World, completion, name, on_both, song, usd};

on_both!(
    the_whole_story_is_played_on_one_terminal,
    an_upgrade_brings_the_certificate_of_the_successor,
    a_content_that_does_not_come_keeps_its_license_from_being_acknowledged,
    an_altered_token_is_not_kept_and_the_true_one_is_taken_later,
    a_license_that_was_revoked_on_its_way_is_not_kept,
);

/// A terminal of the world's, over the one folder that it has.
async fn terminal(world: &World, patience: Patience) -> Terminal {
    let client = Client::connect(&world.machine.transport, Format::Json, patience).await.expect("the broker answers");
    let keyring = Keyring::from_jwks(&world.keyring().jwks()).expect("published keys");
    let store = Store::open(&world.folder.path().join("terminal")).expect("a folder that nobody else has");
    Terminal::new(client, keyring, store, Some(name("player")))
}

/// One that waits as long as it takes.
async fn patient(world: &World) -> Terminal {
    terminal(world, Patience { each: Duration::from_secs(5), attempts: 12 }).await
}

/// Workers of these names alone.
struct Workers(CancellationToken, JoinHandle<()>);

impl Workers {
    fn start(world: &World, names: &[&'static str]) -> Self {
        let (machine, stop, names) = (world.machine.clone(), CancellationToken::new(), names.to_vec());
        let told = stop.clone();
        Self(stop, tokio::spawn(async move { registry::start_some(names.into_iter(), &machine, &told).await }))
    }

    /// All but these.
    fn start_without(world: &World, absent: &[&str]) -> Self {
        let names: Vec<_> = topology::WORKERS.iter().map(|worker| worker.name).collect();
        Self::start(world, &names.into_iter().filter(|name| !absent.contains(name)).collect::<Vec<_>>())
    }

    async fn stop(self) {
        self.0.cancel();
        tokio::time::timeout(PATIENCE, self.1).await.expect("workers stop in time").expect("no worker panicked");
    }
}

/// A song in two versions: the first is taken back for points or for the second.
async fn put_songs(world: &World) {
    let second = Version::try_from(2i64).expect("a version");
    let policy = ReturnPolicy { upgrade: Some(true), ..song(1).return_policy };
    let successor = Some(ContentVersion { content: name("song"), version: second });
    for put in [ContentPut { version: second, ..song(1) }, ContentPut { successor, return_policy: policy, ..song(2) }] {
        let put = world.ask(&Request::ContentPut(put)).await;
        assert!(matches!(put, Output::ContentRegistered(_)), "{put:?}");
    }
}

fn first_version(count: usize) -> PurchaseRequest {
    let item = Item { content: name("song"), version: Version::try_from(1i64).ok() };
    PurchaseRequest { user: name("alice"), items: vec![item; count], points: None, reference: None }
}

/// A file with a content in it, and what is told of it.
fn work(world: &World) -> (PathBuf, Media) {
    let path = world.folder.path().join("song.ogg");
    std::fs::write(&path, "la la la").expect("a file");
    let uri = Text::try_from(format!("file://{}", path.display())).expect("a text");
    let sha256 = Text::try_from("d488288a90852227c137cc78556c8f55fe20c052d61df3b4987643b42def93c3").expect("a text");
    (path, Media { uri, sha256, bytes: Count::try_from(8i64).expect("a count") })
}

/// Pays for what a terminal bought.
async fn pay(world: &World, bought: &Bought) {
    let (certificates, container) = (bought.certificates.clone(), bought.container);
    let due =
        crate::world::Bought { certificates, container, amount: bought.amount, tokens: vec![], container_token: None };
    let answer = world.ask(&completion(&due)).await;
    assert!(matches!(answer, Output::SettlementRegistered(_)), "{answer:?}");
}

/// Bought and paid for; the terminal has its license.
async fn licensed(world: &World, terminal: &mut Terminal, media: Option<Media>) -> (Uuid, Uuid) {
    let bought = terminal.buy(first_version(1)).await.expect("certificates");
    pay(world, &bought).await;
    let certificate = bought.certificates[0];
    (certificate, license_of(terminal.fetch(certificate, media).await.expect("a license")))
}

fn license_of(fetched: Fetched) -> Uuid {
    let Fetched::Here { license, .. } = fetched else { panic!("no license: {fetched:?}") };
    license
}

fn standings(terminal: &Terminal) -> Vec<Standing> {
    terminal.store().certificates().expect("readable").iter().map(|one| one.standing).collect()
}

/// The one thing that was gone on with.
fn only(resumed: Vec<Result<Resumed, TerminalError>>) -> Result<Resumed, TerminalError> {
    assert_eq!(resumed.len(), 1, "{resumed:?}");
    resumed.into_iter().next().expect("one")
}

fn brought(returned: &Return) -> Option<i64> {
    let Some(Outcome::Returned(privilege)) = &returned.outcome else { panic!("not returned: {returned:?}") };
    privilege.points.map(Count::get)
}

async fn the_whole_story_is_played_on_one_terminal(mut world: World) {
    world.start_workers();
    put_songs(&world).await;
    let (work, media) = work(&world);
    let mut terminal = patient(&world).await;
    let alone = terminal.buy(first_version(1)).await.expect("a certificate");
    let together = terminal.buy(first_version(2)).await.expect("a container");
    assert_eq!((alone.settlement, together.container.is_some()), (Instruction::Instructed, true));
    assert_eq!((alone.amount, together.amount), (usd(1000), usd(2000)));
    assert_eq!(terminal.wanted().expect("readable").len(), 3);
    assert_eq!(terminal.fetch(alone.certificates[0], None).await.expect("an answer"), Fetched::NotPaid);

    play_provider(&world, &[&alone, &together]).await;
    for certificate in terminal.wanted().expect("readable") {
        let fetched = terminal.fetch(certificate, Some(media.clone())).await.expect("a license");
        let Fetched::Here { license, content: Some(content) } = fetched else { panic!("no content: {fetched:?}") };
        assert_eq!(std::fs::read(&content).expect("the copy"), std::fs::read(&work).expect("the work"));
        assert_eq!(terminal.store().content(license), Some(content));
    }
    assert!(terminal.wanted().expect("readable").is_empty());
    assert!(terminal.resume().await.expect("readable").is_empty(), "nothing is left undone");

    let licenses = terminal.store().licenses().expect("readable");
    assert!(licenses.iter().all(|one| one.received && one.claims.terminal == Some(name("player"))));
    let same = terminal.fetch(licenses[0].claims.certificate, None).await.expect("what is here");
    assert_eq!(license_of(same), licenses[0].claims.jti, "no second license is taken");
    for license in &licenses {
        let returned = terminal.give_back(license.claims.jti, Privilege::Points).await.expect("points");
        assert_eq!(brought(&returned), Some(40));
        let again = terminal.give_back(license.claims.jti, Privilege::Points).await.expect("told again");
        assert_eq!(again.license_return, returned.license_return);
    }
    assert!(terminal.store().licenses().expect("readable").is_empty());
    assert!(terminal.wanted().expect("readable").is_empty(), "what was given back is not wished for again");
    assert_eq!(terminal.store().returns().expect("readable").len(), 3);
    let another = terminal.fetch(alone.certificates[0], None).await.expect("its second grant");
    assert!(matches!(another, Fetched::Here { content: None, .. }), "{another:?}");
    let certificates = terminal.store().certificates().expect("readable");
    let used_up = certificates.iter().filter(|one| one.standing == Standing::Ended(Code::Exhausted));
    assert_eq!(used_up.map(|one| one.claims.jti).collect::<Vec<_>>(), alone.certificates);
    world.finish().await;
}

/// The trial provider pays for these, and goes.
async fn play_provider(world: &World, purchases: &[&Bought]) {
    let (_, mut settled) = world.listen(&[(topology::EVENTS, "settlement.registered")]).await;
    let (transport, client, stop) = (world.machine.transport.clone(), world.client.clone(), CancellationToken::new());
    let told = stop.clone();
    let provider =
        tokio::spawn(
            async move { licet_client::provide(&transport, &client, licet_client::Charges::Succeed, &told).await },
        );
    for _ in purchases {
        settled.next().await;
    }
    stop.cancel();
    provider.await.expect("the provider stops");
}

async fn an_upgrade_brings_the_certificate_of_the_successor(mut world: World) {
    world.start_workers();
    put_songs(&world).await;
    let mut terminal = patient(&world).await;
    let (_, license) = licensed(&world, &mut terminal, None).await;
    terminal.give_back(license, Privilege::Upgrade).await.expect("an upgrade");
    let wanted = terminal.wanted().expect("readable");
    let [upgrade] = wanted[..] else { panic!("one certificate is new: {wanted:?}") };
    let held = terminal.store().certificates().expect("readable");
    let held = held.iter().find(|one| one.claims.jti == upgrade).expect("it is held");
    assert_eq!((held.claims.version.get(), held.standing), (2, Standing::Received));
    license_of(terminal.fetch(upgrade, None).await.expect("its license"));
    world.finish().await;
}

async fn a_content_that_does_not_come_keeps_its_license_from_being_acknowledged(mut world: World) {
    world.start_workers();
    put_songs(&world).await;
    let (work, media) = work(&world);
    let mut terminal = patient(&world).await;
    let bought = terminal.buy(first_version(1)).await.expect("a certificate");
    pay(&world, &bought).await;
    std::fs::write(&work, "la la lo").expect("another work");
    let error = terminal.fetch(bought.certificates[0], Some(media.clone())).await.expect_err("another content");
    assert!(matches!(error, TerminalError::Media(_)), "{error}");
    let kept = terminal.store().licenses().expect("readable").remove(0);
    assert!(!kept.received && terminal.store().content(kept.claims.jti).is_none());
    drop(terminal);

    std::fs::write(&work, "la la la").expect("the work");
    let mut terminal = patient(&world).await;
    let resumed = only(terminal.resume().await.expect("readable")).expect("it is there now");
    let Resumed::Fetched { fetched: Fetched::Here { license, content }, .. } = resumed else { panic!("{resumed:?}") };
    assert_eq!((license, content.is_some()), (kept.claims.jti, true));
    world.finish().await;
}

async fn an_altered_token_is_not_kept_and_the_true_one_is_taken_later(mut world: World) {
    let workers = Workers::start(&world, &["catalog"]);
    put_songs(&world).await;
    let queue = world.machine.transport.consume(&topology::work_queue("purchase"), 1).await.expect("its queue");
    let mut terminal = patient(&world).await;
    let (taken, ()) = tokio::join!(terminal.buy(first_version(1)), answer_altered(&world, queue));
    assert!(matches!(taken, Err(TerminalError::Token { what: "certificate", .. })), "{taken:?}");
    assert!(terminal.store().certificates().expect("readable").is_empty());
    workers.stop().await;

    world.start_workers();
    let Ok(Resumed::Bought(bought)) = only(terminal.resume().await.expect("readable")) else { panic!("not resumed") };
    assert_eq!(standings(&terminal), [Standing::Received]);
    assert_eq!(bought.certificates, [terminal.store().certificates().expect("readable")[0].claims.jti]);
    world.finish().await;
}

/// Answers a purchase as somebody would who cannot sign, and gives the request back to its queue.
async fn answer_altered(world: &World, mut queue: Consumer) {
    let request = queue.receive(1, usize::MAX).await.expect("the broker stays").remove(0);
    let (certificate, user) = (Uuid::new_v4(), "alice");
    let claims = licet_client::CertificateClaims {
        iss: "licet".into(),
        jti: certificate,
        sub: name(user),
        content: name("song"),
        version: Version::try_from(1i64).expect("a version"),
        generation: 1,
        iat: 1,
        exp: 2,
        container: None,
    };
    let draft = licet_common::signing::Draft::certificate(&claims).expect("a draft");
    let mut token = draft.sign(world.keyring()).expect("a token").token;
    token.truncate(token.len() - 4);
    let body = serde_json::json!({
        "certificates": [{"certificate": certificate, "certificate_token": token}],
        "amount": {"amount_minor": 1000, "currency": "USD"}, "points_held": 0,
        "receipt_due_at": "2023-11-15T22:13:20Z", "expires_at": "2023-12-14T22:13:20Z",
    });
    world
        .publish(Outgoing {
            exchange: String::new(),
            routing_key: request.properties.reply_to.clone().expect("a queue for the reply"),
            mandatory: true,
            properties: Properties {
                correlation_id: request.properties.correlation_id.clone(),
                kind: Some("certificate.issued".into()),
                content_type: Some("application/json".into()),
                ..Properties::default()
            },
            body: body.to_string().into(),
        })
        .await;
    queue.close().await;
}

async fn a_license_that_was_revoked_on_its_way_is_not_kept(mut world: World) {
    world.start_workers();
    put_songs(&world).await;
    let mut terminal = patient(&world).await;
    let bought = terminal.buy(first_version(1)).await.expect("a certificate");
    pay(&world, &bought).await;
    let certificate = bought.certificates[0];
    let (path, media) = work(&world);
    std::fs::remove_file(path).expect("the work is not to be had");
    terminal.fetch(certificate, Some(media)).await.expect_err("no content, so no reception");
    let reissue = Request::CertificateReissue(CertificateReissue {
        certificate,
        reason: Text::try_from("lost").expect("a text"),
        granted: None,
    });
    let reissued = world.ask(&reissue).await;
    assert!(matches!(reissued, Output::CertificateReissued(_)), "{reissued:?}");
    work(&world);
    let error = only(terminal.resume().await.expect("readable")).expect_err("revoked");
    assert_eq!(error.refusal(), Some(Code::Superseded), "{error}");
    assert!(terminal.store().licenses().expect("readable").is_empty());
    assert_eq!(terminal.fetch(certificate, None).await.expect("an answer"), Fetched::Ended(Code::Superseded));
    world.finish().await;
}
