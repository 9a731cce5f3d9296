use std::fs::OpenOptions;

use crate::{
    LabError,
    suite::{is_in_path, needs},
};

/// Makes this process one that may make hosts, or says why it can't be: root or not, it moves into a user namespace of its own.
///
/// Call it first thing in `main`: Linux lets only a process with one thread do this. Calling it again does nothing.
///
/// # Errors
/// [`LabError::Unavailable`] where user namespaces are forbidden, `/dev/net/tun` can't be opened, or `ip` is not in `PATH`.
pub fn enter() -> Result<(), LabError> {
    if !is_in_path("ip") {
        return Err(LabError::Unavailable {
            what: needs("ip"),
            source: None,
        });
    }
    patchbay::init_userns().map_err(|error| {
        LabError::unavailable(
            "user namespaces are not allowed (sysctl kernel.unprivileged_userns_clone)",
            error,
        )
    })?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| LabError::unavailable("/dev/net/tun can't be opened", error))?;
    Ok(())
}
