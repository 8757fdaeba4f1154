//! A database for tests, and rows of its journal.

use licet_common::{
    runtime::StoredOutput,
    store::{Store, TOOL_TIMEOUT},
};
use licet_schema::{
    Output, Timestamp,
    entity::{Digest, journal},
};
use sea_orm::{ActiveModelBehavior, ActiveModelTrait, EntityTrait, IntoActiveModel};
use tempfile::TempDir;
use uuid::Uuid;

/// An SQLite database in a temporary folder.
pub(crate) struct Database {
    pub(crate) store: Store,
    _folder: TempDir,
}

impl Database {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("licet.db").display());
        let store = Store::create(&url.into(), 1, TOOL_TIMEOUT).await.expect("a database");
        store.migrate().await.expect("its tables");
        Self { store, _folder: folder }
    }

    pub(crate) async fn put<A>(&self, row: impl IntoActiveModel<A>)
    where
        A: ActiveModelTrait + ActiveModelBehavior + Send,
        <A::Entity as EntityTrait>::Model: IntoActiveModel<A>,
    {
        let row = row.into_active_model().reset_all();
        A::Entity::insert(row).exec_without_returning(&self.store.pool()).await.expect("a row");
    }
}

/// A journal row with these outputs. The first value of each pair states whether the output is the
/// reply.
pub(crate) fn journal_row(message: Uuid, subject: Option<Uuid>, at: i64, outputs: &[(bool, Output)]) -> journal::Model {
    let refused = outputs.iter().find_map(|(_, output)| match output {
        Output::RequestRefused(body) => Some(body.code.to_string()),
        _ => None,
    });
    let stored = |(reply, output): &(bool, Output)| StoredOutput {
        reply: *reply,
        kind: output.kind().to_owned(),
        message_id: Uuid::nil(),
        timestamp_s: 0,
        body: output.encode().expect("a body"),
    };
    let outputs: Vec<_> = outputs.iter().map(stored).collect();
    journal::Model {
        id: message,
        kind: "license.receipt".into(),
        sender: None,
        digest: Digest([0; 32]),
        subject,
        code: refused,
        decided_at: Timestamp::from_millis(at),
        position: at,
        outputs: postcard::to_stdvec(&outputs).expect("bytes"),
        changes: None,
    }
}
