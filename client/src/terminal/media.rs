//! Downloads content from files and web servers.
//!
//! The download is written to a temporary file and hashed. The file gets its final name only if it
//! has the announced length and SHA-256 digest. If the source is longer than announced, reading
//! stops. Dropping the future also stops the download.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use licet_schema::message::Media;
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::store::{self, StoreError};

const CHUNK_BYTES: usize = 64 * 1024;
/// The timeout for a connection, for a response and for each part of its body.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// An error that prevented the download of a content item. No part of the content is stored.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The terminal does not support this kind of address.
    #[error("{uri} is not supported: use a path, a file:// or an http(s):// address")]
    Unsupported {
        /// The address.
        uri: String,
    },
    /// The source cannot be read.
    #[error("{uri} cannot be read: {source}")]
    Unreadable {
        /// The address.
        uri: String,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The source differs from the expected content.
    #[error("{uri} differs from the expected content: {detail}; no part of it was stored")]
    Different {
        /// The address.
        uri: String,
        /// The difference.
        detail: String,
    },
    /// The terminal's folder cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Downloads `media`, checks it, and then moves it to `path`, replacing any file there.
pub(super) async fn fetch(media: &Media, path: &Path) -> Result<(), MediaError> {
    let source = Source::of(media)?;
    let unfinished = store::unfinished(path);
    let copied = copy(source, media, &unfinished).await;
    if let Err(error) = copied {
        // If this deletion fails, the next opening of the folder deletes the file.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    Ok(store::put_in_place(&unfinished, path)?)
}

async fn copy(source: Source, media: &Media, path: &Path) -> Result<(), MediaError> {
    let expected = u64::from(media.bytes);
    let different = |detail| MediaError::Different { uri: media.uri.to_string(), detail };
    let unwritable = |source| StoreError::Io { path: path.to_owned(), source };
    let mut file = tokio::fs::File::from_std(store::create(path).map_err(unwritable)?);
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut chunks = source.chunks();
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|source| MediaError::Unreadable { uri: media.uri.to_string(), source })?;
        bytes += chunk.len() as u64;
        if bytes > expected {
            return Err(different(format!("it has more than {expected} bytes")));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(unwritable)?;
    }
    if bytes < expected {
        return Err(different(format!("it has {bytes} bytes instead of {expected}")));
    }
    let sha256 = hexadecimal(&hash.finalize());
    if !sha256.eq_ignore_ascii_case(media.sha256.as_str()) {
        return Err(different(format!("its SHA-256 is {sha256} instead of {}", media.sha256)));
    }
    // Only a flush reports that a pending write failed.
    file.flush().await.map_err(unwritable)?;
    file.sync_all().await.map_err(unwritable)?;
    Ok(())
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The source of a content item.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Http(String),
}

impl Source {
    fn of(media: &Media) -> Result<Self, MediaError> {
        let uri = media.uri.as_str();
        let unsupported = || MediaError::Unsupported { uri: uri.to_owned() };
        let Some((scheme, rest)) = uri.split_once("://") else { return Ok(Self::File(uri.into())) };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Ok(Self::Http(uri.to_owned())),
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                let path = percent_decode_str(path).collect::<Vec<u8>>();
                let absolute = path.starts_with(b"/");
                absolute.then(|| Self::File(OsString::from_vec(path).into())).ok_or_else(unsupported)
            }
            _ => Err(unsupported()),
        }
    }

    /// Reads the content in chunks. A blocking thread reads at most a few chunks ahead, and ends
    /// when the receiver is dropped.
    fn chunks(self) -> mpsc::Receiver<io::Result<Vec<u8>>> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let result = self.open().and_then(|mut reader| {
                let mut buffer = vec![0; CHUNK_BYTES];
                loop {
                    let read = match reader.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(read) => read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(error),
                    };
                    if sender.blocking_send(Ok(buffer[..read].to_vec())).is_err() {
                        return Ok(());
                    }
                }
            });
            if let Err(error) = result {
                let _ = sender.blocking_send(Err(error));
            }
        });
        receiver
    }

    fn open(self) -> io::Result<Box<dyn Read>> {
        match self {
            Self::File(path) if path.metadata()?.is_file() => Ok(Box::new(File::open(path)?)),
            Self::File(_) => Err(io::Error::other("it is not a regular file")),
            Self::Http(uri) => {
                let agent: ureq::Agent = ureq::Agent::config_builder()
                    .timeout_connect(Some(HTTP_TIMEOUT))
                    .timeout_recv_response(Some(HTTP_TIMEOUT))
                    .timeout_per_read(Some(HTTP_TIMEOUT))
                    .build()
                    .into();
                let response = agent.get(uri).call().map_err(ureq::Error::into_io)?;
                Ok(Box::new(response.into_body().into_reader()))
            }
        }
    }
}

#[cfg(test)]
#[path = "media_tests.rs"]
mod tests;
