/// What a peer's connection is doing, in the terms of gRPC's connectivity states, and one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// There is none, and the next call dials.
    #[default]
    Idle,
    /// A dial is under way.
    Connecting,
    /// It is there.
    Ready,
    /// It is there, and the peer has not answered for half a second, or two round trips, while calls wait. Calls are sent all the same, but for those that may
    /// go over another transport.
    Silent,
    /// The last dial failed and the next is not due yet: calls fail at once.
    TransientFailure,
}
