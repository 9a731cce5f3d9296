/// In the extensions of the request that finds out whether a half-open circuit may close.
///
/// The breaker has seen to it that it is not too early, so what is below need not wait by a clock of its own: a transport that keeps a
/// backoff between dials dials at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probing;
