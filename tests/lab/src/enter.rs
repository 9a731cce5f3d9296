use std::{fs::OpenOptions, process::Command};

use crate::LabError;

/// Makes this process one that may make hosts, or says why it can't be: root or not, it moves into a user namespace of its own.
///
/// Call it first thing in `main`: Linux lets only a process with one thread do this. Calling it again does nothing.
///
/// # Errors
/// [`LabError::Unavailable`] where user namespaces are forbidden, `/dev/net/tun` can't be opened, or `ip` is not installed.
pub fn enter() -> Result<(), LabError> {
    Command::new("ip").arg("-V").output().map_err(|error| {
        LabError::unavailable("the program `ip` is missing (tests/lab/install)", error)
    })?;
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
