//! Many terminals that ask for licenses of one certificate at once, of workers that are killed.

use serde_json::json;

use super::{load, stage::Stage};

const TERMINALS: usize = 60;
const GRANTS: usize = 3;

pub(super) async fn blow(stage: &mut Stage) {
    stage.start_worker("license");
    stage.start_worker("license");
    for _ in 0..3 {
        let upstream = stage.load.upstream.clone();
        let token = load::ready(&upstream).await;
        let asked = (0..TERMINALS).map(|terminal| {
            let body = json!({ "certificate_token": token, "terminal": format!("player-{terminal}") });
            upstream.ask("license.request", body)
        });
        let answers = futures_util::future::join_all(asked);
        let killing = async {
            stage.meanwhile(5, 120).await;
            let at = stage.workers.iter().rposition(|worker| worker.name == "license").expect("there are four");
            let victim = stage.workers.remove(at);
            victim.process.kill();
            stage.start_worker("license");
        };
        let (answers, ()) = tokio::join!(answers, killing);
        let issued = answers.iter().filter(|answer| answer.get("license").is_some()).count();
        let exhausted = answers.iter().filter(|answer| answer["code"] == "exhausted").count();
        assert_eq!((issued, exhausted), (GRANTS, TERMINALS - GRANTS), "{answers:?}");
        let shown = format!("{TERMINALS} terminals, {issued} licenses; one of four license workers was killed");
        stage.recovered("storm_with_a_kill", shown).await;
    }
}
