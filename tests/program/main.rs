//! The program `tower-iroh`, run as users run it.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

mod call;
mod documented;
mod identity;
mod proxies;
mod running;
mod support;
mod tools;
mod top;
