//! Random choices that can be repeated from a seed (SplitMix64).

use std::time::Duration;

use uuid::Uuid;

/// A random number generator. See the module documentation.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns and prints the seed in `LICET_TEST_SEED`, or a new seed.
    pub(crate) fn seed() -> u64 {
        let chosen =
            std::env::var("LICET_TEST_SEED").ok().map(|text| text.parse().expect("LICET_TEST_SEED is a number"));
        let seed = chosen.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
        println!("LICET_TEST_SEED={seed}");
        seed
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next_u64() % end.max(1) as u64).unwrap_or_default()
    }

    /// A duration from `from` milliseconds up to, but not including, `to` milliseconds.
    pub(crate) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next_u64() % (to - from))
    }

    pub(crate) fn uuid(&mut self) -> Uuid {
        let (high, low) = (self.next_u64(), self.next_u64());
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
    }
}
