//! A look at a store's file before a hub is started on it.
//!
//! Owns how the file is looked at without changing it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use ::redb::{DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTableMetadata, TableError};

use super::RECORDS;

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// Nothing yet, and it can be made.
    Absent,
    /// A store with so many records.
    Sound(u64),
    /// A store that its process did not close: it is put in order as it is opened.
    Unclosed,
    /// A process has it open.
    InUse,
}

/// Looks at the file, or at where it is to be.
///
/// # Errors
/// Why a hub could not use it, in one line.
pub fn inspect(path: &Path) -> Result<FileState, String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let folder = existing_folder(path);
    tempfile::tempfile_in(&folder).map_err(|error| format!("{} cannot be written: {error}", folder.display()))?;
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(FileState::Absent),
        Err(error) => return Err(at(&error)),
        Ok(found) if !found.is_file() => return Err(at(&"is no file")),
        // One that was made and never written to.
        Ok(found) if found.len() == 0 => return Ok(FileState::Absent),
        Ok(_) => {}
    }
    OpenOptions::new().write(true).open(path).map_err(|error| at(&error))?;
    let database = match ReadOnlyDatabase::open(path) {
        Ok(database) => database,
        Err(DatabaseError::DatabaseAlreadyOpen) => return Ok(FileState::InUse),
        Err(DatabaseError::RepairAborted) => return Ok(FileState::Unclosed),
        Err(error) => return Err(at(&error)),
    };
    let transaction = database.begin_read().map_err(|error| at(&error))?;
    match transaction.open_table(RECORDS) {
        Ok(records) => Ok(FileState::Sound(records.len().map_err(|error| at(&error))?)),
        Err(TableError::TableDoesNotExist(_)) => Ok(FileState::Sound(0)),
        Err(error) => Err(at(&format!("is no store of a hub: {error}"))),
    }
}

/// The folder in which the file is, or the nearest one above it, in which folders would be made.
fn existing_folder(path: &Path) -> PathBuf {
    let named = |folder: &&Path| !folder.as_os_str().is_empty();
    let folders = path.ancestors().skip(1).filter(named);
    folders.into_iter().find(|folder| folder.is_dir()).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redb::RedbStore;
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn a_file_is_looked_at_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/store.redb");
        assert_eq!(inspect(&path), Ok(FileState::Absent));
        assert!(!folder.path().join("a").exists(), "nothing is made");
        let tasks = Tasks::new();
        let store = RedbStore::open(&path, &tasks).unwrap();
        assert_eq!(inspect(&path), Ok(FileState::InUse));
        drop(store);
        tasks.drain(std::time::Duration::from_secs(5)).await;
        assert_eq!(inspect(&path), Ok(FileState::Sound(0)));
        std::fs::write(&path, "no store at all").unwrap();
        assert!(inspect(&path).unwrap_err().contains("store.redb"));
        let below_a_file = path.join("store.redb");
        assert!(inspect(&below_a_file).is_err());
    }
}
