use licet_common::signing::CertificateClaims;
use licet_schema::{Name, Version};

use super::{super::records::Standing, *};

fn opened(folder: &Path) -> Store {
    Store::open(folder).expect("an unused folder")
}

fn certificate(id: u128, user: &str) -> Certificate {
    let claims = CertificateClaims {
        iss: "licet".into(),
        jti: Uuid::from_u128(id),
        sub: Name::try_from(user).expect("a name"),
        content: Name::try_from("song").expect("a name"),
        version: Version::try_from(1i64).expect("a version"),
        generation: 1,
        iat: 1,
        exp: 2,
        container: None,
    };
    Certificate { certificate_token: format!("token-{id}"), claims, standing: Standing::Arrived }
}

fn stored(store: &Store, id: u128) -> Option<Certificate> {
    store.get(Uuid::from_u128(id)).expect("a readable file")
}

/// Every file below a folder.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let below = files(folder).expect("a readable folder").into_iter();
    below.flat_map(|path| if path.is_dir() { tree(&path) } else { vec![path] }).collect()
}

#[test]
fn stored_records_still_exist_when_the_folder_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(2, "bob")).expect("stored");
    store.put(&certificate(1, "alice")).expect("stored");
    store.put(&Certificate { standing: Standing::Received, ..certificate(2, "bob") }).expect("stored");
    drop(store);
    let all = opened(folder.path()).certificates().expect("readable files");
    let standings: Vec<_> = all.iter().map(|one| (one.claims.sub.as_str(), one.standing)).collect();
    assert_eq!(standings, [("alice", Standing::Arrived), ("bob", Standing::Received)]);
}

#[test]
fn opening_the_folder_deletes_unfinished_files_and_keeps_complete_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(1, "alice")).expect("stored");
    let content = store.content_path(Uuid::from_u128(7));
    let left = [unfinished(&store.path::<Certificate>(Uuid::from_u128(1))), unfinished(&content)];
    left.iter().for_each(|path| fs::write(path, "{\"certificate_tok").expect("half a file"));
    drop(store);
    let store = opened(folder.path());
    assert_eq!(stored(&store, 1).map(|one| one.certificate_token).as_deref(), Some("token-1"));
    assert_eq!(store.content(Uuid::from_u128(7)), None);
    assert!(left.iter().all(|path| !path.exists()));
}

#[test]
fn a_failed_write_leaves_the_old_file_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(1, "alice")).expect("stored");
    let in_the_way = unfinished(&store.path::<Certificate>(Uuid::from_u128(1)));
    fs::create_dir(&in_the_way).expect("a folder where the file is to be written");
    let failed = store.put(&certificate(1, "mallory")).expect_err("it cannot be written").to_string();
    assert!(failed.contains("cannot be used"), "{failed}");
    assert_eq!(stored(&store, 1).map(|one| one.claims.sub.to_string()).as_deref(), Some("alice"));
}

#[test]
fn only_one_process_at_a_time_can_open_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse { .. })));
    drop(store);
    opened(folder.path());
}

#[test]
fn user_names_never_become_file_names() {
    let outside = tempfile::tempdir().expect("a folder");
    let store = opened(&outside.path().join("terminal"));
    for (id, user) in [(1, "../../escape"), (2, "/etc/passwd"), (3, ".."), (4, "a/b\\c")] {
        store.put(&certificate(id, user)).expect("stored");
    }
    let below = outside.path().join("terminal/certificates");
    let mut expected: Vec<_> = (1..=4).map(|id| below.join(format!("{}.json", Uuid::from_u128(id)))).collect();
    expected.push(outside.path().join("terminal/lock"));
    let mut found = tree(outside.path());
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn other_users_cannot_read_the_folder_and_its_files() {
    let outside = tempfile::tempdir().expect("a folder");
    let folder = outside.path().join("terminal");
    let store = opened(&folder);
    store.put(&certificate(1, "alice")).expect("stored");
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&store.path::<Certificate>(Uuid::from_u128(1))), 0o600);
}

#[test]
fn the_error_for_a_damaged_file_names_it_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    fs::write(store.path::<Certificate>(Uuid::from_u128(1)), "{").expect("a file");
    let error = store.certificates().expect_err("damaged").to_string();
    assert!(error.contains(&Uuid::from_u128(1).to_string()) && error.contains("move it to another folder"), "{error}");
}

#[test]
fn a_removed_record_is_gone_and_can_be_removed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(1, "alice")).expect("stored");
    for _ in 0..2 {
        store.remove::<Certificate>(Uuid::from_u128(1)).expect("removed");
        assert!(stored(&store, 1).is_none());
    }
}
