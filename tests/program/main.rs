//! The program `tower-iroh`, run as users run it.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

mod both_transports;
mod call;
mod cost;
mod documented;
mod gateway_tls;
mod identity;
mod load;
mod proxies;
mod running;
mod secrets;
mod support;
mod tools;
mod top;
