//! The items that wait, in order. Pure: it is told the time.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::BatchConfig;

pub(super) struct Pending<V> {
    config: BatchConfig,
    items: BTreeMap<u64, Item<V>>,
    bytes: usize,
    next_seq: u64,
}

struct Item<V> {
    bytes: usize,
    arrived: Instant,
    value: V,
}

impl<V> Pending<V> {
    pub(super) fn new(config: BatchConfig) -> Self {
        Self {
            config,
            items: BTreeMap::new(),
            bytes: 0,
            next_seq: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether waiting longer would add nothing to the next batch.
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= self.config.max_items || self.bytes >= self.config.max_bytes
    }

    /// Until when the first item may wait for company.
    pub(super) fn due(&self) -> Option<Instant> {
        let (_, first) = self.items.first_key_value()?;
        Some(first.arrived + self.config.window)
    }

    /// Adds an item at the end and returns its number.
    pub(super) fn push(&mut self, now: Instant, bytes: usize, value: V) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        // What is added up here is taken off again, so it must not stop at an end.
        self.bytes = self.bytes.wrapping_add(bytes);
        let item = Item {
            bytes,
            arrived: now,
            value,
        };
        self.items.insert(seq, item);
        seq
    }

    /// Takes an item out whose caller has left; `None` if it does not wait.
    pub(super) fn remove(&mut self, seq: u64) -> Option<V> {
        let item = self.items.remove(&seq)?;
        self.bytes = self.bytes.wrapping_sub(item.bytes);
        Some(item.value)
    }

    /// Takes the next batch: the first items, as many as fit, one at least.
    pub(super) fn take(&mut self) -> Vec<V> {
        let mut batch = Vec::with_capacity(self.items.len().min(self.config.max_items));
        let mut bytes = 0usize;
        while batch.len() < self.config.max_items
            && let Some(first) = self.items.first_entry()
        {
            let with = bytes.saturating_add(first.get().bytes);
            if with > self.config.max_bytes && !batch.is_empty() {
                break;
            }
            bytes = with;
            let item = first.remove();
            self.bytes = self.bytes.wrapping_sub(item.bytes);
            batch.push(item.value);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pending(max_items: usize, max_bytes: usize) -> Pending<usize> {
        let config = BatchConfig::builder()
            .max_items(max_items)
            .max_bytes(max_bytes);
        Pending::new(config.build().expect("a configuration"))
    }

    #[test]
    fn a_batch_ends_at_either_bound() {
        let mut pending = pending(3, 10);
        let now = Instant::now();
        for (value, bytes) in [4, 4, 4, 1, 1, 1, 1, 50, 1].into_iter().enumerate() {
            pending.push(now, bytes, value);
        }
        assert!(pending.is_full());
        assert_eq!(pending.take(), [0, 1], "bytes");
        assert_eq!(pending.take(), [2, 3, 4], "items");
        assert_eq!(pending.take(), [5, 6]);
        assert_eq!(pending.take(), [7], "too large for any other");
        assert_eq!(pending.take(), [8]);
        assert!(pending.is_empty() && pending.bytes == 0);
    }

    #[test]
    fn sizes_without_sense_do_no_harm() {
        let mut pending = pending(3, 10);
        for value in 0..4 {
            pending.push(Instant::now(), usize::MAX, value);
        }
        for value in 0..4 {
            assert_eq!(pending.take(), [value]);
        }
        assert_eq!(pending.bytes, 0);
    }

    proptest! {
        #[test]
        fn order_is_kept_and_nothing_is_lost_or_doubled(
            ops in prop::collection::vec((0u8..4, 0usize..8, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut pending = pending(4, 16);
            let mut model: Vec<(u64, usize, usize)> = Vec::new();
            for (value, (op, bytes, index)) in ops.into_iter().enumerate() {
                match op {
                    0 if !model.is_empty() => {
                        let (seq, _, value) = model.remove(index.index(model.len()));
                        prop_assert_eq!(pending.remove(seq), Some(value));
                        prop_assert_eq!(pending.remove(seq), None);
                    }
                    1 => {
                        let batch = pending.take();
                        let rest = model.split_off(batch.len());
                        let taken: Vec<_> = model.iter().map(|&(_, _, value)| value).collect();
                        prop_assert_eq!(batch, taken);
                        let bytes: usize = model.iter().map(|(_, bytes, _)| bytes).sum();
                        prop_assert!(model.len() <= 4 && (bytes <= 16 || model.len() == 1));
                        // As many as fit.
                        if let Some((_, next, _)) = rest.first() {
                            prop_assert!(model.len() == 4 || bytes + next > 16);
                        }
                        model = rest;
                    }
                    _ => {
                        let seq = pending.push(Instant::now(), bytes, value);
                        model.push((seq, bytes, value));
                    }
                }
                prop_assert_eq!(pending.bytes, model.iter().map(|(_, bytes, _)| bytes).sum::<usize>());
                prop_assert_eq!(pending.is_empty(), model.is_empty());
            }
        }
    }
}
