//! What a terminal keeps: a folder of small JSON files, and contents beside their licenses.
//!
//! ```text
//! asked/         what was asked and whose answer is not kept yet, by what it is about
//! certificates/  purchase certificates
//! containers/    what they came in, where several were bought together
//! licenses/      licenses, and ID.content beside each whose content is here
//! returns/       licenses that were given back, and what they brought
//! ```
//!
//! A file is written under another name, synced, renamed, and its folder synced: a crash at any
//! point leaves the old file or the new one, and what a method has returned from is on the disk.
//! Files are named by ids that Licet or this terminal made, never by a name that somebody chose.
//! One process at a time has the folder.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::records::{Asked, Certificate, Container, License, Return};

/// What is not whole yet has this at the end of its name.
const UNFINISHED: &str = "new";

/// One kind of record: a folder of files, each named by an id.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// The folder's name.
    const FOLDER: &'static str;
    /// The file's name.
    fn id(&self) -> Uuid;
}

/// The folder of a terminal, opened by one process.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

/// Why something is not kept, or not found again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder.
    #[error("the terminal's folder {} is in use by another process: wait until it ends, or name another folder", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is not what was written there.
    #[error("{} is damaged ({cause}): restore it from a copy, or move it away", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The file system said no.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

impl Store {
    /// Opens the folder, and makes it (mode 0700) if it is not there. What a crash left unfinished
    /// is swept away.
    ///
    /// # Errors
    /// Another process has it, or the file system says no.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        make_folder(folder)?;
        let folder = folder.canonicalize().map_err(at(folder))?;
        let lock = folder.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
        let file = file.map_err(at(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { folder }),
            Err(TryLockError::Error(source)) => return Err(at(&lock)(source)),
        }
        for kind in [Asked::FOLDER, Certificate::FOLDER, Container::FOLDER, License::FOLDER, Return::FOLDER] {
            make_folder(&folder.join(kind))?;
            sweep(&folder.join(kind))?;
        }
        sync(&folder)?;
        Ok(Self { folder, _lock: file })
    }

    /// Every certificate that was ever held here, in the order in which they were made.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn certificates(&self) -> Result<Vec<Certificate>, StoreError> {
        self.all()
    }

    /// The licenses that are here.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn licenses(&self) -> Result<Vec<License>, StoreError> {
        self.all()
    }

    /// The licenses that were given back from here, and what they brought.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn returns(&self) -> Result<Vec<Return>, StoreError> {
        self.all()
    }

    /// A license's content, if it is here: checked when it came, and whole.
    pub fn content(&self, license: Uuid) -> Option<PathBuf> {
        Some(self.content_path(license)).filter(|path| path.exists())
    }

    /// Where a license's content stands, or will.
    pub(super) fn content_path(&self, license: Uuid) -> PathBuf {
        self.folder.join(License::FOLDER).join(format!("{license}.content"))
    }

    /// Deletes a license's content, if it is here, or as much of it as is.
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
            let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
            if let (Ok(id), true) = (Uuid::parse_str(stem), path.extension() == Some(OsStr::new("json"))) {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.get(id).transpose()).collect()
    }

    /// Deletes a record, if it is here.
    pub(super) fn remove<R: Record>(&self, id: Uuid) -> Result<(), StoreError> {
        delete(&self.path::<R>(id))
    }

    /// What to say of a record that is not what it should be.
    pub(super) fn damaged<R: Record>(&self, id: Uuid, cause: String) -> StoreError {
        StoreError::Damaged { file: self.path::<R>(id), cause }
    }

    fn path<R: Record>(&self, id: Uuid) -> PathBuf {
        self.folder.join(R::FOLDER).join(format!("{id}.json"))
    }
}

/// The name under which a file is written before it is whole.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

/// Makes a file that is whole and synced appear, in place of any that was there.
pub(super) fn put_in_place(unfinished: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(unfinished, path).map_err(at(path))?;
    path.parent().map_or(Ok(()), sync)
}

/// A new and empty file that its owner alone can read. Whatever still writes to one of this name
/// writes elsewhere.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).mode(0o600).open(path),
    }
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    let mode = fs::metadata(folder).map_err(at(folder))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(folder = %folder.display(), "others can open the terminal's folder: take that right away with chmod 0700");
    }
    Ok(())
}

fn delete(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(path)(error)),
    }
    // Also if it was gone: perhaps it went just before a crash, and the disk does not know yet.
    path.parent().map_or(Ok(()), sync)
}

fn sweep(folder: &Path) -> Result<(), StoreError> {
    let mut left = files(folder)?.into_iter().filter(|path| path.extension() == Some(OsStr::new(UNFINISHED)));
    left.try_for_each(|path| fs::remove_file(&path).map_err(at(&path)))
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
