//! The terminal's folder. It contains records as small JSON files, and content next to its
//! license.
//!
//! ```text
//! requests/      requests whose reply is not stored yet, by the id of their subject
//! certificates/  purchase certificates
//! containers/    the containers of certificates that were bought together
//! licenses/      licenses, and ID.content for each license whose content is stored
//! returns/       returns of licenses, and the privileges that were granted for them
//! ```
//!
//! A file is written with a temporary name, synced and renamed, and then its folder is synced.
//! After a crash at any point, either the old file or the new file exists. When a method returns,
//! its changes are on disk. File names are ids that Licet or this terminal created, never names
//! that a person chose. Only one process at a time can open the folder.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::records::{Certificate, Container, License, PendingRequest, Return};

/// The extension of a file that is not complete yet.
const UNFINISHED: &str = "new";

/// A kind of record, which is stored as JSON in its own folder.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// The name of the folder.
    const FOLDER: &'static str;
    /// The name of the file, without its extension.
    fn id(&self) -> Uuid;
}

/// The folder of a terminal. While it is open, no other process can open it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

/// An error while the terminal's folder is read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses the folder.
    #[error("the terminal's folder {} is in use by another process: wait until it ends, or use another folder", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A file does not contain a valid record.
    #[error("{} is damaged ({cause}): restore it from a backup, or move it to another folder", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The error in the file.
        cause: String,
    },
    /// The file system reported an error.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Opens the folder, and creates it (mode 0700) if it does not exist. Deletes incomplete files
    /// that a crash left behind.
    ///
    /// # Errors
    /// Another process uses the folder, or the file system reports an error.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        create_folder(folder)?;
        let folder = folder.canonicalize().map_err(at(folder))?;
        let lock = folder.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
        let file = file.map_err(at(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { folder }),
            Err(TryLockError::Error(source)) => return Err(at(&lock)(source)),
        }
        for kind in [PendingRequest::FOLDER, Certificate::FOLDER, Container::FOLDER, License::FOLDER, Return::FOLDER] {
            create_folder(&folder.join(kind))?;
            delete_unfinished(&folder.join(kind))?;
        }
        sync(&folder)?;
        Ok(Self { folder, _lock: file })
    }

    /// All certificates that this terminal received, in the order in which they were issued.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn certificates(&self) -> Result<Vec<Certificate>, StoreError> {
        self.all()
    }

    /// The stored licenses.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn licenses(&self) -> Result<Vec<License>, StoreError> {
        self.all()
    }

    /// All returns that this terminal opened.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn returns(&self) -> Result<Vec<Return>, StoreError> {
        self.all()
    }

    /// The file of a license's content, if the content is stored. The content was checked when it
    /// was downloaded.
    pub fn content(&self, license: Uuid) -> Option<PathBuf> {
        Some(self.content_path(license)).filter(|path| path.exists())
    }

    /// The path of a license's content, whether or not the file exists.
    pub(super) fn content_path(&self, license: Uuid) -> PathBuf {
        self.folder.join(License::FOLDER).join(format!("{license}.content"))
    }

    /// Deletes a license's content and an incomplete download of it, if they exist.
    pub(super) fn remove_content(&self, license: Uuid) -> Result<(), StoreError> {
        let path = self.content_path(license);
        delete(&unfinished(&path))?;
        delete(&path)
    }

    pub(super) fn put<R: Record>(&self, record: &R) -> Result<(), StoreError> {
        let path = self.path::<R>(record.id());
        let mut json = serde_json::to_vec_pretty(record).map_err(|error| at(&path)(io::Error::other(error)))?;
        json.push(b'\n');
        let unfinished = unfinished(&path);
        let written = create(&unfinished).and_then(|mut file| {
            file.write_all(&json)?;
            file.sync_all()
        });
        written.map_err(at(&unfinished))?;
        put_in_place(&unfinished, &path)
    }

    pub(super) fn get<R: Record>(&self, id: Uuid) -> Result<Option<R>, StoreError> {
        let path = self.path::<R>(id);
        match fs::read(&path) {
            Ok(json) => {
                serde_json::from_slice(&json).map(Some).map_err(|error| self.damaged::<R>(id, error.to_string()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path)(error)),
        }
    }

    pub(super) fn all<R: Record>(&self) -> Result<Vec<R>, StoreError> {
        let mut ids = Vec::new();
        for path in files(&self.folder.join(R::FOLDER))? {
            let name = path.file_name().and_then(OsStr::to_str);
            // Other files are not records. They are content, or files that a person put here.
            ids.extend(name.and_then(|name| Uuid::parse_str(name.strip_suffix(".json")?).ok()));
        }
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.get(id).transpose()).collect()
    }

    /// Deletes a record, if it exists.
    pub(super) fn remove<R: Record>(&self, id: Uuid) -> Result<(), StoreError> {
        delete(&self.path::<R>(id))
    }

    /// The error for a record that is not valid.
    pub(super) fn damaged<R: Record>(&self, id: Uuid, cause: String) -> StoreError {
        StoreError::Damaged { file: self.path::<R>(id), cause }
    }

    fn path<R: Record>(&self, id: Uuid) -> PathBuf {
        self.folder.join(R::FOLDER).join(format!("{id}.json"))
    }
}

/// The path of a file until it is complete.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

/// Renames a complete and synced file to its final path, replacing any file there.
pub(super) fn put_in_place(unfinished: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(unfinished, path).map_err(at(path))?;
    path.parent().map_or(Ok(()), sync)
}

/// Creates an empty file that only its owner can read. An existing file of this name is deleted
/// first, so that a task that is still writing to it does not write to the new file.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).mode(0o600).open(path),
    }
}

fn create_folder(folder: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    let mode = fs::metadata(folder).map_err(at(folder))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            folder = %folder.display(),
            "other users can open the terminal's folder: restrict it with chmod 0700"
        );
    }
    Ok(())
}

fn delete(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(path)(error)),
    }
    // Sync even if the file did not exist: it may have been deleted just before a crash, without a
    // sync.
    path.parent().map_or(Ok(()), sync)
}

fn delete_unfinished(folder: &Path) -> Result<(), StoreError> {
    let mut unfinished = files(folder)?.into_iter().filter(|path| path.extension() == Some(OsStr::new(UNFINISHED)));
    unfinished.try_for_each(|path| fs::remove_file(&path).map_err(at(&path)))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(folder).map_err(at(folder))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(at(folder))).collect()
}

fn sync(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    |source| StoreError::Io { path, source }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
