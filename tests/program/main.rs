//! The program `tower-iroh`, run as users run it.

mod call;
mod documented;
mod identity;
mod proxies;
mod running;
mod support;
mod tools;
