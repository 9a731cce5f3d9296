use std::fmt;

/// What a canary's decision sticks to: a user, a tenant, a shard.
///
/// Put it into a request's extensions. Calls with equal keys go over the same arm, on every machine and after every restart: the hash is
/// FNV-1a (64 bits), which never changes. It is no secret and no defence: a caller that chooses its key may choose its arm.
///
/// ```
/// use tower_iroh_layers::select::StickyKey;
///
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(StickyKey::new("tenant-17"));
/// assert_eq!(StickyKey::new("tenant-17"), StickyKey::new(b"tenant-17"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StickyKey(u64);

impl StickyKey {
    /// The key that these bytes are.
    pub fn new(key: impl AsRef<[u8]>) -> Self {
        Self(fnv1a(key.as_ref()))
    }

    /// A key that equals no other but by accident: for a channel whose calls should stay together, until the process ends.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The key of a call that has none.
    pub(super) fn of_call(seed: u64, number: u64) -> Self {
        Self(mix(seed.wrapping_add(number)))
    }

    /// Where between 0 and 9,999 the key stands for the salt.
    pub(super) fn place(self, salt: u64) -> u32 {
        let high = mix(self.0 ^ salt) >> 32;
        // Below 10,000: the product is below 10,000 x 2^32.
        ((high * 10_000) >> 32) as u32
    }
}

impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StickyKey({:016x})", self.0)
    }
}

/// Fowler, Noll and Vo's hash, draft-eastlake-fnv: the same for ever, and quick for the few bytes of a key.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64's step (Steele, Lea and Flood, OOPSLA 2014): every bit of what goes in moves every bit of what comes out.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Published test vectors: a change of these moves every user.
    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        // The first of SplitMix64 with the seed 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn keys_are_spread_evenly() {
        for salt in ["", "a", "rollout-7"].map(|salt| fnv1a(salt.as_bytes())) {
            let mut tenths = [0u32; 10];
            for n in 0..100_000 {
                let place = StickyKey::new(format!("tenant-{n}")).place(salt);
                tenths[place as usize / 1000] += 1;
            }
            // Three deviations of 95 are 285.
            for tenth in tenths {
                assert!((9_600..10_400).contains(&tenth), "{tenths:?}");
            }
        }
    }

    #[test]
    fn another_salt_asks_other_keys() {
        let within = |salt: u64, n: u32| StickyKey::new(n.to_be_bytes()).place(salt) < 1000;
        let (a, b) = (fnv1a(b"a"), fnv1a(b"b"));
        let both = (0..100_000).filter(|n| within(a, *n) && within(b, *n));
        // A tenth of a tenth.
        let both = both.count();
        assert!((800..1200).contains(&both), "{both}");
    }

    proptest! {
        #[test]
        fn a_place_is_within_the_scale(key in any::<Vec<u8>>(), salt in any::<u64>()) {
            prop_assert!(StickyKey::new(key).place(salt) < 10_000);
        }
    }
}
