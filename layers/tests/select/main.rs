//! Select's contracts, over two arms whose readiness and answers the test decides.

mod adaptive;
mod arm;
mod canary;
mod cancel;
mod compose;
mod fallback;
mod policy;
mod readiness;
mod tells;
