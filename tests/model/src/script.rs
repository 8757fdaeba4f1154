//! What random histories are made of: steps that say what somebody does, with picks among what there
//! will be by then. How likely each is, [`super::chance`] says.

use licet_schema::message::{Privilege, SweepKind};

/// One of those known by then, the newest first: what is picked shrinks towards the latest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick(pub(super) usize);

impl Pick {
    pub(super) const NEWEST: Self = Self(0);

    pub(super) fn of<T>(self, known: &[T]) -> Option<&T> {
        known.len().checked_sub(1).map(|last| &known[last - self.0 % known.len()])
    }
}

/// What is wrong with a token that is shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flaw {
    None,
    /// Of a generation that is over.
    Old,
    Altered,
    /// Made by another Licet under the same key.
    Foreign,
    /// Made under a key that nobody trusts.
    Untrusted,
    /// A token of another kind.
    OtherKind,
    Garbage,
}

/// What a settlement message names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// The purchase.
    Whole,
    /// A member of it alone.
    Member,
    /// Its id as that of the other kind.
    OtherKind,
    /// Nothing that ever was.
    Unknown,
}

/// Which settlement, payout or provider: the purchase's own, or another's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payment {
    pub(super) of: Pick,
    pub(super) target: Target,
    /// The id is that of this purchase's first payment, of its second, …
    pub(super) id_of: Option<Pick>,
    pub(super) attempt: usize,
    pub(super) provider: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Amount {
    Due,
    /// As if no points had been held.
    Price,
    OneMore,
    OtherCurrency,
}

/// What a user asks for a license that is given back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// One of those that its content offers.
    Offered(usize),
    Any(Privilege),
}

/// How many points a user spends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Points {
    None,
    /// So many, by who has any.
    Few(i64),
    All,
    TooMany,
}

/// How the clock moves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Seconds(i64),
    /// To a deadline of something there is, so many milliseconds past it.
    Deadline(Pick, i64),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Certificate(Pick),
    Container(Pick),
    License(Pick),
    Return(Pick),
    Reference(usize),
    Settlement(Pick),
    Nothing(usize),
}

/// What somebody does.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Wait(Wait),
    /// Put a content, in one of its variants.
    Put {
        content: usize,
        variant: usize,
    },
    /// Buy contents by their number, each in a version or in the highest.
    Buy {
        user: usize,
        items: Vec<(usize, bool)>,
        points: Points,
        reference: usize,
    },
    Check {
        of: Pick,
        whole: bool,
        flaw: Flaw,
    },
    Receive {
        of: Pick,
        whole: bool,
        flaw: Flaw,
    },
    Complete {
        payment: Payment,
        amount: Amount,
        grants: Option<i64>,
    },
    Fail(Payment),
    Reverse {
        payment: Payment,
        amount: Option<Amount>,
    },
    Request {
        of: Pick,
        terminal: usize,
        flaw: Flaw,
    },
    Confirm {
        of: Pick,
        flaw: Flaw,
    },
    /// Give a license back, as its user or as the user of this number.
    Return {
        of: Pick,
        as_user: Option<usize>,
        wish: Wish,
        deleted: bool,
        flaw: Flaw,
    },
    Delete {
        of: Pick,
        known: bool,
    },
    PayOut {
        of: Pick,
        known: bool,
        id_of: Option<Pick>,
        amount: Amount,
        provider: usize,
    },
    Reissue {
        of: Pick,
        known: bool,
        granted: Option<i64>,
    },
    Sweep {
        kind: SweepKind,
        before: Wait,
    },
    Holdings {
        user: usize,
        after: Option<Pick>,
        limit: Option<i64>,
    },
    Status(Asked),
    /// A message that was delivered before, under its own id or under another.
    Again {
        of: Pick,
        same_id: bool,
    },
}
