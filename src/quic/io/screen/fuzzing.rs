//! The bytes of a lane before its handshake, as bytes that anybody may send.

use std::sync::Arc;

use super::{MOST, Screen};

/// Bytes of which the first says how they arrive in pieces. Panics if more passes than may, or anything after bytes that had to wait.
pub fn screen(data: &[u8]) {
    let Some((pieces, data)) = data.split_first() else {
        return;
    };
    let mut screen = Screen::new(Arc::new(|path| path == "/a.B/Get"));
    let mut passed = 0;
    let mut shut = false;
    for piece in data.chunks(usize::from(*pieces) + 1) {
        let through = screen.pass(piece);
        assert!(through <= piece.len() && !(shut && through > 0));
        shut |= through < piece.len();
        passed += through;
    }
    assert!(passed <= MOST);
}
