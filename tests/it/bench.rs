//! The program `licet-bench`: every mode completes and reports its measurements. The tests do not
//! check the speed.

use std::fs;

use licet_schema::topology;
use licet_workers::registry;
use serde_json::Value;

use crate::{
    nodes::rabbit::Rabbit,
    programs::{fails, run},
    system::{TestSystem, amqp_url},
};

const SHORT: [&str; 7] = ["--rounds", "1", "--seconds", "1", "--warm-up", "0", "--json"];

fn bench(system: &TestSystem, mode: &[&str]) -> Value {
    let arguments: Vec<_> = mode.iter().chain(&SHORT).copied().collect();
    let (amqp, database) = (amqp_url(), system.database_url.clone().expect("a PostgreSQL database"));
    let settings = [("LICET_AMQP_URL", amqp.as_str()), ("LICET_DATABASE_URL", database.as_str())];
    let output = run("licet-bench", &arguments, &settings, system.folder.path());
    assert!(output.status.success(), "{mode:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Checks that the report has exactly these runs, and that each run completed lifecycles.
#[track_caller]
fn check_runs(report: &Value, expected: &[&str]) {
    let runs = report["runs"].as_array().expect("runs");
    let seen: Vec<_> = runs.iter().map(|run| format!("{} {}", run["what"], run["load"]).replace('"', "")).collect();
    assert_eq!(seen, expected);
    for run in runs {
        assert!(run["lifecycles"].as_u64().expect("a number") > 0, "{run}");
        assert!(run["cpu_ms"]["driver"].as_f64().expect("a number") >= 0.0, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn full_measures_licet_between_two_ceilings_and_leaves_empty_queues() {
    let system = TestSystem::services().await;
    let chart = system.folder.path().join("chart.svg");
    let report = bench(&system, &["full", "--returns", "--in-flight", "16", "--svg", chart.to_str().expect("a name")]);
    let three = ["peak", "schedule", "alone"];
    let of = |what: &str| three.map(|load| format!("{what} {load}"));
    let whats: Vec<_> = ["ceiling peak".to_owned()].into_iter().chain(of("full")).chain(of("ceiling")).collect();
    check_runs(&report, &whats.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(report["machine"]["PostgreSQL fsync"], "on");
    let ratios = report["ratios"].as_array().expect("ratios");
    assert!(ratios.len() == 5 && ratios.iter().all(|ratio| ratio["median"].as_f64() > Some(0.0)), "{ratios:?}");
    let full = &report["runs"][1];
    assert!(full["requests"]["license.return"]["p999_us"].as_u64() > Some(0), "{full}");
    assert!(full["resident_mb"]["purchase"].as_f64() > Some(1.0), "{full}");
    assert!(fs::read_to_string(&chart).expect("a chart").ends_with("</svg>\n"));
    for name in registry::names() {
        let queue = topology::work_queue(name);
        assert_eq!(system.resources.transport.depth(&queue).await.expect("the queue"), 0, "{queue}");
    }
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn growth_fills_a_database_and_measures_it_alternately_with_an_empty_one() {
    let system = TestSystem::services().await;
    let report = bench(&system, &["growth", "--certificates", "2000", "--journal", "4000", "--in-flight", "16"]);
    check_runs(&report, &["empty peak", "large peak", "empty peak"]);
    let size = report["machine"]["table journal"].as_str().expect("its size");
    let rows: u32 = size.split(' ').next().and_then(|rows| rows.parse().ok()).expect("a number of rows");
    // The estimate may already include the rows that the measurement added.
    assert!(rows >= 4000, "{size}");
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn scale_measures_copies_partitions_and_nodes_of_our_own_broker() {
    let system = TestSystem::services().await;
    let cluster = Rabbit::cluster();
    let nodes: Vec<_> = cluster.iter().map(|node| format!("--node={}", Rabbit::url(node.port, 10))).collect();
    let chosen = ["scale", "--in-flight", "16", "--copies", "1,2", "--worker", "reception", "--partitions", "2"];
    let mode: Vec<_> = chosen.into_iter().chain(nodes.iter().map(String::as_str)).collect();
    let report = bench(&system, &mode);
    let whats = ["1 copy", "2 copies", "ceiling", "ceiling, 2 partitions", "ceiling, 3 nodes", "full, 3 nodes"];
    check_runs(&report, &whats.map(|what| format!("{what} peak")).each_ref().map(String::as_str));
    let ratios = report["ratios"].as_array().expect("ratios");
    let names: Vec<_> = ratios.iter().filter_map(|ratio| ratio["name"].as_str()).collect();
    assert!(names.contains(&"2 copies / 1 copy, lifecycles/s"), "{names:?}");
    assert!(names.contains(&"full, 3 nodes / 1 copy, CPU per lifecycle"), "{names:?}");
    assert!(ratios.iter().all(|ratio| ratio["median"].as_f64() > Some(0.0) && ratio["met"].is_null()), "{ratios:?}");
    system.resources.transport.depth("licet.bench.purchase.1").await.expect_err("the queue is gone");
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn the_benchmark_refuses_a_broker_with_other_consumers() {
    let mut system = TestSystem::services().await;
    system.put_song_with_workers().await;
    let (amqp, database) = (amqp_url(), system.database_url.clone().expect("a PostgreSQL database"));
    let settings = [("LICET_AMQP_URL", amqp.as_str()), ("LICET_DATABASE_URL", database.as_str())];
    let output = run("licet-bench", &["full"], &settings, system.folder.path());
    fails(&output, 2, "use a separate broker (LICET_AMQP_URL)");
    system.finish().await;
}

#[test]
fn crypto_and_embedded_run_in_one_process_without_services() {
    let folder = tempfile::tempdir().expect("a folder");
    for (mode, whats) in
        [("crypto", vec!["crypto peak"]), ("embedded", vec!["crypto peak", "embedded peak", "crypto peak"])]
    {
        let arguments: Vec<_> = [mode].iter().chain(&SHORT).copied().collect();
        let output = run("licet-bench", &arguments, &[], folder.path());
        assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        check_runs(&serde_json::from_slice(&output.stdout).expect("one JSON object"), &whats);
    }
}
