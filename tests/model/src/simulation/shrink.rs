//! Shrinks a run that failed to a shorter one that still fails.

use super::play::{Plan, Violation};

/// The maximum number of shorter runs that are tried.
const TRIES_MAX: usize = 200;

/// A run that violated a guarantee.
#[derive(Clone, Debug)]
pub struct Failure {
    plan: Plan,
    violation: Violation,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan { seed, mutant, mutated, script, faults_max } = &self.plan;
        let mutant = mutant.filter(|_| *mutated).map(|mutant| format!(", mutant {mutant:?}")).unwrap_or_default();
        writeln!(f, "seed {seed}{mutant}, at most {} steps and {faults_max} faults:", script.len())?;
        self.violation.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "{}", self.violation.reason)
    }
}

impl Failure {
    pub(super) fn new(plan: Plan, violation: Violation) -> Self {
        Self { plan, violation }
    }

    /// The seed that repeats the run.
    pub fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// The description of the violation.
    pub fn reason(&self) -> &str {
        &self.violation.reason
    }

    /// The messages, faults and decisions of the run, in their order.
    pub fn trace(&self) -> &[String] {
        &self.violation.trace
    }

    /// The shortest run found that still fails, with fewer steps and faults.
    #[must_use]
    pub fn shrink(self) -> Self {
        let (mut shortest, mut tries) = (self, 0);
        let mut chunk = shortest.plan.script.len().max(1);
        while chunk > 0 && tries < TRIES_MAX {
            let found = shorter(&shortest.plan, chunk).into_iter().find_map(|plan| {
                tries += 1;
                let violation = (tries <= TRIES_MAX).then(|| plan.play().err()).flatten();
                violation.map(|violation| Self { plan, violation })
            });
            match found {
                Some(shorter) => shortest = shorter,
                None => chunk /= 2,
            }
        }
        shortest
    }
}

/// The plan with fewer faults, and without each chunk of successive steps.
fn shorter(plan: &Plan, chunk: usize) -> Vec<Plan> {
    let mut plans = Vec::new();
    if plan.faults_max > 0 {
        plans.push(Plan { faults_max: plan.faults_max / 2, ..plan.clone() });
        plans.push(Plan { faults_max: plan.faults_max - 1, ..plan.clone() });
    }
    for start in (0..plan.script.len()).step_by(chunk) {
        let rest = plan.script.iter().enumerate().filter(|(index, _)| !(start..start + chunk).contains(index));
        plans.push(Plan { script: rest.map(|(_, step)| step.clone()).collect(), ..plan.clone() });
    }
    plans
}
