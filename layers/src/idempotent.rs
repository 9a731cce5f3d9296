/// Says that this call may be done twice, whatever its method: an extension of a request. A retry and a buffer read it, beside the
/// [table of methods](crate::methods), and a transport that is told to send early data sends only such calls in it, because early data may be replayed.
///
/// ```
/// # use tower_iroh_layers::Idempotent;
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(Idempotent);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idempotent;
