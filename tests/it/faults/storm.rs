//! Many terminals request licenses of one certificate at once, while a license worker is killed.

use serde_json::json;

use super::{fixture::Fixture, load};

const TERMINALS: usize = 60;
const GRANTS: usize = 3;

pub(super) async fn run(fixture: &mut Fixture) {
    fixture.start_worker("license");
    fixture.start_worker("license");
    for _ in 0..3 {
        let upstream = fixture.load.upstream.clone();
        let token = load::settled_certificate(&upstream).await;
        let requests = (0..TERMINALS).map(|terminal| {
            let body = json!({ "certificate_token": token, "terminal": format!("player-{terminal}") });
            upstream.ask("license.request", body)
        });
        let replies = futures_util::future::join_all(requests);
        let killing = async {
            fixture.pause(5, 120).await;
            let index = fixture.workers.iter().rposition(|worker| worker.name == "license").expect("four of them run");
            let victim = fixture.workers.remove(index);
            victim.process.kill();
            fixture.start_worker("license");
        };
        let (replies, ()) = tokio::join!(replies, killing);
        let issued = replies.iter().filter(|reply| reply.get("license").is_some()).count();
        let exhausted = replies.iter().filter(|reply| reply["code"] == "exhausted").count();
        assert_eq!((issued, exhausted), (GRANTS, TERMINALS - GRANTS), "{replies:?}");
        let evidence = format!("{TERMINALS} terminals, {issued} licenses; one of four license workers was killed");
        fixture.record_recovery("storm_with_a_kill", evidence).await;
    }
}
