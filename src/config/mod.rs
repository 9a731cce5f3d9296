//! The configuration of a program's transports: a file in TOML, which is followed while the program runs, or the same in code.
//!
//! ```
//! use tower_iroh::config::{Config, Mode};
//!
//! let config = Config::reader()
//!     .group("status", ["/cluster.v1.ClusterService/GetClusterStatus"])
//!     .from_toml(r#"
//! [transport]
//! mode = "dual"
//!
//! [transport.migration]
//! prefer_iroh_for = ["health", "status"]
//! "#)?;
//! assert_eq!(config.mode(), Mode::Dual);
//! assert_eq!(config.failure_threshold(), 5, "a key that is left out has its default");
//! # Ok::<(), tower_iroh::config::LoadError>(())
//! ```
//!
//! Every key with its type, unit and default, and the effect of a reload, is in `docs/configuration.md`.
//!
//! **Strict.** An unknown key or group, a value of another type or out of its range, and settings that contradict each other are errors. All are reported at
//! once, each with its line and column, the key, what was found, what is accepted, and the nearest valid name: [`Problem`].
//!
//! **Groups.** The file names methods by groups. `health` is built in. A program registers others with [`ConfigReader::group`], and an operator adds them to
//! the table `[transport.services]`. Where both have a group of one name, the file's counts.

#[cfg(feature = "authorize")]
mod apply;
#[cfg(feature = "authorize")]
mod authorization;
mod check;
mod codecs;
mod error;
mod file_watcher;
mod follower;
mod in_force;
mod keys;
mod methods;
mod nearest;
mod parts;
mod peers;
mod policy;
mod read;
mod reader;
mod reload;
mod settings;
mod show;
#[cfg(feature = "authorize")]
mod transport;
#[cfg(feature = "authorize")]
mod transport_builder;
#[cfg(feature = "authorize")]
mod transport_error;
mod value;
mod values;
mod watch;

pub use crate::server::Require;
pub use error::{LoadError, Problem};
pub use follower::Followed;
pub use reader::ConfigReader;
pub use reload::{Apply, Change, Commit, Next, Reload, ReloadError};
pub use settings::{Config, ConfigBuilder};
#[cfg(feature = "authorize")]
pub use transport::Transport;
#[cfg(feature = "authorize")]
pub use transport_builder::TransportBuilder;
#[cfg(feature = "authorize")]
pub use transport_error::TransportError;
pub use values::{Mode, RaftTransport};
pub use watch::{ConfigWatch, ConfigWatchBuilder};
