//! The folder of signing keys: one PKCS#8 PEM file for each key, named by its thumbprint, and a
//! file `signing` that says which of them signs. All of them are trusted.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use zeroize::Zeroizing;

use super::{Keyring, keyring::thumbprint};

const SIGNING: &str = "signing";

/// What can be wrong with a keys folder. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is none, or it holds no key.
    #[error(
        "there are no signing keys in {folder}: create one with `licet keys new`, or name another folder in LICET_KEYS"
    )]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is not a key.
    #[error("{file} is not an Ed25519 private key in PKCS#8 PEM: remove it from the keys folder or restore it")]
    NotAKey {
        /// The file.
        file: PathBuf,
    },
    /// There is a key that signs already.
    #[error("{folder} already has the signing key {kid}: `licet keys export` shows it")]
    Exists {
        /// The folder.
        folder: PathBuf,
        /// The key.
        kid: String,
    },
    /// The file system said no.
    #[error("the keys folder {folder} cannot be used: {source}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes for a new key")]
    Randomness,
}

/// Reads the folder's keys.
///
/// # Errors
/// There are none, or a file in it is not a key.
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
            let key = SigningKey::from_pkcs8_pem(&pem).map_err(|_| FolderError::NotAKey { file: file.clone() })?;
            trusted.push(key.verifying_key());
            if thumbprint(&key.verifying_key()) == signing {
                signer = Some(key);
            }
        }
    }
    let mode = fs::metadata(folder).map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(folder = %folder.display(), "others can open the keys folder: take that right away with chmod 0700");
    }
    Ok(Keyring::new(signer.ok_or_else(empty)?, trusted))
}

/// Creates a first key in the folder, and the folder (mode 0700) if it is not there.
///
/// # Errors
/// It has a signing key already, or the file system says no.
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
    // The name comes last: a crash before it leaves a folder that says it has no key.
    write_new(&folder.join(SIGNING), kid.as_bytes()).map_err(io)?;
    Ok(Keyring::new(key, []))
}

/// A new key from the operating system's randomness.
///
/// # Errors
/// There is none.
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
