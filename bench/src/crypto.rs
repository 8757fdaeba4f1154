//! Measures the signatures and verifications of lifecycles on one core. Each lifecycle signs two
//! tokens and verifies three tokens strictly, as RFC 8032 requires.

use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use licet_common::program::Failure;
use uuid::Uuid;

use super::{
    Common,
    cpu::Meter,
    figures::{Report, Run},
    load::{Measured, STAGES, histogram},
};

/// The size of the signed part of a certificate's token.
const SIGNED_BYTES: usize = 420;

/// Measures rounds of signatures and verifications.
///
/// # Errors
/// A signature does not verify.
pub(super) fn alone(common: &Common) -> Result<Report, Failure> {
    let runs = (1..=common.rounds).map(|round| measure(round, Duration::from_secs(common.seconds)));
    let runs = runs.collect::<Result<_, _>>()?;
    Ok(Report { mode: "crypto", options: common.clone(), machine: Default::default(), runs, ratios: Vec::new() })
}

/// Measures the number of lifecycles whose signatures and verifications fit into `time`.
///
/// # Errors
/// A signature does not verify.
pub(super) fn measure(round: u16, time: Duration) -> Result<Run, Failure> {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    seed[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    let key = SigningKey::from_bytes(&seed);
    let public = key.verifying_key();
    let mut message = vec![b'a'; SIGNED_BYTES];
    let meter = Meter::of_driver();
    let (began, before) = (Instant::now(), meter.read());
    let mut lifecycles = 0_u64;
    while began.elapsed() < time {
        message[..8].copy_from_slice(&lifecycles.to_be_bytes());
        let certificate = key.sign(&message);
        let license = key.sign(&message[..SIGNED_BYTES - 20]);
        for (signed, signature) in
            [(&message[..], certificate), (&message[..], certificate), (&message[..SIGNED_BYTES - 20], license)]
        {
            public.verify_strict(signed, &signature).map_err(Failure::work)?;
        }
        lifecycles += 1;
    }
    let measured = Measured {
        elapsed: began.elapsed(),
        lifecycles,
        stages: STAGES.iter().map(|_| histogram()).collect(),
        whole: histogram(),
        cpu: meter.read().since(&before),
    };
    Ok(Run::of(round, "crypto", "peak", &measured))
}
