//! The folder of signing keys.
//!
//! The folder contains one PKCS#8 PEM file for each key, named after the thumbprint of the key, and
//! a file `signing` with the thumbprint of the signing key. All keys in the folder are trusted.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ed25519_dalek::{
    SigningKey,
    pkcs8::{self, DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use zeroize::Zeroizing;

use super::{Keyring, keyring::thumbprint};

const SIGNING: &str = "signing";

/// The reason a keys folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder does not exist or has no signing key.
    #[error(
        "there are no signing keys in {folder}: create one with `licet keys new`, or name another folder in LICET_KEYS"
    )]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// A PEM file does not contain a private key.
    #[error(
        "{file} is not an Ed25519 private key in PKCS#8 PEM: remove it from the keys folder or restore it from a backup"
    )]
    NotAKey {
        /// The file.
        file: PathBuf,
        /// The decoder's error.
        source: pkcs8::Error,
    },
    /// The folder already has a signing key.
    #[error("{folder} already has the signing key {kid}: `licet keys export` shows it")]
    Exists {
        /// The folder.
        folder: PathBuf,
        /// The key's thumbprint.
        kid: String,
    },
    /// The folder or a file in it cannot be read or written.
    #[error("the keys folder {folder} cannot be used: {source}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// The operating system provided no random bytes.
    #[error("the operating system provided no random bytes for a new key")]
    Randomness,
}

/// Reads the keys of a folder. Logs a warning if other users can open the folder, or if every user
/// can read a key file.
///
/// # Errors
/// The folder has no signing key, cannot be read, or has a PEM file that is not a key.
pub fn load(folder: &Path) -> Result<Keyring, FolderError> {
    let io = |source| FolderError::Io { folder: folder.to_owned(), source };
    let empty = || FolderError::Empty { folder: folder.to_owned() };
    let signing = match fs::read_to_string(folder.join(SIGNING)) {
        Ok(kid) => kid.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(empty()),
        Err(error) => return Err(io(error)),
    };
    let mut signer = None;
    let mut trusted = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.extension().is_some_and(|extension| extension == "pem") {
            let pem = Zeroizing::new(fs::read_to_string(&file).map_err(io)?);
            if is_world_readable(&file).map_err(io)? {
                tracing::warn!(file = %file.display(), "every user can read this key file: restrict it with chmod 0600");
            }
            let key = SigningKey::from_pkcs8_pem(&pem)
                .map_err(|source| FolderError::NotAKey { file: file.clone(), source })?;
            trusted.push(key.verifying_key());
            if thumbprint(&key.verifying_key()) == signing {
                signer = Some(key);
            }
        }
    }
    let mode = fs::metadata(folder).map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(folder = %folder.display(), "other users can open the keys folder: restrict it with chmod 0700");
    }
    Ok(Keyring::new(signer.ok_or_else(empty)?, trusted))
}

/// Whether every user of the machine may read a file.
///
/// # Errors
/// The file does not exist, or its permissions cannot be read.
pub(crate) fn is_world_readable(file: &Path) -> io::Result<bool> {
    Ok(fs::metadata(file)?.permissions().mode() & 0o004 != 0)
}

/// Creates the first key of a folder. Creates the folder with mode 0700 if it does not exist.
///
/// # Errors
/// The folder already has a signing key or cannot be written, or the operating system provides no
/// random bytes.
pub fn create(folder: &Path) -> Result<Keyring, FolderError> {
    let io = |source| FolderError::Io { folder: folder.to_owned(), source };
    if let Ok(kid) = fs::read_to_string(folder.join(SIGNING)) {
        return Err(FolderError::Exists { folder: folder.to_owned(), kid: kid.trim().to_owned() });
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    let key = new_key()?;
    let kid = thumbprint(&key.verifying_key());
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| io(io::Error::other(error.to_string())))?;
    write_new(&folder.join(format!("{kid}.pem")), pem.as_bytes()).map_err(io)?;
    // This file is written last. If the program crashes before this, the folder counts as empty.
    write_new(&folder.join(SIGNING), kid.as_bytes()).map_err(io)?;
    Ok(Keyring::new(key, []))
}

/// Generates a key from the operating system's random bytes.
///
/// # Errors
/// The operating system provides no random bytes.
pub fn new_key() -> Result<SigningKey, FolderError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|_| FolderError::Randomness)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
