/// In the extensions of the request that probes a half-open circuit.
///
/// The breaker has made sure that it is not too early, so the layers below need not wait by their own clock: a transport with a
/// backoff between dials dials at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probing;
