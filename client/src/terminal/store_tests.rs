use licet_common::signing::CertificateClaims;
use licet_schema::{Name, Version};

use super::{super::records::Standing, *};

fn opened(folder: &Path) -> Store {
    Store::open(folder).expect("a folder that nobody else has")
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

fn held(store: &Store, id: u128) -> Option<Certificate> {
    store.get(Uuid::from_u128(id)).expect("a readable file")
}

/// Every file below a folder.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let below = files(folder).expect("a readable folder").into_iter();
    below.flat_map(|path| if path.is_dir() { tree(&path) } else { vec![path] }).collect()
}

#[test]
fn what_is_put_is_there_when_the_folder_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(2, "bob")).expect("kept");
    store.put(&certificate(1, "alice")).expect("kept");
    store.put(&Certificate { standing: Standing::Received, ..certificate(2, "bob") }).expect("kept");
    drop(store);
    let all = opened(folder.path()).certificates().expect("readable files");
    let told: Vec<_> = all.iter().map(|one| (one.claims.sub.as_str(), one.standing)).collect();
    assert_eq!(told, [("alice", Standing::Arrived), ("bob", Standing::Received)]);
}

#[test]
fn what_a_crash_left_unfinished_is_swept_and_the_old_file_stands() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(1, "alice")).expect("kept");
    let content = store.content_path(Uuid::from_u128(7));
    let left = [unfinished(&store.path::<Certificate>(Uuid::from_u128(1))), unfinished(&content)];
    left.iter().for_each(|path| fs::write(path, "{\"certificate_tok").expect("half a file"));
    drop(store);
    let store = opened(folder.path());
    assert_eq!(held(&store, 1).map(|one| one.certificate_token).as_deref(), Some("token-1"));
    assert_eq!(store.content(Uuid::from_u128(7)), None);
    assert!(left.iter().all(|path| !path.exists()));
}

#[test]
fn a_write_that_fails_leaves_the_old_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(1, "alice")).expect("kept");
    let in_the_way = unfinished(&store.path::<Certificate>(Uuid::from_u128(1)));
    fs::create_dir(&in_the_way).expect("a folder where the file is to be written");
    let failed = store.put(&certificate(1, "mallory")).expect_err("it cannot be written").to_string();
    assert!(failed.contains("cannot be used"), "{failed}");
    assert_eq!(held(&store, 1).map(|one| one.claims.sub.to_string()).as_deref(), Some("alice"));
}

#[test]
fn one_process_at_a_time_has_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse { .. })));
    drop(store);
    opened(folder.path());
}

#[test]
fn what_people_call_themselves_names_no_file() {
    let outside = tempfile::tempdir().expect("a folder");
    let store = opened(&outside.path().join("terminal"));
    for (id, user) in [(1, "../../escape"), (2, "/etc/passwd"), (3, ".."), (4, "a/b\\c")] {
        store.put(&certificate(id, user)).expect("kept");
    }
    let below = outside.path().join("terminal/certificates");
    let mut expected: Vec<_> = (1..=4).map(|id| below.join(format!("{}.json", Uuid::from_u128(id)))).collect();
    expected.push(outside.path().join("terminal/lock"));
    let mut found = tree(outside.path());
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn nobody_else_may_read_what_is_kept() {
    let outside = tempfile::tempdir().expect("a folder");
    let folder = outside.path().join("terminal");
    let store = opened(&folder);
    store.put(&certificate(1, "alice")).expect("kept");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&store.path::<Certificate>(Uuid::from_u128(1))), 0o600);
}

#[test]
fn a_damaged_file_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    fs::write(store.path::<Certificate>(Uuid::from_u128(1)), "{").expect("a file");
    let error = store.certificates().expect_err("damaged").to_string();
    assert!(error.contains(&Uuid::from_u128(1).to_string()) && error.contains("move it away"), "{error}");
}

#[test]
fn what_is_removed_is_gone_and_may_be_removed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path());
    store.put(&certificate(1, "alice")).expect("kept");
    for _ in 0..2 {
        store.remove::<Certificate>(Uuid::from_u128(1)).expect("gone");
        assert!(held(&store, 1).is_none());
    }
}
