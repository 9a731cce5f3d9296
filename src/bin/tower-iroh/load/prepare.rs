//! What is done before the first call: the requests are read, the method is found, and each target is known to answer.

use std::time::Duration;

use clap::ValueEnum as _;
use http::uri::PathAndQuery;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tokio::{sync::Mutex, time::timeout};
use tonic::{Code, Request, Status, client::Grpc, metadata::MetadataMap};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::Options;
use crate::{
    call::{
        Client, DynamicCodec, Format, Input, ReadOptions, RequestOptions, Schema, Session, Source,
        find_method, method_path,
    },
    connect::{CallPolicy, ConnectOptions, Transport, YEAR},
    failure::Failure,
    progress,
};

/// Requests are kept, to be sent in turn.
const MAX_REQUESTS: usize = 100_000;

/// Makes calls to one target.
#[derive(Clone)]
pub(super) struct Caller {
    client: Grpc<Client>,
    method: MethodDescriptor,
    path: PathAndQuery,
    headers: MetadataMap,
    limit: Duration,
}

impl Caller {
    pub(super) async fn call(mut self, message: DynamicMessage) -> Result<(), Status> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers;
        request.set_timeout(self.limit);
        let codec = DynamicCodec(self.method.output());
        let answered = async {
            self.client.ready().await?;
            if !self.method.is_server_streaming() {
                let answer = self.client.unary(request, self.path, codec).await;
                return answer.map(drop);
            }
            let stream = self.client.server_streaming(request, self.path, codec);
            let mut messages = stream.await?.into_inner();
            while messages.message().await?.is_some() {}
            Ok(())
        };
        let is_over = |_| Err(Status::deadline_exceeded("`-max-time` is over"));
        timeout(self.limit, answered).await.unwrap_or_else(is_over)
    }
}

/// All that the calls need.
pub(super) struct Ready {
    pub(super) callers: Vec<Caller>,
    pub(super) requests: Vec<DynamicMessage>,
    pub(super) sessions: Vec<Session>,
}

impl Options {
    /// The targets by the names that they have in the table, and a session with each. Nothing is dialled.
    pub(super) async fn sessions(&self) -> Result<(Vec<String>, Vec<Session>), Failure> {
        let mut targets = vec![(self.peer.as_str(), self.connect.transport)];
        targets.extend(self.beside.as_deref().map(|beside| {
            let same_peer = Transport::from_str(beside, false).map(|it| (self.peer.as_str(), it));
            same_peer.unwrap_or((beside, self.connect.transport))
        }));
        let policy = CallPolicy {
            // What fails is to be seen.
            attempts: Some(1),
            ..self.request.call_policy()
        };
        // `-max-time` is each call's. What comes before the calls has limits of its own.
        let request = RequestOptions {
            max_time: None,
            ..self.request.clone()
        };
        let (mut names, mut sessions) = (Vec::new(), Vec::new());
        for (target, transport) in targets {
            let connect = ConnectOptions {
                transport,
                ..self.connect.clone()
            };
            let first = sessions.first();
            let session =
                Session::beside(first, target, &connect, &request, policy.clone()).await?;
            if let (Some(name), None) = (&self.beside, &session.connection.channel)
                && Transport::from_str(name, false).is_ok()
            {
                return Err(Failure::usage(format!(
                    "`--beside {name}` needs a peer with a key; `{target}` is a server on TCP"
                )));
            }
            let name = match (&session.connection.channel, transport) {
                (None, _) => target,
                (Some(_), Transport::Iroh) => "iroh",
                (Some(_), Transport::Tcp) => "tcp",
            };
            let is_taken = names.iter().any(|it| it == name);
            names.push(if is_taken { "beside" } else { name }.to_owned());
            sessions.push(session);
        }
        Ok((names, sessions))
    }

    /// How long a call may take.
    fn limit(&self) -> Duration {
        self.request.max_time.unwrap_or(YEAR)
    }

    /// Reads the requests, finds the method, and makes sure that each target answers.
    pub(super) async fn prepare(self, mut sessions: Vec<Session>) -> Result<Ready, Failure> {
        let headers = self.request.headers(&[])?;
        let options = ReadOptions {
            format: Format::Json,
            allow_unknown_fields: false,
        };
        let input = Input::open(Source::read(self.data.as_deref()), options).await?;
        // With a schema of its own the program finds mistakes before it dials.
        let is_known = self.schema.is_local() || self.method.is_none();
        if !is_known {
            dial(&mut sessions).await?;
        }
        let mut schema = match self.method {
            Some(_) => sessions[0].schema(&self.schema)?,
            // A server with a health service need not have reflection.
            None => health()?,
        };
        let name = self.method.as_deref();
        let name = name.unwrap_or("grpc.health.v1.Health/Check");
        let method = find_method(&mut schema, name).await?;
        if method.is_client_streaming() {
            return Err(Failure::usage(format!(
                "{} takes a stream of requests; `load` calls methods that take one request",
                method.full_name()
            )));
        }
        let method = schema.with_extensions(method).await;
        self.schema.save([method.parent_file()])?;
        let requests = requests(input, method.input(), &mut schema).await?;
        if is_known {
            dial(&mut sessions).await?;
        }
        let mut callers = Vec::new();
        for session in &sessions {
            ensure_reachable(session, &headers, self.limit()).await?;
            callers.push(Caller {
                client: session.grpc(),
                path: method_path(&method)?,
                method: method.clone(),
                headers: headers.clone(),
                limit: self.limit(),
            });
        }
        Ok(Ready {
            callers,
            requests,
            sessions,
        })
    }
}

/// All requests of the input; an empty message where there is none.
async fn requests(
    mut input: Input,
    descriptor: MessageDescriptor,
    schema: &mut Schema,
) -> Result<Vec<DynamicMessage>, Failure> {
    let schema = Mutex::new(schema);
    let mut requests = Vec::new();
    while let Some(request) = input.next(&descriptor, &schema).await? {
        if requests.len() == MAX_REQUESTS {
            return Err(Failure::usage(format!(
                "`-d` has more than {MAX_REQUESTS} requests"
            )));
        }
        requests.push(request);
    }
    if requests.is_empty() {
        requests.push(DynamicMessage::new(descriptor));
    }
    Ok(requests)
}

async fn dial(sessions: &mut [Session]) -> Result<(), Failure> {
    for session in sessions {
        session.dial().await?;
    }
    Ok(())
}

fn health() -> Result<Schema, Failure> {
    let pool = DescriptorPool::decode(tonic_health::pb::FILE_DESCRIPTOR_SET);
    Ok(Schema {
        server: None,
        files: Some(pool.map_err(Failure::failed)?),
    })
}

/// Makes sure that a target's program answers, so that a wrong address is told at once and not by a table of failures. Any answer will do but UNAVAILABLE, which a
/// proxy in front of the program may say.
async fn ensure_reachable(
    session: &Session,
    headers: &MetadataMap,
    limit: Duration,
) -> Result<(), Failure> {
    let mut request = Request::new(HealthCheckRequest::default());
    *request.metadata_mut() = headers.clone();
    request.set_timeout(limit);
    let mut health = HealthClient::new(session.client());
    let asked = progress::over_two_seconds(
        "waiting for the first answer",
        timeout(limit, health.check(request)),
    );
    match asked.await {
        Err(_) => Err(Status::deadline_exceeded("`-max-time` is over, without an answer").into()),
        Ok(Err(status)) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
            Err(status.into())
        }
        Ok(_) => Ok(()),
    }
}
