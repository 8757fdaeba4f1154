//! The steps of random histories. With a [`Pick`], a step refers to one of the objects that exist
//! when it is played. [`super::generator`] defines the probability of each step.

use licet_schema::message::{Privilege, SweepKind};

/// The position of an object among those that exist, counted from the newest. Shrinking moves a
/// pick towards the newest object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick(pub(crate) usize);

impl Pick {
    pub(crate) const NEWEST: Self = Self(0);

    pub(crate) fn of<T>(self, known: &[T]) -> Option<&T> {
        known.len().checked_sub(1).map(|last| &known[last - self.0 % known.len()])
    }
}

/// The flaw in a presented token.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flaw {
    None,
    /// A token of an earlier generation.
    Old,
    Altered,
    /// Issued by another Licet system with the same key.
    Foreign,
    /// Signed with a key that is not trusted.
    Untrusted,
    /// A token of another kind.
    OtherKind,
    Garbage,
}

/// The ids in a settlement message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// The purchase.
    Whole,
    /// One member of its container.
    Member,
    /// The purchase's id in the field of the other kind.
    OtherKind,
    /// An id that never existed.
    Unknown,
}

/// The ids in a settlement message: those of a purchase, or others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payment {
    pub(crate) of: Pick,
    pub(crate) target: Target,
    /// The purchase whose settlement id is used instead.
    pub(crate) id_of: Option<Pick>,
    /// The number of the payment for that purchase, starting at 0.
    pub(crate) attempt: usize,
    pub(crate) provider: usize,
}

/// The amount in a settlement message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    Due,
    /// The price without the deduction of points.
    Price,
    OneMore,
    /// A third.
    Part,
    OtherCurrency,
}

/// The privilege that a user chooses for a return.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    /// One of the privileges that the content offers.
    Offered(usize),
    Any(Privilege),
}

/// The number of points that a user offers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Points {
    None,
    /// This number, if the user has any points.
    Few(i64),
    All,
    TooMany,
}

/// A change of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Seconds(i64),
    /// Moves the clock to the deadline of an existing object, plus this number of milliseconds.
    Deadline(Pick, i64),
}

/// The field of a status query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StatusBy {
    Certificate(Pick),
    Container(Pick),
    License(Pick),
    Return(Pick),
    Reference(usize),
    Settlement(Pick),
    Unknown(usize),
}

/// A step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Wait(Wait),
    /// From now on, a reference can be used for only one purchase. Only as the first step.
    RequireUniqueReferences,
    /// Register a content item in one of its variants.
    PutContent {
        content: usize,
        variant: usize,
    },
    /// Buy content items by their number. The flag says whether the item names a version.
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
    /// Refund a payment, under the settlement's id or under the id of this refund.
    Reverse {
        payment: Payment,
        amount: Option<Amount>,
        refund: Option<usize>,
    },
    /// Undo one refund or all.
    Reinstate {
        payment: Payment,
        refund: Option<usize>,
    },
    /// Assign the unmatched payment with this number to the purchase with this number. The message can
    /// name an amount, which can differ from that of the payment.
    Assign {
        payment: Pick,
        to: Pick,
        amount: Option<Amount>,
    },
    RequestLicense {
        of: Pick,
        terminal: usize,
        flaw: Flaw,
    },
    ConfirmLicense {
        of: Pick,
        flaw: Flaw,
    },
    /// Return a license, as its user or as the user with this number.
    Return {
        of: Pick,
        as_user: Option<usize>,
        choice: Choice,
        deleted: bool,
        flaw: Flaw,
    },
    ConfirmDeletion {
        of: Pick,
        known: bool,
    },
    PayOut {
        of: Pick,
        known: bool,
        id_of: Option<Pick>,
        attempt: usize,
        amount: Amount,
        provider: usize,
    },
    FailPayout {
        of: Pick,
        known: bool,
        id_of: Option<Pick>,
        attempt: usize,
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
    Status(StatusBy),
    /// Send an earlier message again, with its own id or with a new one.
    SendAgain {
        of: Pick,
        same_id: bool,
    },
}
