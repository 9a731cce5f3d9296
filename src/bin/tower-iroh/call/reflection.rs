//! Asks a server for its schema: reflection v1, and v1alpha where the server has no v1.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use tonic::{Code, Request, Status, client::Grpc, metadata::MetadataMap};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{deadline::Deadline, pool::pool_of, session::Client};
use crate::failure::Failure;

/// Both versions have the same messages.
const VERSIONS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// How long one answer may take, unless calls wait for the peer. The first one may have the dial in it.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a schema may have. A server that sends more is not believed.
const MAX_FILES: usize = 2000;
const MAX_BYTES: usize = 64 << 20;
/// How many types in `Any`s may turn out to be unknown.
const MAX_UNKNOWN: usize = 1000;
/// How many extensions of one message are asked for.
const MAX_EXTENSIONS: usize = 1000;
/// Of how many messages.
const MAX_EXTENDED: usize = 1000;
/// How many imports are asked for at the same time.
const AT_ONCE: usize = 8;

/// What the sentence about a server without a usable schema says to do.
const INSTEAD: &str = "give the schema with -proto or -protoset";

/// The schema of a server, as far as it was asked for.
pub(crate) struct Reflection {
    client: Grpc<Client>,
    headers: MetadataMap,
    deadline: Deadline,
    /// How long one answer may take.
    patience: Duration,
    /// Which of the versions the server speaks, as far as is known.
    version: AtomicUsize,
    files: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    pool: DescriptorPool,
    /// Types in `Any`s that the server does not know.
    unknown: HashSet<String>,
    /// The server has answered no question about such a type.
    is_silent: bool,
}

/// The few fields of a file's descriptor that say what else is needed.
#[derive(Clone, PartialEq, Message)]
struct FileHead {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    imports: Vec<String>,
}

impl Reflection {
    pub(crate) fn new(
        client: Client,
        headers: MetadataMap,
        deadline: Deadline,
        max_message_size: usize,
        waits: bool,
    ) -> Self {
        Self {
            patience: if waits { Duration::MAX } else { PATIENCE },
            client: Grpc::new(client).max_decoding_message_size(max_message_size),
            headers,
            deadline,
            version: AtomicUsize::new(0),
            files: BTreeMap::new(),
            bytes: 0,
            pool: DescriptorPool::new(),
            unknown: HashSet::new(),
            is_silent: false,
        }
    }

    pub(crate) fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The names of the server's services, sorted.
    pub(crate) async fn services(&self) -> Result<Vec<String>, Failure> {
        match self
            .ask(MessageRequest::ListServices(String::new()))
            .await?
        {
            MessageResponse::ListServicesResponse(list) => {
                let mut names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
                names.sort();
                names.dedup();
                Ok(names)
            }
            MessageResponse::ErrorResponse(error) => Err(refused(&error)),
            _ => Err(nonsense("an answer to another question")),
        }
    }

    /// Learns the file with the symbol and all that it imports; whether the server has it.
    pub(crate) async fn learn(&mut self, symbol: &str) -> Result<bool, Failure> {
        let question = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let Some(files) = self.ask_for_files(question).await? else {
            return Ok(false);
        };
        self.complete(files).await?;
        Ok(true)
    }

    /// Keeps files with all that they import.
    async fn complete(&mut self, files: Vec<Vec<u8>>) -> Result<(), Failure> {
        let mut missing = self.keep(files)?;
        while !missing.is_empty() {
            let answers: Vec<_> = stream::iter(std::mem::take(&mut missing))
                .map(|name| self.import(name))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            missing = self.keep(answers.into_iter().flatten())?;
        }
        self.pool = pool_of(self.files.values())
            .map_err(|error| nonsense(&format!("descriptors that do not fit together: {error}")))?;
        Ok(())
    }

    /// Learns the extensions of these messages and of those in them. A server that does not tell them is believed to have none.
    pub(crate) async fn learn_extensions(
        &mut self,
        messages: impl IntoIterator<Item = MessageDescriptor>,
    ) {
        let (mut files, mut bytes) = (Vec::new(), 0);
        for message in extendable(messages).into_iter().take(MAX_EXTENDED) {
            if self
                .extensions_of(&message, &mut files, &mut bytes)
                .await
                .is_err()
            {
                return;
            }
        }
        let before = (self.files.clone(), self.bytes);
        if !files.is_empty() && self.complete(files).await.is_err() {
            (self.files, self.bytes) = before;
        }
    }

    async fn extensions_of(
        &self,
        message: &MessageDescriptor,
        files: &mut Vec<Vec<u8>>,
        bytes: &mut usize,
    ) -> Result<(), Failure> {
        let name = message.full_name();
        let question = MessageRequest::AllExtensionNumbersOfType(name.to_owned());
        let MessageResponse::AllExtensionNumbersResponse(all) = self.ask(question).await? else {
            return Ok(());
        };
        let numbers = all.extension_number.into_iter().take(MAX_EXTENSIONS);
        let unknown = numbers.filter(|it| {
            u32::try_from(*it).is_ok_and(|number| message.get_extension(number).is_none())
        });
        let mut answers = stream::iter(unknown)
            .map(|extension_number| {
                let containing_type = name.to_owned();
                self.ask_for_files(MessageRequest::FileContainingExtension(ExtensionRequest {
                    containing_type,
                    extension_number,
                }))
            })
            .buffered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            for file in answer?.into_iter().flatten() {
                *bytes += file.len();
                files.push(file);
                if files.len() > MAX_FILES || *bytes > MAX_BYTES {
                    return Err(nonsense("extensions without an end"));
                }
            }
        }
        Ok(())
    }

    /// Learns the types of messages that came in an `Any`. A type that the server does not know, or does not tell, is not asked for again.
    pub(crate) async fn learn_types(&mut self, names: Vec<String>) {
        if self.is_silent {
            return;
        }
        for name in names {
            if self.unknown.len() >= MAX_UNKNOWN || self.unknown.contains(&name) {
                continue;
            }
            match self.learn(&name).await {
                Ok(true) if self.pool.get_message_by_name(&name).is_some() => {}
                Ok(_) => drop(self.unknown.insert(name)),
                // Each answer of a call would wait for it again.
                Err(_) => {
                    self.is_silent = true;
                    return;
                }
            }
        }
    }

    /// Keeps files, and returns which imports are not there yet.
    fn keep(&mut self, files: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<String>, Failure> {
        let mut wanted = Vec::new();
        for file in files {
            let head = FileHead::decode(file.as_slice())
                .map_err(|error| nonsense(&format!("what is not a file's descriptor: {error}")))?;
            wanted.extend(head.imports);
            if self.files.contains_key(&head.name) {
                continue;
            }
            self.bytes += file.len();
            self.files.insert(head.name, file);
        }
        wanted.retain(|name| !self.files.contains_key(name));
        wanted.sort();
        wanted.dedup();
        if self.files.len() + wanted.len() > MAX_FILES || self.bytes > MAX_BYTES {
            let most = format!(
                "a schema without an end: more than {MAX_FILES} files or {} MiB",
                MAX_BYTES >> 20
            );
            return Err(nonsense(&most));
        }
        Ok(wanted)
    }

    /// The file of an import, and what else the server sends with it.
    async fn import(&self, name: String) -> Result<Vec<Vec<u8>>, Failure> {
        let question = MessageRequest::FileByFilename(name.clone());
        let files = self.ask_for_files(question).await?.unwrap_or_default();
        let has_it =
            |file: &Vec<u8>| FileHead::decode(file.as_slice()).is_ok_and(|head| head.name == name);
        if files.iter().any(has_it) {
            return Ok(files);
        }
        // Some servers leave out Google's own files.
        match DescriptorPool::global().get_file_by_name(&name) {
            Some(file) => Ok(vec![file.encode_to_vec()]),
            None => Err(nonsense(&format!(
                "a file that imports `{name}`, which it does not send"
            ))),
        }
    }

    async fn ask_for_files(
        &self,
        question: MessageRequest,
    ) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        match self.ask(question).await? {
            MessageResponse::FileDescriptorResponse(files) => Ok(Some(files.file_descriptor_proto)),
            MessageResponse::ErrorResponse(error) if error.error_code == Code::NotFound as i32 => {
                Ok(None)
            }
            MessageResponse::ErrorResponse(error) => Err(refused(&error)),
            _ => Err(nonsense("an answer to another question")),
        }
    }

    async fn ask(&self, question: MessageRequest) -> Result<MessageResponse, Failure> {
        loop {
            let version = self.version.load(Ordering::Relaxed);
            let limit = self.deadline.left().unwrap_or(Duration::MAX);
            let limit = limit.min(self.patience);
            let asked = self.ask_version(VERSIONS[version], question.clone());
            let status = match tokio::time::timeout(limit, asked).await {
                Ok(Ok(Some(answer))) => return Ok(answer),
                Ok(Ok(None)) => return Err(nonsense("no answer, and ended")),
                Ok(Err(status)) => status,
                Err(_) if self.deadline.is_over() => return Err(self.deadline.missed()),
                Err(_) => {
                    return Err(Failure::failed(format!(
                        "the server's reflection gave no answer in {limit:?}; {INSTEAD}"
                    )));
                }
            };
            // Some servers say with the call's status what others say in an answer.
            if status.code() == Code::NotFound {
                return Ok(MessageResponse::ErrorResponse(ErrorResponse {
                    error_code: Code::NotFound as i32,
                    error_message: status.message().to_owned(),
                }));
            }
            if status.code() == Code::DeadlineExceeded && self.deadline.is_over() {
                return Err(self.deadline.missed());
            }
            if status.code() != Code::Unimplemented {
                let message = format!("the server's schema cannot be had: {}", status.message());
                return Err(Status::new(status.code(), message).into());
            }
            if version + 1 == VERSIONS.len() {
                return Err(Failure::failed(format!(
                    "the server has no reflection; {INSTEAD}"
                )));
            }
            self.version.store(version + 1, Ordering::Relaxed);
        }
    }

    /// One question has one stream: a stream that stays open confuses proxies.
    async fn ask_version(
        &self,
        path: &'static str,
        question: MessageRequest,
    ) -> Result<Option<MessageResponse>, Status> {
        let question = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(question),
        };
        let mut request = Request::new(stream::iter([question]));
        *request.metadata_mut() = self.headers.clone();
        if let Some(left) = self.deadline.left() {
            request.set_timeout(left);
        }
        let mut client = self.client.clone();
        client.ready().await?;
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let path = PathAndQuery::from_static(path);
        let mut answers = client.streaming(request, path, codec).await?.into_inner();
        let answer = answers.message().await?;
        Ok(answer.and_then(|answer| answer.message_response))
    }
}

/// The messages that can be extended, among these and those in them.
fn extendable(messages: impl IntoIterator<Item = MessageDescriptor>) -> Vec<MessageDescriptor> {
    let mut stack: Vec<_> = messages.into_iter().collect();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    while let Some(message) = stack.pop() {
        if !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        stack.extend(message.fields().filter_map(|field| match field.kind() {
            Kind::Message(inner) => Some(inner),
            _ => None,
        }));
        if message.extension_ranges().len() > 0 {
            found.push(message);
        }
    }
    found
}

fn refused(error: &ErrorResponse) -> Failure {
    Failure::failed(format!(
        "the server's reflection refuses to answer: {:?}: {}",
        Code::from_i32(error.error_code),
        error.error_message
    ))
}

fn nonsense(what: &str) -> Failure {
    Failure::failed(format!("the server's reflection sent {what}; {INSTEAD}"))
}
