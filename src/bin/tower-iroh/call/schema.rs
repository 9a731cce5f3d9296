//! Where the types of a call come from: the server's reflection, or files.

use std::path::PathBuf;

use clap::Args;
use prost_reflect::{DescriptorPool, FileDescriptor};

use super::{
    files,
    reflection::Reflection,
    symbol::{self, Symbol},
};
use crate::failure::Failure;

/// Where the schema comes from.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Schema")]
pub(crate) struct SchemaOptions {
    /// A `.proto` file to read the schema from, instead of asking the server; may be repeated.
    #[arg(long, value_name = "FILE", conflicts_with = "protoset")]
    pub(crate) proto: Vec<PathBuf>,
    /// A folder in which `.proto` files and their imports are searched; may be repeated.
    #[arg(long, value_name = "DIR", requires = "proto")]
    pub(crate) import_path: Vec<PathBuf>,
    /// A file with an encoded `FileDescriptorSet` to read the schema from; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(crate) protoset: Vec<PathBuf>,
    /// Write the schema that was used to this file, for `-protoset`.
    #[arg(long, value_name = "FILE")]
    pub(crate) protoset_out: Option<PathBuf>,
}

impl SchemaOptions {
    /// Whether the server need not be asked.
    pub(crate) fn is_local(&self) -> bool {
        !self.proto.is_empty() || !self.protoset.is_empty()
    }

    /// The schema of the files.
    pub(crate) fn local(&self) -> Result<Schema, Failure> {
        let pool = match self.proto.is_empty() {
            false => files::from_protos(&self.proto, &self.import_path)?,
            true => files::from_protosets(&self.protoset)?,
        };
        Ok(Schema::Files(pool))
    }

    /// Writes what `-protoset-out` asks for.
    pub(crate) fn save(
        &self,
        used: impl IntoIterator<Item = FileDescriptor>,
    ) -> Result<(), Failure> {
        let Some(path) = &self.protoset_out else {
            return Ok(());
        };
        std::fs::write(path, files::protoset(used)).map_err(|error| Failure::file(path, error))
    }
}

/// The types that are known.
pub(crate) enum Schema {
    Server(Box<Reflection>),
    Files(DescriptorPool),
}

impl Schema {
    /// The names of the services, sorted.
    pub(crate) async fn services(&self) -> Result<Vec<String>, Failure> {
        match self {
            Self::Server(reflection) => reflection.services().await,
            Self::Files(pool) => {
                let mut names: Vec<_> = pool
                    .services()
                    .map(|it| it.full_name().to_owned())
                    .collect();
                names.sort();
                Ok(names)
            }
        }
    }

    pub(crate) fn pool(&self) -> &DescriptorPool {
        match self {
            Self::Server(reflection) => reflection.pool(),
            Self::Files(pool) => pool,
        }
    }

    /// Finds a symbol by its full name.
    pub(crate) async fn find(&mut self, name: &str) -> Result<Option<Symbol>, Failure> {
        if let Some(symbol) = symbol::find(self.pool(), name) {
            return Ok(Some(symbol));
        }
        let Self::Server(reflection) = self else {
            return Ok(None);
        };
        if reflection.learn(name).await?
            && let Some(symbol) = symbol::find(reflection.pool(), name)
        {
            return Ok(Some(symbol));
        }
        // Some servers know messages and services alone, and not what is in them.
        match name.rsplit_once('.') {
            Some((parent, _)) if reflection.learn(parent).await? => {
                Ok(symbol::find(reflection.pool(), name))
            }
            _ => Ok(None),
        }
    }

    /// Finds a symbol, or says which was meant.
    pub(crate) async fn require(&mut self, name: &str) -> Result<Symbol, Failure> {
        if let Some(symbol) = self.find(name).await? {
            return Ok(symbol);
        }
        let mut names = self.services().await?;
        names.extend(symbol::names(self.pool()));
        names.sort();
        names.dedup();
        let hint = super::nearest::nearest(name, &names)
            .map(|name| format!("; did you mean `{name}`?"))
            .unwrap_or_else(|| "; `tower-iroh list PEER` has the services".to_owned());
        Err(Failure::failed(format!("the schema has no `{name}`{hint}")))
    }

    /// Learns the types of messages that came in an `Any`. What the server does not know, or does not tell, stays unknown.
    pub(crate) async fn learn_all(&mut self, names: Vec<String>) {
        if let Self::Server(reflection) = self {
            reflection.learn_types(names).await;
        }
    }
}
