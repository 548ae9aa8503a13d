//! Files and folders that are either there, whole and on the disk, or not there at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, IoContext, Result};
use crate::files::here;

/// Written between the name of the final file and the number of the writing process.
const MARK: &str = ".tmp-";

/// Writes a file beside `path`, syncs it, renames it to `path` and syncs the folder; a failure leaves what was there before.
///
/// # Errors
/// Whatever `write` returns, and [`Error::Io`] (a full disk among them), after the temporary file was removed.
pub fn write_file<T>(path: impl AsRef<Path>, write: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let path = path.as_ref();
    let temporary = beside(path)?;
    let written = write_and_sync(&temporary, write).and_then(|value| {
        fs::rename(&temporary, path).at(path)?;
        Ok(value)
    });
    match written {
        Ok(value) => {
            sync_parent(path)?;
            Ok(value)
        }
        Err(error) => {
            // The first error is the one to report; a leftover is swept by `remove_leftovers`.
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Fills a folder beside `path`, syncs every file and folder in it, and renames it to `path`.
///
/// # Errors
/// Whatever `fill` returns, [`Error::Io`], and an `AlreadyExists` error where `path` is there and not an empty folder.
pub fn write_dir<T>(path: impl AsRef<Path>, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let path = path.as_ref();
    refuse_existing(path)?;
    let temporary = beside(path)?;
    if let Err(source) = fs::create_dir(&temporary) {
        return Err(Error::io(temporary, source));
    }
    let written = fill(&temporary).and_then(|value| {
        sync_tree(&temporary)?;
        // Again, for what appeared in the meantime: renaming over a file would replace it on some systems.
        refuse_existing(path)?;
        fs::rename(&temporary, path).at(path)?;
        Ok(value)
    });
    match written {
        Ok(value) => {
            sync_parent(path)?;
            Ok(value)
        }
        Err(error) => {
            let _ = fs::remove_dir_all(&temporary);
            Err(error)
        }
    }
}

/// Makes a folder and those above it that are missing, and syncs each folder that got a name by it: without that a power cut may take the names away and
/// with them all that was written below, however well that was synced.
///
/// # Errors
/// [`Error::Io`].
pub fn create_folders(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).count();
    fs::create_dir_all(path).at(path)?;
    path.ancestors().take(missing).try_for_each(sync_parent)
}

/// Renames within a folder, and syncs it.
///
/// # Errors
/// [`Error::Io`].
pub fn rename(path: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::rename(path, to).at(path)?;
    sync_parent(path)
}

/// Renames `path` within its folder, for good, and removes it then with all in it: a power cut in between, after which some of it is gone, leaves nothing under
/// a name that is looked at.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let doomed = beside(path)?;
    rename(path, &doomed)?;
    fs::remove_dir_all(&doomed).at(&doomed)
}

/// Removes what killed writers left in `folder` and returns the paths; call it only where no other process is writing.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read or an entry cannot be removed.
pub fn remove_leftovers(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    let mut removed = Vec::new();
    for entry in fs::read_dir(folder).at(folder)? {
        let entry = entry.at(folder)?;
        if !is_temporary(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        if entry.file_type().at(&path)?.is_dir() {
            fs::remove_dir_all(&path).at(&path)?;
        } else {
            fs::remove_file(&path).at(&path)?;
        }
        removed.push(path);
    }
    removed.sort();
    Ok(removed)
}

/// Whether `name` is one that this module gives to unfinished files and folders.
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix('.')
        .and_then(|rest| rest.rsplit_once(MARK))
        .is_some_and(|(stem, number)| !stem.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

fn write_and_sync<T>(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let mut writer = BufWriter::with_capacity(1 << 20, File::create_new(path).at(path)?);
    let value = write(&mut writer)?;
    flush_and_sync(&mut writer, path)?;
    Ok(value)
}

fn flush_and_sync(writer: &mut BufWriter<File>, path: &Path) -> Result<()> {
    writer.flush().at(path)?;
    writer.get_ref().sync_all().at(path)
}

/// `.NAME.tmp-PID-N` beside `path`: on the same file system, so that the rename is atomic.
fn beside(path: &Path) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(Error::io(path, io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name")));
    };
    loop {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!("{MARK}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let temporary = path.with_file_name(temporary);
        // A process with our number may have been killed here before.
        if !temporary.exists() {
            return Ok(temporary);
        }
    }
}

fn refuse_existing(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path, error)),
        Ok(meta) if meta.is_dir() && fs::read_dir(path).at(path)?.next().is_none() => Ok(()),
        Ok(_) => Err(Error::io(path, io::Error::new(io::ErrorKind::AlreadyExists, "already exists; remove it or choose another name"))),
    }
}

fn parent(path: &Path) -> &Path {
    here(path.parent().unwrap_or(Path::new("")))
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        let kind = fs::symlink_metadata(&path).at(&path)?.file_type();
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            File::open(&path).and_then(|file| file.sync_all()).at(&path)?;
        }
    }
    sync_folder(folder)
}

/// Makes the name of a file or folder durable: it has been made, or renamed, in the folder that is synced.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_parent(path: &Path) -> Result<()> {
    sync_folder(parent(path))
}

/// Makes the names in a folder durable, where the system has such a thing and lets us do it: no reason to end a run that can be written otherwise.
fn sync_folder(folder: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|file| file.sync_all()) {
        Err(error) if cannot_be_synced(&error) => Ok(()),
        synced => synced.at(folder),
    }
}

/// Whether no folder of this kind can be synced: one that may be written but not read, or on a file system (some over a network) that syncs files alone.
fn cannot_be_synced(error: &io::Error) -> bool {
    // What a system without it says: EBADF, which has no kind of its own, or EINVAL.
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(libc::EBADF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_file(&path, |w| w.write_all(b"old").at("a.json")).unwrap();
        let failed: Result<()> = write_file(&path, |w| {
            w.write_all(b"new").at("a.json")?;
            Err(Error::usage("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.json"]);
        write_file(&path, |w| w.write_all(b"new").at("a.json")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_failed_folder_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step-000001");
        let failed: Result<()> = write_dir(&path, |tmp| {
            fs::write(tmp.join("x"), b"1").at(tmp)?;
            Err(Error::usage("no more"))
        });
        assert!(failed.is_err());
        assert!(names(folder.path()).is_empty());
        write_dir(&path, |tmp| {
            fs::create_dir(tmp.join("inner")).at(tmp)?;
            fs::write(tmp.join("inner/x"), b"1").at(tmp)
        })
        .unwrap();
        assert_eq!(names(folder.path()), ["step-000001"]);
        assert_eq!(fs::read(path.join("inner/x")).unwrap(), b"1");
    }

    #[test]
    fn an_existing_folder_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("precious"), b"1").unwrap();
        let error = write_dir(&path, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("already exists"), "{error}");
        assert_eq!(names(&path), ["precious"]);
        fs::remove_file(path.join("precious")).unwrap();
        write_dir(&path, |tmp| fs::write(tmp.join("new"), b"2").at(tmp)).unwrap();
        assert_eq!(names(&path), ["new"]);
    }

    #[test]
    fn leftovers_are_removed_and_other_files_kept() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".a.json.tmp-12-0", "a.json", ".hidden", "b.tmp-12", ".c.tmp-x"] {
            fs::write(folder.path().join(name), b"1").unwrap();
        }
        fs::create_dir_all(folder.path().join(".step-000001.tmp-7/inner")).unwrap();
        assert_eq!(remove_leftovers(folder.path()).unwrap().len(), 2);
        assert_eq!(names(folder.path()), [".c.tmp-x", ".hidden", "a.json", "b.tmp-12"]);
    }

    /// That names outlast a power cut is for `tests/crash` to show.
    #[test]
    fn folders_are_made_and_removed_with_all_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        create_folders(&inner).unwrap();
        create_folders(&inner).unwrap();
        fs::write(inner.join("x"), b"1").unwrap();
        assert!(matches!(create_folders(inner.join("x/y")).unwrap_err(), Error::Io { path, .. } if path.ends_with("a/b/x/y")));
        remove_dir(&inner).unwrap();
        assert!(names(&folder.path().join("a")).is_empty());
        assert!(matches!(remove_dir(&inner).unwrap_err(), Error::Io { path, .. } if path == inner));
    }

    /// Errors of a disk are none of these: they are for the caller.
    #[cfg(unix)]
    #[test]
    fn folders_that_cannot_be_synced_are_told_from_disks_that_fail() {
        use libc::{EACCES, EBADF, EINVAL, EIO, ENOSPC, EPERM, EROFS};
        for (number, cannot) in
            [(EPERM, true), (EACCES, true), (EBADF, true), (EINVAL, true), (EIO, false), (ENOSPC, false), (EROFS, false)]
        {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(cannot_be_synced(&error), cannot, "{error}");
        }
        let missing = sync_folder(Path::new("/nowhere/at all")).unwrap_err();
        assert!(matches!(missing, Error::Io { path, .. } if path == Path::new("/nowhere/at all")));
    }

    #[test]
    fn a_missing_parent_is_an_error_about_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_file(folder.path().join("none/a"), |_| Ok(())).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(folder.path())), "{error}");
        assert!(matches!(write_file("/", |_| Ok(())).unwrap_err(), Error::Io { .. }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_io_error() {
        // /dev/full takes whatever fits the buffer and refuses the flush with ENOSPC, as a full disk does.
        let mut writer = BufWriter::new(File::options().write(true).open("/dev/full").unwrap());
        writer.write_all(&[0; 10]).unwrap();
        let error = flush_and_sync(&mut writer, Path::new("run/metrics")).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().starts_with("run/metrics: ") && error.to_string().contains("space"), "{error}");
        // Its buffer would be written again when dropped.
        drop(writer.into_parts());
    }
}
