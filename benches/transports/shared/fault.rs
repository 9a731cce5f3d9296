//! What goes wrong, as text.

/// Whatever went wrong in an arm; only its text travels.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The text of an error with all of its causes: `Status` and iroh both keep the interesting part in the source.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}
