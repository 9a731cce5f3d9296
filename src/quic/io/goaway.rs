//! Notices that a server says goodbye on a lane, beneath a client that speaks HTTP/2 itself and tells nobody.

use std::fmt;

use crate::http2::{Frames, Head};

/// Calls a function once, with the first GOAWAY that comes.
pub(crate) struct OnGoaway {
    frames: Frames,
    tell: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl OnGoaway {
    pub(crate) fn new(tell: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            frames: Frames::default(),
            tell: Some(Box::new(tell)),
        }
    }

    /// The server's next bytes.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && self.tell.is_some() {
            let (part, ended) = self.frames.next_part(&bytes[at..]);
            at += part;
            if ended.is_some_and(|head| head.kind == Head::GOAWAY)
                && let Some(tell) = self.tell.take()
            {
                tell();
            }
        }
    }
}

impl fmt::Debug for OnGoaway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnGoaway")
    }
}
