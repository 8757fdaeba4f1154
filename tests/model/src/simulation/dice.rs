//! Chance, from one seed (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).

#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
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

    /// One of `count`, all alike; zero of none.
    pub(super) fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % count).unwrap_or_default()
    }

    /// Whether it happens that comes so often in a thousand.
    pub(super) fn permille(&mut self, often: usize) -> bool {
        self.below(1000) < often
    }

    pub(super) fn pick<T: Clone>(&mut self, among: &[T]) -> Option<T> {
        among.get(self.below(among.len())).cloned()
    }

    /// One of these, by their weights.
    pub(super) fn weighted<T: Clone>(&mut self, among: &[(usize, T)]) -> Option<T> {
        let all = among.iter().map(|(weight, _)| weight).sum();
        let mut at = self.below(all);
        among
            .iter()
            .find(|(weight, _)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            })
            .map(|(_, one)| one.clone())
    }
}
