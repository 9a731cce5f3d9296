//! Notices that a server asks for no further call on a lane, beneath a client that speaks HTTP/2 itself and tells nobody.

use std::fmt;

use crate::http2::Frames;

/// Calls a function once, with the first GOAWAY that names no error. One that does is about the lane alone.
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
            let code = ended.and_then(|head| head.code);
            if code == Some(0)
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::http2::Head;

    #[test]
    fn the_first_goaway_without_an_error_is_told_however_it_is_cut() {
        let goaway = |reason: u8| {
            let mut frame = vec![
                0,
                0,
                11,
                Head::GOAWAY,
                0,
                0,
                0,
                0,
                0,
                0x7f,
                0xff,
                0xff,
                0xff,
            ];
            frame.extend_from_slice(&[0, 0, 0, reason]);
            frame.extend_from_slice(b"why");
            frame
        };
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0].to_vec();
        for cut in 1..30 {
            let told = Arc::new(AtomicUsize::new(0));
            let tell = told.clone();
            let mut on_goaway = OnGoaway::new(move || {
                tell.fetch_add(1, Ordering::Relaxed);
            });
            let mut read = |bytes: Vec<u8>| {
                for piece in bytes.chunks(cut) {
                    on_goaway.read(piece);
                }
                told.load(Ordering::Relaxed)
            };
            assert_eq!(read([settings.clone(), goaway(11)].concat()), 0);
            assert_eq!(read(goaway(0)), 1);
            assert_eq!(read(goaway(0)), 1);
        }
    }
}
