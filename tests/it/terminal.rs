//! The client terminal with a complete Licet system: the data that it stores, the operations that
//! it performs, and the data that it rejects.

mod crashes;

use std::{path::PathBuf, time::Duration};

use licet_client::{
    CertificateClaims, Client, Keyring, Patience,
    terminal::{Bought, Fetched, Outcome, Resumed, Return, Standing, Store, Terminal, TerminalError},
};
use licet_common::{
    signing::Draft,
    transport::{Consumer, Outgoing, Properties},
};
use licet_schema::{
    Code, Count, Output, Request, Text,
    encoding::CONTENT_TYPE,
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

use crate::system::{TIMEOUT, TestSystem, completion, name, on_both, song, usd, version};

on_both!(
    the_whole_lifecycle_runs_on_one_terminal,
    an_upgrade_yields_a_certificate_of_the_successor,
    a_license_whose_content_cannot_be_downloaded_is_not_acknowledged,
    an_altered_token_is_not_stored_and_the_valid_token_is_stored_later,
    a_license_that_was_revoked_before_its_acknowledgement_is_deleted,
);

/// A terminal that uses the system's only terminal folder.
async fn terminal(system: &TestSystem, patience: Patience) -> Terminal {
    let client = Client::connect(&system.resources.transport, patience).await.expect("the broker answers");
    let keyring = Keyring::from_jwks(&system.keyring().jwks()).expect("published keys");
    let store = Store::open(&system.folder.path().join("terminal")).expect("no other terminal has the folder");
    Terminal::new(client, keyring, store, Some(name("player")))
}

/// A terminal that waits up to a minute for a reply.
async fn patient(system: &TestSystem) -> Terminal {
    terminal(system, Patience { each: Duration::from_secs(5), attempts: 12 }).await
}

/// Some of the workers, running in this process.
struct Workers(CancellationToken, JoinHandle<()>);

impl Workers {
    fn start(system: &TestSystem, names: &[&'static str]) -> Self {
        let workers: Vec<_> = names.iter().map(|name| registry::find(name).expect("a worker")).collect();
        let (resources, stop) = (system.resources.clone(), CancellationToken::new());
        let stopped = stop.clone();
        Self(stop, tokio::spawn(async move { registry::run_workers(workers, &resources, &stopped).await }))
    }

    /// Starts all workers except these.
    fn start_without(system: &TestSystem, absent: &[&str]) -> Self {
        Self::start(system, &registry::names().filter(|name| !absent.contains(name)).collect::<Vec<_>>())
    }

    async fn stop(self) {
        self.0.cancel();
        tokio::time::timeout(TIMEOUT, self.1).await.expect("workers stop in time").expect("no worker panicked");
    }
}

/// Registers two versions of the song. A license of the first version can be returned for points or
/// for an upgrade to the second.
async fn put_songs(system: &TestSystem) {
    let policy = ReturnPolicy { upgrade: Some(true), ..song(1).return_policy };
    let successor = Some(ContentVersion { content: name("song"), version: version(2) });
    for put in
        [ContentPut { version: version(2), ..song(1) }, ContentPut { successor, return_policy: policy, ..song(2) }]
    {
        let reply = system.ask(&Request::ContentPut(put)).await;
        assert!(matches!(reply, Output::ContentRegistered(_)), "{reply:?}");
    }
}

fn first_version(count: usize) -> PurchaseRequest {
    let item = Item { content: name("song"), version: Some(version(1)) };
    PurchaseRequest { user: name("alice"), items: vec![item; count], points: None, reference: None }
}

/// A content file, and its description for the terminal.
fn content_file(system: &TestSystem) -> (PathBuf, Media) {
    let path = system.folder.path().join("song.ogg");
    std::fs::write(&path, "la la la").expect("a file");
    let uri = Text::try_from(format!("file://{}", path.display())).expect("a text");
    let sha256 = Text::try_from("d488288a90852227c137cc78556c8f55fe20c052d61df3b4987643b42def93c3").expect("a text");
    (path, Media { uri, sha256, bytes: Count::try_from(8i64).expect("a count") })
}

/// Pays for a purchase that a terminal made.
async fn pay(system: &TestSystem, bought: &Bought) {
    let (certificates, container) = (bought.certificates.clone(), bought.container);
    let due =
        crate::system::Bought { certificates, container, amount: bought.amount, tokens: vec![], container_token: None };
    let reply = system.ask(&completion(&due)).await;
    assert!(matches!(reply, Output::SettlementRegistered(_)), "{reply:?}");
}

/// Buys a certificate, pays for it and fetches a license. Returns the certificate and the license.
async fn licensed(system: &TestSystem, terminal: &mut Terminal, media: Option<Media>) -> (Uuid, Uuid) {
    let bought = terminal.buy(first_version(1)).await.expect("certificates");
    pay(system, &bought).await;
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

/// The only operation that was resumed.
fn only(resumed: Vec<Result<Resumed, TerminalError>>) -> Result<Resumed, TerminalError> {
    assert_eq!(resumed.len(), 1, "{resumed:?}");
    resumed.into_iter().next().expect("one")
}

fn points_of(returned: &Return) -> Option<i64> {
    let Some(Outcome::Returned(privilege)) = &returned.outcome else { panic!("not returned: {returned:?}") };
    privilege.points.map(Count::get)
}

async fn the_whole_lifecycle_runs_on_one_terminal(mut system: TestSystem) {
    system.start_workers();
    put_songs(&system).await;
    let (original, media) = content_file(&system);
    let mut terminal = patient(&system).await;
    let single = terminal.buy(first_version(1)).await.expect("a certificate");
    let together = terminal.buy(first_version(2)).await.expect("a container");
    assert_eq!((single.settlement, together.container.is_some()), (Instruction::Instructed, true));
    assert_eq!((single.amount, together.amount), (usd(1000), usd(2000)));
    assert_eq!(terminal.wanted().expect("readable").len(), 3);
    assert_eq!(terminal.fetch(single.certificates[0], None).await.expect("a reply"), Fetched::NotPaid);

    run_provider(&system, &[&single, &together]).await;
    for certificate in terminal.wanted().expect("readable") {
        let fetched = terminal.fetch(certificate, Some(media.clone())).await.expect("a license");
        let Fetched::Here { license, content: Some(content) } = fetched else { panic!("no content: {fetched:?}") };
        assert_eq!(std::fs::read(&content).expect("the copy"), std::fs::read(&original).expect("the original"));
        assert_eq!(terminal.store().content(license), Some(content));
    }
    assert!(terminal.wanted().expect("readable").is_empty());
    assert!(terminal.resume().await.expect("readable").is_empty(), "every operation is complete");

    let licenses = terminal.store().licenses().expect("readable");
    assert!(licenses.iter().all(|one| one.received && one.claims.terminal == Some(name("player"))));
    let same = terminal.fetch(licenses[0].claims.certificate, None).await.expect("the stored license");
    assert_eq!(license_of(same), licenses[0].claims.jti, "no second license is requested");
    for license in &licenses {
        let returned = terminal.give_back(license.claims.jti, Privilege::Points).await.expect("points");
        assert_eq!(points_of(&returned), Some(40));
        let again = terminal.give_back(license.claims.jti, Privilege::Points).await.expect("the same return");
        assert_eq!(again.license_return, returned.license_return);
    }
    assert!(terminal.store().licenses().expect("readable").is_empty());
    assert!(terminal.wanted().expect("readable").is_empty(), "a returned license is not requested again");
    assert_eq!(terminal.store().returns().expect("readable").len(), 3);
    let another = terminal.fetch(single.certificates[0], None).await.expect("its second grant");
    assert!(matches!(another, Fetched::Here { content: None, .. }), "{another:?}");
    let certificates = terminal.store().certificates().expect("readable");
    let exhausted = certificates.iter().filter(|one| one.standing == Standing::Ended(Code::Exhausted));
    assert_eq!(exhausted.map(|one| one.claims.jti).collect::<Vec<_>>(), single.certificates);
    system.finish().await;
}

/// Runs the trial provider until it has paid for these purchases.
async fn run_provider(system: &TestSystem, purchases: &[&Bought]) {
    let (_, mut settled) = system.listen(&[(topology::EVENTS, "settlement.registered")]).await;
    let (transport, client) = (system.resources.transport.clone(), system.client.clone());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let provider = tokio::spawn(async move {
        licet_client::provide(&transport, &client, licet_client::Charges::Succeed, &stopped).await;
    });
    for _ in purchases {
        settled.next().await;
    }
    stop.cancel();
    provider.await.expect("the provider stops");
}

async fn an_upgrade_yields_a_certificate_of_the_successor(mut system: TestSystem) {
    system.start_workers();
    put_songs(&system).await;
    let mut terminal = patient(&system).await;
    let (_, license) = licensed(&system, &mut terminal, None).await;
    terminal.give_back(license, Privilege::Upgrade).await.expect("an upgrade");
    let wanted = terminal.wanted().expect("readable");
    let [upgrade] = wanted[..] else { panic!("not one new certificate: {wanted:?}") };
    let certificates = terminal.store().certificates().expect("readable");
    let certificate = certificates.iter().find(|one| one.claims.jti == upgrade).expect("it is stored");
    assert_eq!((certificate.claims.version.get(), certificate.standing), (2, Standing::Received));
    license_of(terminal.fetch(upgrade, None).await.expect("its license"));
    system.finish().await;
}

async fn a_license_whose_content_cannot_be_downloaded_is_not_acknowledged(mut system: TestSystem) {
    system.start_workers();
    put_songs(&system).await;
    let (original, media) = content_file(&system);
    let mut terminal = patient(&system).await;
    let bought = terminal.buy(first_version(1)).await.expect("a certificate");
    pay(&system, &bought).await;
    std::fs::write(&original, "la la lo").expect("another content");
    let error = terminal.fetch(bought.certificates[0], Some(media.clone())).await.expect_err("another content");
    assert!(matches!(error, TerminalError::Media(_)), "{error}");
    let stored = terminal.store().licenses().expect("readable").remove(0);
    assert!(!stored.received && terminal.store().content(stored.claims.jti).is_none());
    drop(terminal);

    std::fs::write(&original, "la la la").expect("the right content");
    let mut terminal = patient(&system).await;
    let resumed = only(terminal.resume().await.expect("readable")).expect("the content is downloaded");
    let Resumed::Fetched { fetched: Fetched::Here { license, content }, .. } = resumed else { panic!("{resumed:?}") };
    assert_eq!((license, content.is_some()), (stored.claims.jti, true));
    system.finish().await;
}

async fn an_altered_token_is_not_stored_and_the_valid_token_is_stored_later(mut system: TestSystem) {
    let workers = Workers::start(&system, &["catalog"]);
    put_songs(&system).await;
    let queue = system.resources.transport.consume(&topology::work_queue("purchase"), 1).await.expect("its queue");
    let mut terminal = patient(&system).await;
    let (bought, ()) = tokio::join!(terminal.buy(first_version(1)), reply_with_altered_token(&system, queue));
    assert!(matches!(bought, Err(TerminalError::Token { what: "certificate", .. })), "{bought:?}");
    assert!(terminal.store().certificates().expect("readable").is_empty());
    workers.stop().await;

    system.start_workers();
    let Ok(Resumed::Bought(bought)) = only(terminal.resume().await.expect("readable")) else { panic!("not resumed") };
    assert_eq!(standings(&terminal), [Standing::Received]);
    assert_eq!(bought.certificates, [terminal.store().certificates().expect("readable")[0].claims.jti]);
    system.finish().await;
}

/// Replies to a purchase request with a token whose signature is not valid, and returns the request
/// to its queue.
async fn reply_with_altered_token(system: &TestSystem, mut queue: Consumer) {
    let request = queue.receive(1, usize::MAX).await.expect("the connection stays open").remove(0);
    let certificate = Uuid::new_v4();
    let claims = CertificateClaims {
        iss: "licet".into(),
        jti: certificate,
        sub: name("alice"),
        content: name("song"),
        version: version(1),
        generation: 1,
        iat: 1,
        exp: 2,
        container: None,
    };
    let mut token = Draft::new(&claims).and_then(|draft| draft.sign(system.keyring())).expect("a token").token;
    token.truncate(token.len() - 4);
    let body = serde_json::json!({
        "certificates": [{"certificate": certificate, "certificate_token": token}],
        "amount": {"amount_minor": 1000, "currency": "USD"}, "points_held": 0,
        "receipt_due_at": "2023-11-15T22:13:20Z", "expires_at": "2023-12-14T22:13:20Z",
    });
    system
        .publish(Outgoing {
            exchange: String::new(),
            routing_key: request.properties.reply_to.clone().expect("a queue for the reply"),
            mandatory: true,
            properties: Properties {
                correlation_id: request.properties.correlation_id.clone(),
                kind: Some("certificate.issued".into()),
                content_type: Some(CONTENT_TYPE.into()),
                ..Properties::default()
            },
            body: body.to_string().into(),
        })
        .await;
    queue.close().await;
}

async fn a_license_that_was_revoked_before_its_acknowledgement_is_deleted(mut system: TestSystem) {
    system.start_workers();
    put_songs(&system).await;
    let mut terminal = patient(&system).await;
    let bought = terminal.buy(first_version(1)).await.expect("a certificate");
    pay(&system, &bought).await;
    let certificate = bought.certificates[0];
    let (path, media) = content_file(&system);
    std::fs::remove_file(path).expect("the file is removed");
    terminal.fetch(certificate, Some(media)).await.expect_err("no content, so no acknowledgement");
    let reissue = Request::CertificateReissue(CertificateReissue {
        certificate,
        reason: Text::try_from("lost").expect("a text"),
        granted: None,
    });
    let reply = system.ask(&reissue).await;
    assert!(matches!(reply, Output::CertificateReissued(_)), "{reply:?}");
    content_file(&system);
    let error = only(terminal.resume().await.expect("readable")).expect_err("the license is revoked");
    assert_eq!(error.refusal(), Some(Code::Superseded), "{error}");
    assert!(terminal.store().licenses().expect("readable").is_empty());
    assert_eq!(terminal.fetch(certificate, None).await.expect("a reply"), Fetched::Ended(Code::Superseded));
    system.finish().await;
}
