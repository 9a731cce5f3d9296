//! An endpoint's secret key, kept in a file so that its identity stays the same.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use iroh::SecretKey;

/// Reads the key at `path`, or generates one and stores it there.
///
/// The file holds 64 hexadecimal digits and a newline, and only its owner may read it (mode 0600). A new file is written
/// under a temporary name and then linked to `path`: no process reads half a key, and processes that start at the same time
/// all get the same key. On a file system without hard links, as on Android and some network shares, the file is renamed under a lock on the
/// folder instead; where such locks have no effect either, two processes that start at the same time may get different keys once.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("identity");
/// use tower_iroh::identity;
///
/// let key = identity::load_or_create(&path)?;
/// assert_eq!(identity::load_or_create(&path)?.public(), key.public());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`IdentityError`] if the file cannot be read or created, if others may read it, or if it holds no key. An
/// existing file is never changed.
pub fn load_or_create(path: impl AsRef<Path>) -> Result<SecretKey, IdentityError> {
    let path = path.as_ref();
    match load(path) {
        Err(IdentityError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(path, |new, path| fs::hard_link(new, path))
        }
        other => other,
    }
}

/// Reads the key at `path`.
///
/// # Errors
/// As [`load_or_create`], and [`IdentityError::Read`] when there is no file.
pub fn load(path: impl AsRef<Path>) -> Result<SecretKey, IdentityError> {
    let path = path.as_ref();
    let unreadable = |source| IdentityError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = fs::File::open(path).map_err(unreadable)?;
    // The permissions of the opened file; another may be at the path by now.
    check_permissions(path, &file.metadata().map_err(unreadable)?)?;
    // A key is 65 bytes; a much longer file is not a key and is not read whole.
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(&mut file, 1024), &mut text).map_err(
        |source| match source.kind() {
            io::ErrorKind::InvalidData => IdentityError::NotAKey {
                path: path.to_owned(),
            },
            _ => unreadable(source),
        },
    )?;
    let text = text.trim().to_ascii_lowercase();
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.parse() {
        Ok(key) if is_hex => Ok(key),
        _ => Err(IdentityError::NotAKey {
            path: path.to_owned(),
        }),
    }
}

fn create(
    path: &Path,
    link: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<SecretKey, IdentityError> {
    let failed = |source| IdentityError::Create {
        path: path.to_owned(),
        source,
    };
    let key = SecretKey::generate();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let beside = Beside(folder.join(format!(".identity-{:016x}", rand::random::<u64>())));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside.0).map_err(failed)?;
    let hex: String = key
        .to_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    writeln!(file, "{hex}").map_err(failed)?;
    file.sync_all().map_err(failed)?;
    // Unlike a rename, a link fails if another process was faster; then that process's key is used.
    let linked = match link(&beside.0, path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(_) => rename_new(&beside.0, folder, path).map_err(failed)?,
    };
    if linked { Ok(key) } else { load(path) }
}

/// Renames a file where no other is yet, for file systems without hard links; whether it did.
fn rename_new(new: &Path, folder: &Path, path: &Path) -> io::Result<bool> {
    // Released when it is closed. Where there are no locks, the check is as good as it gets.
    let lock = fs::File::open(folder)?;
    let _ = lock.lock();
    let is_new = !path.try_exists()?;
    if is_new {
        fs::rename(new, path)?;
    }
    Ok(is_new)
}

/// A temporary file, removed on drop.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        // The file may never have been created, and a destructor cannot report an error.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(unix)]
fn check_permissions(path: &Path, metadata: &fs::Metadata) -> Result<(), IdentityError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_permissions(_: &Path, _: &fs::Metadata) -> Result<(), IdentityError> {
    Ok(())
}

/// An identity file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the identity file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be created.
    #[error("cannot create the identity file {}", path.display())]
    Create {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the file.
    #[error(
        "the identity file {} has mode {mode:04o}: only its owner may read it; run chmod 600 on it, or make a new key if it \
         may have been read", path.display()
    )]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key. The error does not show its content, which may be secret.
    #[error("the identity file {} holds no key: 64 hexadecimal digits are accepted", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let made = load_or_create(&path).expect("made");
        assert_eq!(
            load_or_create(&path).expect("read").to_bytes(),
            made.to_bytes()
        );
        let names: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
        assert_eq!(names.len(), 1, "nothing else is left behind: {names:?}");
    }

    #[cfg(unix)]
    #[test]
    fn it_belongs_to_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        load_or_create(&path).expect("made");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for open in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).expect("set");
            let error = load_or_create(&path).expect_err("too open");
            assert!(matches!(error, IdentityError::TooOpen { mode, .. } if mode == open));
            assert!(error.to_string().contains(&format!("{open:04o}")));
        }
    }

    #[test]
    fn a_file_that_holds_something_else_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        load_or_create(&path).expect("made");
        for content in [&b""[..], b"secret password", b"\xff\xfe", &[b'a'; 4096]] {
            fs::write(&path, content).expect("written");
            let error = load_or_create(&path).expect_err("no key");
            assert!(matches!(error, IdentityError::NotAKey { .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("password"));
            assert_eq!(fs::read(&path).expect("there"), content);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = load_or_create("/nowhere/at/all/key").expect_err("no folder");
        assert!(matches!(error, IdentityError::Create { .. }));
        assert!(error.to_string().contains("/nowhere/at/all/key"));
    }

    #[test]
    fn many_at_once_get_the_same_key() {
        fn no_links(_: &Path, _: &Path) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn links(new: &Path, path: &Path) -> io::Result<()> {
            fs::hard_link(new, path)
        }
        for link in [links, no_links] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("key");
            let keys: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..16)
                    .map(|_| scope.spawn(|| create(&path, link).expect("a key").public()))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("no panic"))
                    .collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]));
            assert_eq!(load(&path).expect("read").public(), keys[0]);
            let names: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
            assert_eq!(names.len(), 1, "nothing else is left behind: {names:?}");
        }
    }

    #[test]
    fn capitals_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let key = load_or_create(&path).expect("made").public();
        let text = fs::read_to_string(&path).expect("read");
        fs::write(&path, text.to_ascii_uppercase()).expect("written");
        assert_eq!(load(&path).expect("read").public(), key);
    }
}
