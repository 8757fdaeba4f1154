//! Case A1: an instruction to a payment provider cannot be lost.

use std::time::Duration;

use licet_operator::resend::{Selection, outputs, resend};
use licet_schema::{
    Output, Request,
    message::{CertificateAccepted, Instruction, LicenseReturn, Privilege},
    topology::{self, EVENTS, INSTRUCTED},
};
use licet_workers::registry;
use uuid::Uuid;

use crate::{
    programs::run,
    system::{
        Bought, Mailbox, TestSystem, amqp_url, license_receipt, license_request, message, name, on_both, receipt, song,
        usd,
    },
};

on_both!(
    case_a01_no_reply_says_instructed_before_the_queue_has_the_instruction,
    case_a01_instructions_are_published_again_byte_for_byte,
    case_a01_applying_the_topology_removes_the_bindings_that_would_double_instructions,
);

/// The time in which a message must not arrive.
const SILENCE: Duration = Duration::from_millis(500);

async fn case_a01_no_reply_says_instructed_before_the_queue_has_the_instruction(mut system: TestSystem) {
    system.start_workers();
    system.put_song(1).await;
    let bought = system.buy("alice", 1).await;
    let (_, mut events) = system.listen(&[(EVENTS, "certificate.accepted"), (EVENTS, "settlement.instructed")]).await;
    let (queue, mut replies) = system.listen(&[]).await;
    remove_queue(&system, INSTRUCTED).await;

    let id = Uuid::now_v7();
    system.publish(message(id, &receipt(&bought), Some(&queue))).await;
    let stored = system.stored_outputs(id).await;
    assert!(replies.try_next(SILENCE).await.is_none(), "a reply although no queue has the instruction");
    assert!(events.try_next(SILENCE).await.is_none(), "an event although no queue has the instruction");

    system.resources.transport.apply(&registry::topology()).await.expect("the queue is declared again");
    let reply = replies.next().await;
    let reply = Output::decode(reply.properties.kind.as_deref().expect("a type"), &reply.body).expect("a reply");
    assert!(
        matches!(reply, Output::CertificateAccepted(CertificateAccepted { settlement: Instruction::Instructed, .. })),
        "{reply:?}"
    );
    let mut instructions = system.instructions().await;
    let instruction = instructions.next().await;
    let expected = stored.iter().find(|output| output.kind == "settlement.instructed").expect("an instruction");
    assert_eq!(instruction.body, expected.body);
    assert_eq!(instruction.properties.message_id, Some(expected.message_id.to_string()));
    assert_eq!(instruction.properties.kind.as_deref(), Some("settlement.instructed"), "providers read the type");
    assert!(instructions.try_next(SILENCE).await.is_none(), "the instruction is in its queue twice");
    assert_eq!(events.event().await.0.kind(), "certificate.accepted");
    let event = events.next().await;
    assert_eq!((event.body, event.properties), (instruction.body, instruction.properties));
    system.finish().await;
}

async fn case_a01_instructions_are_published_again_byte_for_byte(mut system: TestSystem) {
    system.start_workers();
    let mut content = song(1);
    content.return_policy.buyback = Some(usd(300));
    system.ask(&Request::ContentPut(content)).await;
    let (_, mut events) = system.listen(&[(EVENTS, "settlement.instructed"), (EVENTS, "payout.instructed")]).await;
    let mut instructions = system.instructions().await;
    let bought = system.ready("alice", 1).await;
    system.buy("alice", 2).await;
    let license_return = give_back(&system, &bought).await;

    let first = [instructions.next().await, instructions.next().await];
    assert_eq!([events.next().await.body, events.next().await.body], first.clone().map(|one| one.body));
    let selections = [
        (Selection::Certificate(bought.certificates[0]), "settlement.instructed"),
        (Selection::Return(license_return), "payout.instructed"),
    ];
    for (first, (selection, kind)) in first.iter().zip(selections) {
        let cause = first.properties.headers[topology::HEADER_CAUSE].parse().expect("an id");
        for selection in [selection, Selection::Message(cause)] {
            let selected = outputs(&system.resources.store, selection, Some(kind)).await.expect("outputs");
            assert_eq!(selected.len(), 1, "{selection:?}");
            resend(&system.resources.transport, &selected).await.expect("the instruction is confirmed");
            let again = instructions.next().await;
            assert_eq!((&again.exchange, &again.routing_key), (&first.exchange, &first.routing_key));
            assert_eq!((&again.body, &again.properties), (&first.body, &first.properties), "{selection:?}");
            let event = events.next().await;
            assert_eq!((event.exchange.as_str(), event.routing_key.as_str()), (EVENTS, kind));
            assert_eq!((&event.body, &event.properties), (&first.body, &first.properties), "{selection:?}");
        }
    }
    let everything = outputs(&system.resources.store, Selection::Certificate(bought.certificates[0]), None).await;
    let everything = everything.expect("outputs");
    for kind in ["certificate.issued", "certificate.accepted", "license.granted", "license.returned"] {
        assert_eq!(everything.iter().filter(|one| one.output.kind == kind).count(), 1, "{kind}");
    }
    system.finish().await;
}

async fn case_a01_applying_the_topology_removes_the_bindings_that_would_double_instructions(mut system: TestSystem) {
    let topology = registry::topology();
    let earlier = topology::Topology { bindings: topology.obsolete.clone(), obsolete: Vec::new(), ..topology.clone() };
    system.resources.transport.apply(&earlier).await.expect("the broker accepts the bindings");
    system.resources.transport.apply(&topology).await.expect("the broker removes the bindings");
    system.start_workers();
    system.put_song(1).await;
    let mut instructions = system.instructions().await;
    system.ready("alice", 1).await;
    instructions.next().await;
    assert!(instructions.try_next(SILENCE).await.is_none(), "the instruction is in its queue twice");
    system.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ and PostgreSQL: run tests/run.sh"]
async fn case_a01_an_operator_finds_missing_bindings_and_instructs_again() {
    let mut system = TestSystem::services().await;
    let amqp = amqp_url();
    let database = system.database_url.clone().expect("a PostgreSQL database");
    let settings = [("LICET_AMQP_URL", amqp.as_str()), ("LICET_DATABASE_URL", database.as_str())];
    let folder = system.folder.path().to_owned();
    let licet = |arguments: &[&str]| {
        let output = run("licet", arguments, &settings, &folder);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };

    assert_eq!(licet(&["topology", "check"]).0, Some(0));
    unbind(&registry::topology(), "certificate.receipt").await;
    let (code, printed) = licet(&["topology", "check"]);
    assert_eq!(code, Some(1), "{printed}");
    assert_eq!(printed.trim(), "missing: binding of licet.reception to licet.in by certificate.receipt");
    remove_queue(&system, INSTRUCTED).await;
    let (code, printed) = licet(&["topology", "check"]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.starts_with("missing: queue licet.instructed\n"), "{printed}");
    assert_eq!(licet(&["topology", "apply"]).0, Some(0));
    let (code, printed) = licet(&["topology", "check"]);
    assert_eq!(code, Some(0), "{printed}");

    // A check leaves nothing behind in the queues.
    system.start_workers();
    system.put_song(1).await;
    let bought = system.ready("alice", 1).await;
    for worker in registry::names() {
        let depth = system.resources.transport.depth(&topology::dead_queue(worker)).await.expect("the queue");
        assert_eq!(depth, 0, "{worker} has dead letters");
    }

    let certificate = bought.certificates[0].to_string();
    let (code, printed) =
        licet(&["resend", "--certificate", &certificate, "--type", "settlement.instructed", "--json"]);
    assert_eq!(code, Some(0), "{printed}");
    let printed: serde_json::Value = serde_json::from_str(&printed).expect("one JSON object");
    let [resent] = &printed["resent"].as_array().expect("a list")[..] else { panic!("{printed}") };
    assert_eq!((&resent["type"], &resent["queue"]), (&"settlement.instructed".into(), &INSTRUCTED.into()));
    let mut instructions = system.instructions().await;
    for _ in 0..2 {
        let instruction = instructions.next().await;
        assert_eq!(resent["message_id"].as_str(), instruction.properties.message_id.as_deref());
    }

    for (arguments, code, expected) in [
        (&["resend"][..], 2, "--message"),
        (&["resend", "--certificate", &certificate, "--type", "settlement.unmatched"], 1, "no such events"),
        (&["resend", "--certificate", &certificate, "--type", "no.such.type"], 2, "no.such.type"),
        (&["resend", "--message", &certificate], 1, "the journal has no message"),
        (&["resend", "--return", &Uuid::new_v4().to_string()], 1, "there is no return"),
    ] {
        let (found, printed) = licet(arguments);
        assert_eq!(found, Some(code), "{printed}");
        assert!(printed.contains(expected), "{printed}");
    }
    remove_queue(&system, INSTRUCTED).await;
    let (code, printed) = licet(&["resend", "--certificate", &certificate]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("licet topology apply"), "{printed}");
    system.finish().await;
}

/// Returns the license of a purchase for money. Returns the id of the return.
async fn give_back(system: &TestSystem, bought: &Bought) -> Uuid {
    let issued = system.ask(&license_request(&bought.tokens[0], "player")).await;
    let Output::LicenseIssued(issued) = issued else { panic!("{issued:?}") };
    let license_token = issued.license_token.expect("a token");
    system.ask(&license_receipt(&license_token)).await;
    let request = LicenseReturn { license_token, user: name("alice"), privilege: Privilege::Buyback, deleted: true };
    let returned = system.ask(&Request::LicenseReturn(request)).await;
    let Output::LicenseReturned(returned) = returned else { panic!("{returned:?}") };
    returned.license_return
}

async fn channel() -> (lapin::Connection, lapin::Channel) {
    let connection = lapin::Connection::connect(&amqp_url(), lapin::ConnectionProperties::default()).await;
    let connection = connection.expect("RabbitMQ answers");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Removes a queue with its messages and bindings.
async fn remove_queue(system: &TestSystem, queue: &str) {
    if system.database_url.is_none() {
        system.resources.transport.remove_queue(queue);
        return;
    }
    let (connection, channel) = channel().await;
    channel.queue_delete(queue.into(), Default::default()).await.expect("the queue is deleted");
    connection.close(200, "done".into()).await.expect("the connection closes");
}

/// Removes the binding with this routing key.
async fn unbind(topology: &topology::Topology, key: &str) {
    let binding = topology.bindings.iter().find(|binding| binding.key == key).expect("a binding");
    let (connection, channel) = channel().await;
    let topology::Binding { exchange, queue, key } = binding;
    let unbound =
        channel.queue_unbind(queue.as_str().into(), exchange.as_str().into(), key.as_str().into(), Default::default());
    unbound.await.expect("the binding is removed");
    connection.close(200, "done".into()).await.expect("the connection closes");
}

impl TestSystem {
    /// The messages of the queue of instructions.
    async fn instructions(&self) -> Mailbox {
        self.messages_of(INSTRUCTED).await
    }
}
