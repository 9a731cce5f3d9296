//! Where the types of a call come from: the server's reflection, or files.

use std::path::PathBuf;

use clap::Args;
use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor, MethodDescriptor};

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
    /// Ask the server for its schema. Without this flag that is done unless `-proto` or `-protoset` is given; with it and files, what the server does not know is
    /// searched in the files.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) use_reflection: Option<bool>,
    /// Write the schema that was used to this file, for `-protoset`.
    #[arg(long, value_name = "FILE")]
    pub(crate) protoset_out: Option<PathBuf>,
    /// Write the schema that was used to this folder, as `.proto` files.
    #[arg(long, value_name = "DIR")]
    pub(crate) proto_out_dir: Option<PathBuf>,
}

impl SchemaOptions {
    fn has_files(&self) -> bool {
        !self.proto.is_empty() || !self.protoset.is_empty()
    }

    /// Whether the server need not be asked.
    pub(crate) fn is_local(&self) -> bool {
        !self.use_reflection.unwrap_or(!self.has_files())
    }

    /// The schema of the files alone.
    pub(crate) fn local(&self) -> Result<Schema, Failure> {
        let files = match (self.has_files(), self.proto.is_empty()) {
            (true, false) => Some(files::from_protos(&self.proto, &self.import_path)?),
            (true, true) => Some(files::from_protosets(&self.protoset)?),
            (false, _) if self.is_local() => {
                let message = "without reflection there is no schema; give one with -proto or -protoset, or leave out -use-reflection=false";
                return Err(Failure::usage(message));
            }
            (false, _) => None,
        };
        Ok(Schema {
            server: None,
            files,
        })
    }

    /// Whether the schema is to be written to files.
    pub(crate) fn saves(&self) -> bool {
        self.protoset_out.is_some() || self.proto_out_dir.is_some()
    }

    /// Writes what `-protoset-out` and `-proto-out-dir` ask for.
    pub(crate) fn save(
        &self,
        used: impl IntoIterator<Item = FileDescriptor>,
    ) -> Result<(), Failure> {
        if !self.saves() {
            return Ok(());
        }
        let files = files::with_imports(used);
        if let Some(path) = &self.protoset_out {
            std::fs::write(path, files::protoset(&files))
                .map_err(|error| Failure::file(path, error))?;
        }
        match &self.proto_out_dir {
            Some(folder) => files::write_protos(&files, folder),
            None => Ok(()),
        }
    }
}

/// The types that are known.
#[derive(Default)]
pub(crate) struct Schema {
    pub(crate) server: Option<Reflection>,
    pub(crate) files: Option<DescriptorPool>,
}

impl Schema {
    /// The names of the services, sorted: the server's where it is asked.
    pub(crate) async fn services(&self) -> Result<Vec<String>, Failure> {
        if let Some(reflection) = &self.server {
            return reflection.services().await;
        }
        let services = self.files.iter().flat_map(DescriptorPool::services);
        let mut names: Vec<_> = services.map(|it| it.full_name().to_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Where types are found; the first that has a type counts.
    pub(crate) fn pools(&self) -> Vec<DescriptorPool> {
        let learnt = self.server.as_ref().map(|it| it.pool().clone());
        learnt.into_iter().chain(self.files.clone()).collect()
    }

    /// Finds a symbol by its full name: with the server, or else in the files.
    pub(crate) async fn find(&mut self, name: &str) -> Result<Option<Symbol>, Failure> {
        let asked = match &mut self.server {
            Some(reflection) => ask(reflection, name).await,
            None => Ok(None),
        };
        let in_files = || symbol::find(self.files.as_ref()?, name);
        match asked {
            Ok(Some(symbol)) => Ok(Some(symbol)),
            asked => in_files().map_or(asked, |symbol| Ok(Some(symbol))),
        }
    }

    /// Finds a symbol, or says which was meant.
    pub(crate) async fn require(&mut self, name: &str) -> Result<Symbol, Failure> {
        if let Some(symbol) = self.find(name).await? {
            return Ok(symbol);
        }
        let mut names = self.services().await?;
        names.extend(self.pools().iter().flat_map(symbol::names));
        names.sort();
        names.dedup();
        let hint = super::nearest::nearest(name, &names)
            .map(|name| format!("; did you mean `{name}`?"))
            .unwrap_or_else(|| "; `tower-iroh list PEER` has the services".to_owned());
        Err(Failure::failed(format!("the schema has no `{name}`{hint}")))
    }

    /// Learns a type that a message has in an `Any`. Returns the message's own type, which knows it from then on.
    pub(crate) async fn learn_beside(
        &mut self,
        name: &str,
        message: &MessageDescriptor,
    ) -> Option<MessageDescriptor> {
        self.learn_all(vec![name.to_owned()]).await;
        let pool = self.server.as_ref()?.pool();
        pool.get_message_by_name(name)?;
        pool.get_message_by_name(message.full_name())
    }

    /// Learns the extensions of what the method sends and receives. Returns the method, which knows them from then on.
    pub(crate) async fn with_extensions(&mut self, method: MethodDescriptor) -> MethodDescriptor {
        let Some(reflection) = &mut self.server else {
            return method;
        };
        reflection
            .learn_extensions([method.input(), method.output()])
            .await;
        match symbol::find(reflection.pool(), method.full_name()) {
            Some(Symbol::Method(method)) => method,
            _ => method,
        }
    }

    /// Learns the types of messages that came in an `Any`. What the server does not know, or does not tell, stays unknown.
    pub(crate) async fn learn_all(&mut self, names: Vec<String>) {
        if let Some(reflection) = &mut self.server {
            reflection.learn_types(names).await;
        }
    }
}

async fn ask(reflection: &mut Reflection, name: &str) -> Result<Option<Symbol>, Failure> {
    if let Some(symbol) = symbol::find(reflection.pool(), name) {
        return Ok(Some(symbol));
    }
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
