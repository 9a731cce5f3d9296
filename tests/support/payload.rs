//! Payloads that can be checked: each byte depends on its place, and each message on its number.

use std::sync::OnceLock;

use bytes::Bytes;

/// Numbers above this repeat; it only has to be larger than what a mix-up of neighbours would swap.
const NUMBERS: u64 = 1000;
/// The largest payload a test can ask for.
pub const LARGEST: usize = 16 << 20;

/// The payload of message `number` with `size` bytes.
///
/// It compresses well (a period of 251 within each 4 KiB) and still differs when a block is missing, doubled or
/// swapped. All payloads are windows into one buffer, so that making them costs a stream nothing.
pub fn payload(size: usize, number: u64) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    assert!(size <= LARGEST, "a payload of {size} bytes");
    let pattern = PATTERN.get_or_init(|| {
        (0..LARGEST + NUMBERS as usize)
            .map(|place| ((place % 251) + (place >> 12)) as u8)
            .collect()
    });
    let start = (number % NUMBERS) as usize;
    pattern.slice(start..start + size)
}

/// Whether this is what [`payload`] makes.
pub fn is_payload(bytes: &[u8], number: u64) -> bool {
    bytes.len() <= LARGEST && bytes == payload(bytes.len(), number)
}
