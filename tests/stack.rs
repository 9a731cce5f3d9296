//! The layers as they are assembled, over real connections: iroh and TCP. What each layer promises alone, and under paused time, is tested
//! in `layers/tests`.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

#[path = "stack/support.rs"]
mod support;

#[path = "stack/breaker.rs"]
mod breaker;
#[path = "stack/buffer.rs"]
mod buffer;
#[path = "stack/calls.rs"]
mod calls;
#[path = "stack/paused.rs"]
mod paused;
#[path = "stack/tower.rs"]
mod tower_parts;
