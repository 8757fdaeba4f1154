//! From a run that broke a promise to the shortest that still does.

use super::play::{Broken, Plan};

/// How many shorter histories are tried.
const TRIES_MAX: usize = 200;

/// A promise that was broken, and the history that broke it.
#[derive(Clone, Debug)]
pub struct Failure {
    plan: Plan,
    broken: Broken,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan { seed, lie, told, script, faults_max } = &self.plan;
        let lie = lie.filter(|_| *told).map(|lie| format!(", {lie:?} pretended")).unwrap_or_default();
        writeln!(f, "seed {seed}{lie}, at most {} messages and {faults_max} faults:", script.len())?;
        self.broken.story.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "{}", self.broken.why)
    }
}

impl Failure {
    pub(super) fn new(plan: Plan, broken: Broken) -> Self {
        Self { plan, broken }
    }

    /// The seed that repeats it.
    pub fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// What is wrong.
    pub fn why(&self) -> &str {
        &self.broken.why
    }

    /// What was sent, what went wrong and what was decided, in their order.
    pub fn story(&self) -> &[String] {
        &self.broken.story
    }

    /// The shortest history found that still breaks a promise: with fewer messages and faults.
    #[must_use]
    pub fn shortest(self) -> Self {
        let (mut shortest, mut tries) = (self, 0);
        let mut portion = shortest.plan.script.len().max(1);
        while portion > 0 && tries < TRIES_MAX {
            let found = shorter(&shortest.plan, portion).into_iter().find_map(|plan| {
                tries += 1;
                let broken = (tries <= TRIES_MAX).then(|| plan.play().err()).flatten();
                broken.map(|broken| Self { plan, broken })
            });
            match found {
                Some(shorter) => shortest = shorter,
                None => portion /= 2,
            }
        }
        shortest
    }
}

/// The same with fewer faults, and without so many steps in a row, anywhere.
fn shorter(plan: &Plan, portion: usize) -> Vec<Plan> {
    let mut plans = Vec::new();
    if plan.faults_max > 0 {
        plans.push(Plan { faults_max: plan.faults_max / 2, ..plan.clone() });
        plans.push(Plan { faults_max: plan.faults_max - 1, ..plan.clone() });
    }
    for start in (0..plan.script.len()).step_by(portion) {
        let kept = plan.script.iter().enumerate().filter(|(index, _)| !(start..start + portion).contains(index));
        plans.push(Plan { script: kept.map(|(_, step)| step.clone()).collect(), ..plan.clone() });
    }
    plans
}
