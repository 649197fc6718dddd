//! Reading the files of a project. A project is read from its own folder and from nowhere else: a path that leads
//! out of it, also over a symbolic link, is refused.

use std::fs;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use crate::yaml::lint::{Lints, SourceFile, Span};

/// Largest file of a project, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a file of the project cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path is absolute, or leads out of the project's folder.
    #[error("the path leads out of the project's folder")]
    Outside,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// It is a folder or a device.
    #[error("this is no file")]
    NotAFile,
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("the file is larger than {} KiB", FILE_BYTES_MAX >> 10)]
    TooLarge,
    /// It is not UTF-8.
    #[error("the file is not UTF-8 text")]
    NotUtf8,
    /// The system refuses to read it.
    #[error("the file cannot be read")]
    Unreadable(#[source] io::Error),
}

impl FileError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Outside => "keep the file in the project's folder and write its path from there",
            Self::Missing => "write a path from the project's folder, such as schemas/payment.avsc",
            Self::NotAFile => "name a file",
            Self::TooLarge => "split it",
            Self::NotUtf8 => "save it as UTF-8",
            Self::Unreadable(_) => "look at its permissions",
        }
    }
}

/// Reads the bytes of `path`, which is relative to `root` and stays below it.
///
/// # Errors
/// [`FileError`], which says why not.
pub fn read_bytes(root: &Path, path: &Path) -> Result<Vec<u8>, FileError> {
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(FileError::Outside);
    }
    let real_root = root.canonicalize().map_err(by_kind)?;
    let real_path = root.join(path).canonicalize().map_err(by_kind)?;
    if !real_path.starts_with(&real_root) {
        return Err(FileError::Outside);
    }
    let metadata = fs::metadata(&real_path).map_err(by_kind)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile);
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLarge);
    }
    fs::read(&real_path).map_err(by_kind)
}

/// Reads the text of `path`, which is relative to `root` and stays below it.
///
/// # Errors
/// [`FileError`], which says why not.
pub fn read(root: &Path, path: &Path) -> Result<Arc<SourceFile>, FileError> {
    let text = String::from_utf8(read_bytes(root, path)?).map_err(|_| FileError::NotUtf8)?;
    Ok(Arc::new(SourceFile { path: path.to_owned(), text }))
}

/// Reads a file that another file of the project names at `span`; a lint there when it cannot be read.
pub fn named(root: &Path, path: &Path, span: &Span, lints: &mut Lints) -> Option<Arc<SourceFile>> {
    match read(root, path) {
        Ok(file) => Some(file),
        Err(error) => {
            let message = format!("`{}` cannot be used: {error}", path.display());
            lints.error("bad-path", span, message, error.help());
            None
        }
    }
}

fn by_kind(error: io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileError::Missing,
        _ => FileError::Unreadable(error),
    }
}
