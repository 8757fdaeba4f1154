//! The content itself: read from where it is to be had, checked, and kept whole or not at all.
//!
//! What is read is written to an unfinished file and hashed on the way. Only what has the announced
//! length and SHA-256 takes its place; a source that gives more is not read further. Whoever stops
//! waiting stops the copy too.

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
/// A server that says nothing for so long has stalled.
const HTTP_PATIENCE: Duration = Duration::from_secs(30);

/// Why a content is not here. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// Another kind of address.
    #[error("{uri} is no place that a terminal reads: give a path, a file:// or an http(s):// address")]
    Unsupported {
        /// The address.
        uri: String,
    },
    /// It gives nothing.
    #[error("{uri} cannot be read: {source}")]
    Unreadable {
        /// The address.
        uri: String,
        /// Why.
        source: io::Error,
    },
    /// It gives something else.
    #[error("{uri} does not give the content that was announced: {detail}; nothing of it was kept")]
    Different {
        /// The address.
        uri: String,
        /// What is different.
        detail: String,
    },
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Copies what `media` names to `path`, in place of anything there, once it is whole and checked.
pub(super) async fn fetch(media: &Media, path: &Path) -> Result<(), MediaError> {
    let source = Source::of(media)?;
    let unfinished = store::unfinished(path);
    let copied = copy(source, media, &unfinished).await;
    if let Err(error) = copied {
        // What cannot be taken away now is swept when the folder is opened.
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
        return Err(different(format!("it has {bytes} bytes and not {expected}")));
    }
    let sha256 = hexadecimal(&hash.finalize());
    if !sha256.eq_ignore_ascii_case(media.sha256.as_str()) {
        return Err(different(format!("its SHA-256 is {sha256} and not {}", media.sha256)));
    }
    // Flushed first: a failed write in flight is told by that alone.
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

/// Where a content is to be had.
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

    /// What it gives, read on a thread that may block, no further ahead than a few chunks. It ends
    /// when nobody takes the next.
    fn chunks(self) -> mpsc::Receiver<io::Result<Vec<u8>>> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let told = self.open().and_then(|mut reader| {
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
            if let Err(error) = told {
                let _ = sender.blocking_send(Err(error));
            }
        });
        receiver
    }

    fn open(self) -> io::Result<Box<dyn Read>> {
        match self {
            Self::File(path) if path.metadata()?.is_file() => Ok(Box::new(File::open(path)?)),
            Self::File(_) => Err(io::Error::other("it is no regular file")),
            Self::Http(uri) => {
                let agent: ureq::Agent = ureq::Agent::config_builder()
                    .timeout_connect(Some(HTTP_PATIENCE))
                    .timeout_recv_response(Some(HTTP_PATIENCE))
                    .timeout_per_read(Some(HTTP_PATIENCE))
                    .build()
                    .into();
                let answer = agent.get(uri).call().map_err(ureq::Error::into_io)?;
                Ok(Box::new(answer.into_body().into_reader()))
            }
        }
    }
}

#[cfg(test)]
#[path = "media_tests.rs"]
mod tests;
