//! Payloads that can be checked: each byte depends on its place, and each message on its number.

use std::sync::OnceLock;

use bytes::Bytes;

/// Numbers above this repeat; it only has to be larger than what a mix-up of neighbours would swap.
const NUMBERS: usize = 1000;
/// The largest payload a test can ask for.
pub const LARGEST: usize = 16 << 20;
/// The counting in a payload starts over after so many bytes, and is one ahead in each block.
const PERIOD: usize = 251;
const BLOCK: usize = 4096;

/// The payload of message `number` with `size` bytes.
///
/// It compresses well and still differs when a block is missing, doubled or swapped. All payloads are windows into one
/// buffer, so that making them costs a stream nothing.
pub fn payload(size: usize, number: u64) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    assert!(size <= LARGEST, "a payload of {size} bytes");
    let start = number as usize % NUMBERS;
    let pattern = PATTERN.get_or_init(pattern);
    pattern.slice(start..start + size)
}

/// Whether this is what [`payload`] makes.
pub fn is_payload(bytes: &[u8], number: u64) -> bool {
    bytes.len() <= LARGEST && bytes == payload(bytes.len(), number)
}

/// Made of whole slices: byte by byte it would take an unoptimised test half a second, within somebody's deadline.
fn pattern() -> Bytes {
    let counting: Vec<u8> = (0..BLOCK + PERIOD)
        .map(|place| (place % PERIOD) as u8)
        .collect();
    let mut pattern = Vec::with_capacity(LARGEST + NUMBERS + BLOCK);
    for block in 0.. {
        if pattern.len() >= LARGEST + NUMBERS {
            break;
        }
        let ahead = block % PERIOD;
        pattern.extend_from_slice(&counting[ahead..ahead + BLOCK]);
    }
    pattern.into()
}
