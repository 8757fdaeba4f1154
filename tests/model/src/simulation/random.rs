//! Random numbers from one seed (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).

#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count`, uniformly distributed. Zero if `count` is zero.
    pub(super) fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % count).unwrap_or(0)
    }

    /// True with a probability of `permille` thousandths.
    pub(super) fn permille(&mut self, permille: usize) -> bool {
        self.below(1000) < permille
    }

    /// One of these values, uniformly distributed.
    pub(super) fn pick<T: Clone>(&mut self, among: &[T]) -> Option<T> {
        among.get(self.below(among.len())).cloned()
    }

    /// One of these values, with probabilities in proportion to their weights.
    pub(super) fn weighted<T: Clone>(&mut self, among: &[(usize, T)]) -> Option<T> {
        let total = among.iter().map(|(weight, _)| weight).sum();
        let mut position = self.below(total);
        among
            .iter()
            .find(|(weight, _)| {
                let reached = position < *weight;
                position = position.saturating_sub(*weight);
                reached
            })
            .map(|(_, value)| value.clone())
    }
}
