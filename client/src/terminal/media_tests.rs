use std::{io::Write, net::TcpListener};

use licet_schema::{Count, Text};

use super::*;

/// The SHA-256 digest of `la la la`.
const SHA256: &str = "d488288a90852227c137cc78556c8f55fe20c052d61df3b4987643b42def93c3";

fn media(uri: &str, sha256: &str, bytes: i64) -> Media {
    Media {
        uri: Text::try_from(uri).expect("a text"),
        sha256: Text::try_from(sha256).expect("a text"),
        bytes: Count::try_from(bytes).expect("a count"),
    }
}

/// A folder with a content file, the path of the file, and the path for its copy.
fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let (song, copy) = (folder.path().join("a song.ogg"), folder.path().join("copy"));
    std::fs::write(&song, "la la la").expect("a file");
    (folder, song, copy)
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// Starts a server that sends this response to one request. Returns its address.
fn server(response: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a whole request");
            request.extend(byte);
        }
        stream.write_all(response.as_bytes()).expect("a response");
    });
    format!("http://{address}/a%20song.ogg")
}

#[tokio::test]
async fn a_content_is_read_from_a_path_a_file_address_and_a_web_address() {
    let (_folder, song, copy) = folder();
    let encoded = text(&song).replace(' ', "%20");
    let served = server("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nla la la");
    for uri in [text(&song), format!("file://{encoded}"), format!("FILE://localhost{encoded}"), served] {
        fetch(&media(&uri, &SHA256.to_uppercase(), 8), &copy).await.expect(&uri);
        assert_eq!(std::fs::read_to_string(&copy).expect("the copy"), "la la la", "{uri}");
        std::fs::remove_file(&copy).expect("the copy is deleted");
    }
}

#[tokio::test]
async fn a_download_that_differs_from_the_announced_content_is_not_stored_and_the_older_copy_stays() {
    let (folder, song, copy) = folder();
    std::fs::write(&copy, "an older copy").expect("a file");
    for (sha256, bytes, detail) in [
        (SHA256.replace('d', "0"), 8, "its SHA-256 is d488"),
        (SHA256.to_owned(), 7, "it has more than 7 bytes"),
        (SHA256.to_owned(), 9, "it has 8 bytes instead of 9"),
        ("d488".to_owned(), 8, "instead of d488"),
    ] {
        let error = fetch(&media(&text(&song), &sha256, bytes), &copy).await.expect_err("another content");
        assert!(matches!(error, MediaError::Different { .. }) && error.to_string().contains(detail), "{error}");
        assert_eq!(std::fs::read_to_string(&copy).expect("the older copy"), "an older copy");
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 2, "no unfinished file is left");
    }
}

#[tokio::test]
async fn the_error_for_an_unreadable_source_contains_its_address() {
    let (folder, _, copy) = folder();
    let missing = server("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let cut = server("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nla la");
    for uri in [text(&folder.path().join("nothing")), text(folder.path()), "/dev/zero".into(), missing, cut] {
        let error = fetch(&media(&uri, SHA256, 8), &copy).await.expect_err("nothing to read");
        assert!(matches!(error, MediaError::Unreadable { .. }) && error.to_string().contains(&uri), "{error}");
        assert!(!copy.exists());
    }
}

#[tokio::test]
async fn the_error_for_an_unsupported_address_names_the_supported_kinds() {
    let (_folder, _, copy) = folder();
    for uri in ["ftp://host/song", "file://host/song", "file://song", "s3://bucket/song"] {
        let error = fetch(&media(uri, SHA256, 8), &copy).await.expect_err("unsupported");
        assert!(matches!(error, MediaError::Unsupported { .. }) && error.to_string().contains("file://"), "{error}");
    }
}
