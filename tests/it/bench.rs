//! `licet bench` as a program: every mode comes to its end and says what it measured. How fast it is
//! is not judged here.

use std::fs;

use licet_schema::topology;
use serde_json::Value;

use crate::{
    nodes::rabbit::Rabbit,
    programs::{fails, run},
    world::{World, amqp_url},
};

const SHORT: [&str; 7] = ["--rounds", "1", "--seconds", "1", "--warm-up", "0", "--json"];

fn bench(world: &World, mode: &[&str]) -> Value {
    let arguments: Vec<_> = ["bench"].iter().chain(mode).chain(&SHORT).copied().collect();
    let (amqp, database) = (amqp_url(), world.database_url.clone().expect("a PostgreSQL database"));
    let settings = [("LICET_AMQP_URL", amqp.as_str()), ("LICET_DATABASE_URL", database.as_str())];
    let output = run("licet", &arguments, &settings, world.folder.path());
    assert!(output.status.success(), "{mode:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[track_caller]
fn all_went(report: &Value, whats: &[&str]) {
    let runs = report["runs"].as_array().expect("runs");
    let seen: Vec<_> = runs.iter().map(|run| format!("{} {}", run["what"], run["load"]).replace('"', "")).collect();
    assert_eq!(seen, whats);
    for run in runs {
        assert!(run["lifecycles"].as_u64().expect("a number") > 0, "{run}");
        assert!(run["cpu_ms"]["driver"].as_f64().expect("a number") >= 0.0, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn licet_is_measured_between_two_ceilings_and_leaves_nothing_behind() {
    let world = World::services().await;
    let chart = world.folder.path().join("chart.svg");
    let report = bench(&world, &["full", "--returns", "--in-flight", "16", "--svg", chart.to_str().expect("a name")]);
    let three = ["peak", "schedule", "alone"];
    let of = |what: &str| three.map(|load| format!("{what} {load}"));
    let whats: Vec<_> = ["ceiling peak".to_owned()].into_iter().chain(of("full")).chain(of("ceiling")).collect();
    all_went(&report, &whats.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(report["machine"]["PostgreSQL fsync"], "on");
    let ratios = report["ratios"].as_array().expect("ratios");
    assert!(ratios.len() == 5 && ratios.iter().all(|ratio| ratio["median"].as_f64() > Some(0.0)), "{ratios:?}");
    let full = &report["runs"][1];
    assert!(full["requests"]["license.return"]["p999_us"].as_u64() > Some(0), "{full}");
    assert!(full["resident_mb"]["purchase"].as_f64() > Some(1.0), "{full}");
    assert!(fs::read_to_string(&chart).expect("a chart").ends_with("</svg>\n"));
    for worker in topology::WORKERS {
        let queue = topology::work_queue(worker.name);
        assert_eq!(world.machine.transport.depth(&queue).await.expect("the queue"), 0, "{queue}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn a_large_database_is_made_and_measured_in_turn_with_an_empty_one() {
    let world = World::services().await;
    let report = bench(&world, &["growth", "--certificates", "2000", "--journal", "4000", "--in-flight", "16"]);
    all_went(&report, &["empty peak", "large peak", "empty peak"]);
    let size = report["machine"]["table journal"].as_str().expect("its size");
    let rows: u32 = size.split(' ').next().and_then(|rows| rows.parse().ok()).expect("a number of rows");
    // PostgreSQL counts those that the measurement added whenever it vacuums, perhaps by now.
    assert!(rows >= 4000, "{size}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn copies_and_queues_and_nodes_are_measured_each_against_one_at_our_own_broker() {
    let world = World::services().await;
    let cluster = Rabbit::cluster();
    let nodes: Vec<_> = cluster.iter().map(|node| format!("--node={}", Rabbit::url(node.port, 10))).collect();
    let chosen = ["scale", "--in-flight", "16", "--copies", "1,2", "--worker", "reception", "--partitions", "2"];
    let mode: Vec<_> = chosen.into_iter().chain(nodes.iter().map(String::as_str)).collect();
    let report = bench(&world, &mode);
    let whats = ["1 copy", "2 copies", "ceiling", "ceiling, 2 partitions", "ceiling, 3 nodes", "full, 3 nodes"];
    all_went(&report, &whats.map(|what| format!("{what} peak")).each_ref().map(String::as_str));
    let ratios = report["ratios"].as_array().expect("ratios");
    let names: Vec<_> = ratios.iter().filter_map(|ratio| ratio["name"].as_str()).collect();
    assert!(names.contains(&"2 copies / 1 copy, lifecycles/s"), "{names:?}");
    assert!(names.contains(&"full, 3 nodes / 1 copy, CPU per lifecycle"), "{names:?}");
    assert!(ratios.iter().all(|ratio| ratio["median"].as_f64() > Some(0.0) && ratio["met"].is_null()), "{ratios:?}");
    world.machine.transport.depth("licet.bench.purchase.1").await.expect_err("the queue is gone");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn nothing_is_measured_where_others_work() {
    let mut world = World::services().await;
    world.put_song_with_workers().await;
    let (amqp, database) = (amqp_url(), world.database_url.clone().expect("a PostgreSQL database"));
    let settings = [("LICET_AMQP_URL", amqp.as_str()), ("LICET_DATABASE_URL", database.as_str())];
    let output = run("licet", &["bench", "full"], &settings, world.folder.path());
    fails(&output, 2, "a broker (LICET_AMQP_URL) of its own");
    world.finish().await;
}

#[test]
fn one_process_is_measured_against_its_signatures() {
    let folder = tempfile::tempdir().expect("a folder");
    for (mode, whats) in
        [("crypto", vec!["crypto peak"]), ("embedded", vec!["crypto peak", "embedded peak", "crypto peak"])]
    {
        let arguments: Vec<_> = ["bench", mode].iter().chain(&SHORT).copied().collect();
        let output = run("licet", &arguments, &[], folder.path());
        assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        all_went(&serde_json::from_slice(&output.stdout).expect("one JSON object"), &whats);
    }
}
