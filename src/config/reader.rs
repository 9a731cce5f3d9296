use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Config, LoadError, read::read, settings::Groups};

/// Reads configurations for a program that has groups of methods of its own.
///
/// ```
/// use tower_iroh::config::Config;
///
/// let reader = Config::reader().group("vm_ops", ["/cluster.v1.ClusterService/CreateVm"]);
/// let text = r#"transport.iroh.prefer_for_services = ["vm_ops"]"#;
/// assert_eq!(reader.from_toml(text)?.prefer_iroh_for(), ["vm_ops"]);
///
/// let error = Config::from_toml(text).unwrap_err();
/// assert!(error.to_string().contains("no such group"));
/// # Ok::<(), tower_iroh::config::LoadError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ConfigReader {
    groups: Groups,
}

/// Longer than any configuration.
const LONGEST: u64 = 1 << 20;

impl ConfigReader {
    /// Registers a group of methods: `/pkg.Svc/Method`, and for all methods of a service `/pkg.Svc/*` or `pkg.Svc`. It replaces one of the same name,
    /// and the file's table `[transport.services]` may replace it.
    pub fn group<M: Into<String>>(
        mut self,
        name: impl Into<String>,
        methods: impl IntoIterator<Item = M>,
    ) -> Self {
        let methods = methods.into_iter().map(Into::into).collect();
        self.groups.insert(name.into(), methods);
        self
    }

    /// Reads a configuration from TOML. Relative paths in it begin at the current folder of the process.
    ///
    /// # Errors
    /// [`LoadError::Invalid`] with all problems, also those with groups that were registered in code.
    pub fn from_toml(&self, text: &str) -> Result<Config, LoadError> {
        read(text, &self.groups)
    }

    /// Reads a configuration from a file of at most 1 MiB, and logs its [warnings](Config::warnings). Relative paths in it begin at the file's folder, as it is
    /// now: the process may change its own folder later.
    ///
    /// It blocks for as long as the file system does.
    ///
    /// # Errors
    /// [`LoadError`] for a file that cannot be read, or with all problems of its text.
    pub fn from_file(&self, path: impl AsRef<Path>) -> Result<Config, LoadError> {
        let path = path.as_ref();
        let text = text_of(path).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config = self.read_as(path, &text)?;
        for warning in config.warnings() {
            tracing::warn!(target: "tower_iroh::config", file = %path.display(), "{warning}");
        }
        Ok(config)
    }

    /// Reads the text of a file.
    pub(super) fn read_as(&self, path: &Path, text: &str) -> Result<Config, LoadError> {
        let mut config = self.from_toml(text).map_err(|error| error.in_file(path))?;
        let path = absolute(path);
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in [
            &mut config.identity_file,
            &mut config.authorization_file,
            &mut config.rollout_state_folder,
        ] {
            // An absolute path stays what it is.
            *file = file.take().map(|file: PathBuf| folder.join(file));
        }
        Ok(config)
    }
}

/// A path that stays the same when the process changes its folder.
pub(super) fn absolute(path: &Path) -> PathBuf {
    // It fails for an empty path, and where the process has no folder any more.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The text of a file that is no longer than a configuration can be.
pub(super) fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(LONGEST + 1);
    file.read_to_string(&mut text)?;
    match text.len() as u64 > LONGEST {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file is larger than {LONGEST} bytes"),
        )),
        false => Ok(text),
    }
}

impl Config {
    /// A reader, to register groups of methods with: see [`ConfigReader`].
    pub fn reader() -> ConfigReader {
        ConfigReader::default()
    }

    /// Reads a configuration from TOML, with no groups but `health` and those in its own text.
    ///
    /// # Errors
    /// [`LoadError::Invalid`] with all problems.
    pub fn from_toml(text: &str) -> Result<Self, LoadError> {
        Self::reader().from_toml(text)
    }

    /// Reads a configuration from a file, with no groups but `health` and those in its own text: see [`ConfigReader::from_file`].
    ///
    /// # Errors
    /// [`LoadError`] for a file that cannot be read, or with all problems of its text.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::reader().from_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_begin_at_the_files_folder_whatever_becomes_of_the_processs() {
        let text = "transport.mode = \"dual\"\ntransport.identity_file = \"key\"";
        let read = Config::reader().read_as(Path::new("conf/app.toml"), text);
        let folder = std::env::current_dir().expect("a folder");
        let config = read.expect("valid");
        assert_eq!(config.identity_file(), Some(&*folder.join("conf/key")));
    }
}
