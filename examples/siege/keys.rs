//! Who is who. All processes know the keys, so that nothing has to be handed over.

use iroh::SecretKey;

/// How many honest callers there are over each transport.
pub(crate) const CALLERS: u8 = 10;

/// An honest caller's key, by its number, over either transport.
pub(crate) fn honest(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[100 + number; 32])
}

/// How many attackers there are that the policy permits to call everything: callers that turned bad.
pub(crate) const INSIDERS: u8 = 32;

/// The key of an insider, by its number. Each attack has one of its own, so that what one leaves behind is not in the way of the next.
pub(crate) fn insider(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[200 + number % INSIDERS; 32])
}
