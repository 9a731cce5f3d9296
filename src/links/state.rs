/// What a peer's connection is doing, in the terms of gRPC's connectivity states.
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
    /// The last dial failed and the next is not due yet: calls fail at once.
    TransientFailure,
}
