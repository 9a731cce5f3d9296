//! What an arm has to be able to do.

use std::future::Future;

use bytes::Bytes;

use super::Fault;

/// A server and a client that reaches it, both in this process.
pub trait Arm: Send + Sync + 'static {
    /// A connection.
    type Link: Link;

    /// A connection that shares nothing with earlier ones but the sockets and keys of its endpoint.
    fn link(&self) -> impl Future<Output = Result<Self::Link, Fault>> + Send;

    /// What a reader of the figures should know.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One connection from the client to the server.
pub trait Link: Send + Sync + 'static {
    /// Somebody who calls over it.
    type Caller: Caller;

    /// One more caller.
    fn caller(&self) -> impl Future<Output = Result<Self::Caller, Fault>> + Send;

    /// Closes the connection and returns when that is under way.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Takes each message as it comes; `Ok(true)` asks for more.
pub type OnMessage<'a> = dyn FnMut(&Bytes) -> Result<bool, Fault> + Send + 'a;

/// One caller, with at most one call in flight.
pub trait Caller: Send + 'static {
    /// Sends `payload` and returns the echo.
    fn unary(&mut self, payload: Bytes) -> impl Future<Output = Result<Bytes, Fault>> + Send;

    /// Reads a stream of `count` messages of `size` zeros to its end.
    fn server_stream(
        &mut self,
        count: u32,
        size: u32,
        on_message: &mut OnMessage<'_>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Sends `payload` and again after each echo, on one stream, for as long as `on_message` asks for more.
    fn ping_pong(
        &mut self,
        payload: Bytes,
        on_message: &mut OnMessage<'_>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}
