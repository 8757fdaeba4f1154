//! Worker programs as processes of their own, killed and cut off under load.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt, stream};
use licet_client::{Client, Patience};
use licet_schema::{Format, Output, topology::WORKERS};
use sea_orm::{EntityTrait, PaginatorTrait};

use crate::world::{
    Bought, PATIENCE, World, amqp_url, completion, license_receipt, license_request, program, purchase, receipt,
    verdict,
};

/// A running program. It is killed when the test is done with it.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program on the world's services; what it logs goes to a file in the world's folder.
    pub(crate) fn start(world: &World, name: &str) -> Self {
        let log = File::options().create(true).append(true).open(log_of(world, name)).expect("a log file");
        let child = Command::new(program(name))
            .current_dir(world.folder.path())
            .env("LICET_AMQP_URL", amqp_url())
            .env("LICET_DATABASE_URL", world.database_url.as_deref().expect("a PostgreSQL database"))
            .env("LICET_KEYS", world.folder.path().join("keys"))
            .env("LICET_BATCH_MAX", "16")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.expect("the program starts"))
    }

    /// SIGKILL: no goodbye of any kind.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it is gone");
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.0.wait().expect("it ends").code()
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn log_of(world: &World, name: &str) -> std::path::PathBuf {
    world.folder.path().join(format!("{name}.log"))
}

fn start_all(world: &World) -> Vec<(String, Process)> {
    let names = WORKERS.iter().map(|worker| format!("licet-{}", worker.name));
    names.map(|name| (name.clone(), Process::start(world, &name))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_storm_of_sixty_terminals_on_four_processes_yields_the_three_licenses_of_the_certificate() {
    let world = World::services().await;
    let _others = start_all(&world);
    let _copies: Vec<_> = (0..3).map(|_| Process::start(&world, "licet-license")).collect();
    world.put_song(3).await;
    let bought = world.ready("alice", 1).await;
    let requests = (0..60).map(|terminal| license_request(&bought.tokens[0], &format!("player-{terminal}")));
    let requests: Vec<_> = requests.collect();
    let answers = futures_util::future::join_all(requests.iter().map(|request| world.ask(request))).await;
    let verdicts: Vec<_> = answers.iter().map(verdict).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == "license.issued").count(), 3, "{verdicts:?}");
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == "exhausted").count(), 57, "{verdicts:?}");
    let issued = licet_schema::entity::license::Entity::find().count(world.machine.store.reader()).await;
    assert_eq!(issued.expect("the licenses"), 3);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn workers_killed_in_mid_batch_lose_nothing_and_do_nothing_twice() {
    let mut world = World::services().await;
    // Asks once and never again: whatever a killed worker had in hand must come back by itself.
    let once = Patience { each: PATIENCE * 2, attempts: 1 };
    world.client = Client::connect(&world.machine.transport, Format::Json, once).await.expect("the broker answers");
    let mut workers = start_all(&world);
    world.put_song(1).await;
    let done = AtomicUsize::new(0);
    let mut seed = u64::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().expect("16 bytes"));
    println!("seed {seed}");
    let killing = async {
        // Each time so many purchases are done, one of the workers dies under the rest of the load.
        for round in 1..=15 {
            until(|| done.load(Ordering::SeqCst) >= round * 15).await;
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let victim = usize::try_from(seed >> 33).expect("31 bits") % workers.len();
            let (name, process) = workers.swap_remove(victim);
            process.kill();
            workers.push((name.clone(), Process::start(&world, &name)));
        }
    };
    tokio::join!(drive(&world, 300, &done), killing);
    drop(workers);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ, which it restarts, and PostgreSQL: run tests/run.sh"]
async fn a_broker_restart_in_mid_run_loses_nothing_and_does_nothing_twice() {
    let restart = std::env::var("LICET_TEST_BROKER_RESTART")
        .expect("LICET_TEST_BROKER_RESTART restarts the broker: run tests/run.sh");
    let world = World::services().await;
    let workers = start_all(&world);
    world.put_song(1).await;
    let done = AtomicUsize::new(0);
    let restarting = async {
        until(|| done.load(Ordering::SeqCst) >= 40).await;
        let restarted = tokio::task::spawn_blocking(move || Command::new(restart).stdout(Stdio::null()).status());
        assert!(restarted.await.expect("it runs").expect("it runs").success(), "the broker came back");
        assert!(done.load(Ordering::SeqCst) < 300, "the restart was in mid-run");
    };
    tokio::join!(drive(&world, 300, &done), restarting);
    for (name, process) in workers {
        assert_eq!(process.terminate(), Some(0), "{name} ends cleanly");
        let log = std::fs::read_to_string(log_of(&world, &name)).expect("its log");
        assert_eq!(log.matches("consuming").count(), 2, "{name} came back once: {log}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_client_whose_publisher_alone_is_lost_connects_again() {
    let mut world = World::services().await;
    world.start_workers();
    let patience = Patience { each: std::time::Duration::from_secs(2), attempts: 3 };
    let client = Client::connect(&world.machine.transport, Format::Json, patience).await;
    let client = client.expect("the broker answers");
    // Above the largest message that the private broker takes (1 MiB): it closes the channel for that.
    let huge = vec![b' '; 3 << 20];
    assert!(client.ask_raw(uuid::Uuid::new_v4(), "content.put", huge.into()).await.is_err());
    let answer = client.ask(&licet_schema::Request::ContentPut(crate::world::song(1))).await.expect("an answer");
    assert_eq!(verdict(&answer), "content.registered");
    world.finish().await;
}

/// Lets purchases live their whole lives, 32 at a time; every answer must be the right one.
async fn drive(world: &World, purchases: usize, done: &AtomicUsize) {
    let lives = (0..purchases).map(|index| async move {
        let user = format!("user-{}", index % 20);
        let bought = Bought::of(world.ask(&purchase(&user, 1 + index % 3)).await);
        assert_eq!(verdict(&world.ask(&receipt(&bought)).await), "certificate.accepted");
        assert_eq!(verdict(&world.ask(&completion(&bought)).await), "settlement.registered");
        for token in &bought.tokens {
            let Output::LicenseIssued(issued) = world.ask(&license_request(token, "player")).await else { panic!() };
            let license = issued.license_token.expect("a reply has its token");
            assert_eq!(verdict(&world.ask(&license_receipt(&license)).await), "license.granted");
            if index % 5 == 0 {
                let returned = crate::world::license_return(&license, &user, true);
                assert_eq!(verdict(&world.ask(&returned).await), "license.returned");
            }
        }
        done.fetch_add(1, Ordering::SeqCst);
    });
    stream::iter(lives).buffer_unordered(32).collect::<Vec<()>>().await;
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 3, waiting).await.expect("it comes about in time");
}
