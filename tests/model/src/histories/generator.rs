//! The probability of each step of a random history, and sequences of steps that rarely occur by
//! chance.

use licet_schema::message::{Privilege, SweepKind};
use proptest::prelude::*;

use super::script::{Amount, Choice, Flaw, Payment, Pick, Points, StatusBy, Step, Target, Wait};

/// A history: a purchase, and up to 23 further sequences.
pub(crate) fn history() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let settings = prop_oneof![3 => Just(vec![]), 1 => Just(vec![Step::RequireUniqueReferences])];
    (settings, bought(), proptest::collection::vec(sequence(), 0..24))
        .prop_map(|(settings, first, rest)| [vec![settings, first], rest].concat())
}

/// A sequence of one or more steps.
fn sequence() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        12 => step().prop_map(|step| vec![step]),
        2 => bought(),
        2 => (bought(), 0..3_usize).prop_map(|(steps, terminal)| with_license(steps, terminal)),
        3 => (bought(), return_license()).prop_map(|(steps, back)| [with_license(steps, 0), vec![back]].concat()),
        2 => (wait(), sweep()).prop_map(|(wait, sweep)| vec![Step::Wait(wait), sweep]),
        4 => in_any_order(),
        3 => reversed_after_return(),
        1 => reissued_with_many_licenses(),
        1 => expired_and_reissued(),
        1 => bought_back_and_paid_out(),
        2 => assigned(),
        2 => returned_and_refunded_in_part(),
        1 => paid_after_its_reference_was_used_again(),
    ]
}

/// A payment that matches no purchase is assigned to one of two equal purchases. Then the provider
/// sends more messages about it, which name the reported purchase or the other one.
fn assigned() -> impl Strategy<Value = Vec<Step>> {
    let items = prop_oneof![Just(vec![(0, false)]), Just(vec![(5, false)]), Just(vec![(0, false), (5, false)])];
    let target = prop_oneof![
        2 => Just(Target::Unknown),
        1 => Just(Target::OtherKind),
        2 => Just(Target::Whole),
        2 => Just(Target::Member),
    ];
    let points = prop_oneof![3 => Just(Points::None), 1 => Just(Points::Few(3))];
    let swept = |kind| vec![Step::Wait(Wait::Seconds(90_000)), Step::Sweep { kind, before: Wait::Seconds(0) }];
    let end = prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec![Step::Fail(Payment { attempt: 1, ..own_payment() })]),
        1 => wait().prop_map(|wait| vec![Step::Wait(wait)]),
        1 => Just(swept(SweepKind::Reception)),
        1 => Just(swept(SweepKind::Certificate)),
    ];
    let to = || prop_oneof![3 => Just(Pick::NEWEST), 1 => Just(Pick(1))];
    let amount = || prop_oneof![3 => Just(None), 2 => Just(Some(Amount::Due)), 1 => Just(Some(Amount::OneMore))];
    let again = move || (to(), amount()).prop_map(|(to, amount)| Step::Assign { payment: Pick::NEWEST, to, amount });
    (items, points, target, end, again()).prop_flat_map(move |(items, points, target, end, assign)| {
        let buy = |user| Step::Buy { user, items: items.clone(), points, reference: 0 };
        let id_of = Some(Pick(1));
        let original = Payment { of: Pick(1), target, id_of, ..own_payment() };
        let assigned = Payment { id_of, ..own_payment() };
        let start = vec![buy(0), buy(0), Step::Complete { payment: original, amount: Amount::Due, grants: None }];
        let payment = move || prop_oneof![Just(original), Just(assigned)];
        let refunded = || prop_oneof![2 => Just(None), 1 => Just(Some(Amount::Part)), 1 => Just(Some(Amount::Due))];
        let report = prop_oneof![
            1 => payment().prop_map(Step::Fail),
            2 => payment().prop_map(|payment| Step::Complete { payment, amount: Amount::Due, grants: None }),
            4 => (payment(), refunded(), refund())
                .prop_map(|(payment, amount, refund)| Step::Reverse { payment, amount, refund }),
            3 => (payment(), refund()).prop_map(|(payment, refund)| Step::Reinstate { payment, refund }),
            1 => again(),
            3 => about_newest(),
        ];
        let early = proptest::collection::vec(report.clone(), 0..2);
        let later = proptest::collection::vec(report, 0..6);
        (early, later)
            .prop_map(move |(early, later)| [start.clone(), end.clone(), early, vec![assign.clone()], later].concat())
    })
}

/// A purchase is declined, its reference is used again, and then the first purchase is paid.
fn paid_after_its_reference_was_used_again() -> impl Strategy<Value = Vec<Step>> {
    let buy = Step::Buy { user: 1, items: vec![(0, false)], points: Points::None, reference: 4 };
    let late = Payment { of: Pick(1), attempt: 1, ..own_payment() };
    let late = Step::Complete { payment: late, amount: Amount::Due, grants: None };
    any::<bool>().prop_map(move |declined_too| {
        let failed = || Step::Fail(own_payment());
        let start = vec![buy.clone(), failed(), buy.clone(), late.clone()];
        let second = if declined_too { vec![failed()] } else { Vec::new() };
        [start, second, vec![buy.clone()]].concat()
    })
}

/// Licenses of one or two paid certificates are returned while the payment is refunded in part and the
/// refunds are undone.
fn returned_and_refunded_in_part() -> impl Strategy<Value = Vec<Step>> {
    let (of, flaw) = (Pick::NEWEST, Flaw::None);
    let target = || prop_oneof![5 => Just(Target::Whole), 1 => Just(Target::Member)];
    let payment = || target().prop_map(|target| Payment { target, ..own_payment() });
    let refund = || prop_oneof![3 => Just(Some(1)), 1 => Just(Some(2))];
    let part = prop_oneof![6 => Just(Some(Amount::Part)), 1 => Just(None)];
    let choice = prop_oneof![
        2 => Just(Choice::Any(Privilege::Points)),
        2 => Just(Choice::Any(Privilege::Buyback)),
        1 => (0..Privilege::ALL.len()).prop_map(Choice::Offered),
    ];
    let then = prop_oneof![
        4 => (0..4_usize, choice, any::<bool>()).prop_map(move |(of, choice, deleted)| {
            Step::Return { of: Pick(of), as_user: None, choice, deleted, flaw }
        }),
        3 => (0..3_usize).prop_map(|of| Step::ConfirmDeletion { of: Pick(of), known: true }),
        3 => (payment(), part, refund()).prop_map(|(payment, amount, refund)| Step::Reverse { payment, amount, refund }),
        1 => (payment(), refund()).prop_map(|(payment, refund)| Step::Reinstate { payment, refund }),
        1 => (0..2_usize).prop_map(|of| Step::Reissue { of: Pick(of), known: true, granted: None }),
        1 => Just(Step::Holdings { user: 0, after: None, limit: None }),
        1 => Just(Step::Wait(Wait::Seconds(13 * 3600))),
    ];
    let points = prop_oneof![2 => Just(Points::None), 1 => Just(Points::All)];
    (1..3_usize, points, proptest::collection::vec(then, 3..12)).prop_map(move |(count, points, then)| {
        let mut steps = vec![
            Step::Buy { user: 0, items: vec![(5, false); count], points, reference: 0 },
            Step::Receive { of, whole: true, flaw },
            Step::Complete { payment: own_payment(), amount: Amount::Due, grants: None },
        ];
        for (certificate, terminal) in (0..count).flat_map(|certificate| [(certificate, 0), (certificate, 1)]) {
            steps.push(Step::RequestLicense { of: Pick(certificate), terminal, flaw });
            steps.push(Step::ConfirmLicense { of, flaw });
        }
        [steps, then].concat()
    })
}

/// A license is bought back, and several payouts for it are completed or fail, in any order.
fn bought_back_and_paid_out() -> impl Strategy<Value = Vec<Step>> {
    let (of, flaw) = (Pick::NEWEST, Flaw::None);
    let start = vec![
        Step::Buy { user: 0, items: vec![(5, false)], points: Points::None, reference: 1 },
        Step::Receive { of, whole: true, flaw },
        Step::Complete { payment: own_payment(), amount: Amount::Due, grants: None },
    ];
    let choice = Choice::Any(Privilege::Buyback);
    let back = Step::Return { of, as_user: None, choice, deleted: true, flaw };
    proptest::collection::vec(payout_of_newest(), 2..8)
        .prop_map(move |payouts| [with_license(start.clone(), 0), vec![back.clone()], payouts].concat())
}

/// A report about one of two payouts of the newest buy-back.
fn payout_of_newest() -> impl Strategy<Value = Step> {
    let (of, known, id_of, provider) = (Pick::NEWEST, true, None, 0);
    let amount = prop_oneof![4 => Just(Amount::Due), 1 => Just(Amount::OneMore), 1 => Just(Amount::OtherCurrency)];
    prop_oneof![
        2 => (0..2_usize, amount)
            .prop_map(move |(attempt, amount)| Step::PayOut { of, known, id_of, attempt, amount, provider }),
        1 => (0..2_usize).prop_map(move |attempt| Step::FailPayout { of, known, id_of, attempt, provider }),
    ]
}

/// A member of a paid container expires before its receipt is acknowledged, and is reissued
/// afterwards.
fn expired_and_reissued() -> impl Strategy<Value = Vec<Step>> {
    let (of, flaw, member) = (Pick::NEWEST, Flaw::None, Pick(1));
    let late = Step::Wait(Wait::Seconds(3 * 3600));
    let swept = Step::Sweep { kind: SweepKind::Certificate, before: Wait::Seconds(0) };
    let receive = Step::Receive { of, whole: true, flaw };
    let steps = [
        Step::Buy { user: 2, items: vec![(1, true), (0, true)], points: Points::None, reference: 3 },
        Step::Complete { payment: own_payment(), amount: Amount::Due, grants: None },
        late.clone(),
        swept.clone(),
        receive.clone(),
        Step::Reissue { of: member, known: true, granted: None },
        late,
        swept,
        receive,
        Step::RequestLicense { of: member, terminal: 0, flaw },
    ];
    // The sweeps and the second delay are optional.
    proptest::collection::vec(any::<bool>(), steps.len()).prop_map(move |included| {
        let required = |index: usize| !matches!(index, 3 | 6 | 7);
        let steps = steps.iter().enumerate().filter(|(index, _)| required(*index) || included[*index]);
        steps.map(|(_, step)| step.clone()).collect()
    })
}

/// Several terminals receive licenses of one certificate, and then it is reissued.
fn reissued_with_many_licenses() -> impl Strategy<Value = Vec<Step>> {
    let (of, flaw) = (Pick::NEWEST, Flaw::None);
    let start = vec![
        Step::Buy { user: 1, items: vec![(0, false)], points: Points::None, reference: 2 },
        Step::Receive { of, whole: true, flaw },
        Step::Complete { payment: own_payment(), amount: Amount::Due, grants: None },
    ];
    let terminals = proptest::collection::vec((0..3_usize, 0..3_i64), 2..4);
    let granted = (0..4_i64).prop_map(move |granted| Step::Reissue { of, known: true, granted: Some(granted) });
    (terminals, granted, about_newest()).prop_map(move |(terminals, reissue, then)| {
        let mut steps = start.clone();
        for (terminal, seconds) in terminals {
            steps = with_license(steps, terminal);
            steps.push(Step::Wait(Wait::Seconds(seconds)));
        }
        [steps, vec![reissue, then, Step::Holdings { user: 1, after: None, limit: None }]].concat()
    })
}

/// A license is returned, its privilege is used, and then the payment is reversed.
fn reversed_after_return() -> impl Strategy<Value = Vec<Step>> {
    let (of, flaw) = (Pick::NEWEST, Flaw::None);
    let buy = |points| Step::Buy { user: 0, items: vec![(5, false)], points, reference: 1 };
    let used = prop_oneof![
        Just((Privilege::Points, vec![buy(Points::All)])),
        Just((
            Privilege::Upgrade,
            vec![Step::RequestLicense { of, terminal: 0, flaw }, Step::ConfirmLicense { of, flaw }]
        )),
    ];
    let more = || proptest::collection::vec(about_newest(), 0..4);
    let payment = || Payment { of: Pick(1), ..own_payment() };
    let reversed = Step::Reverse { payment: payment(), amount: None, refund: None };
    let won = Step::Reinstate { payment: payment(), refund: None };
    let undone = any::<bool>();
    (used, more(), more(), undone).prop_map(move |((privilege, used), meanwhile, then, undone)| {
        let start = vec![
            buy(Points::None),
            Step::Receive { of, whole: true, flaw },
            Step::Complete { payment: own_payment(), amount: Amount::Due, grants: None },
        ];
        let back = Step::Return { of, as_user: None, choice: Choice::Any(privilege), deleted: true, flaw };
        [with_license(start, 0), vec![back], used, meanwhile, vec![reversed.clone()], then]
            .concat()
            .into_iter()
            .chain(undone.then(|| won.clone()))
            .collect()
    })
}

/// A purchase, followed by steps that concern it in any order.
fn in_any_order() -> impl Strategy<Value = Vec<Step>> {
    (buy(), proptest::collection::vec(about_newest(), 3..10)).prop_map(|(buy, rest)| [vec![buy], rest].concat())
}

/// A step that concerns the newest object.
fn about_newest() -> impl Strategy<Value = Step> {
    let (of, flaw) = (Pick::NEWEST, Flaw::None);
    let paid = || prop_oneof![3 => Just(Amount::Due), 1 => Just(Amount::OneMore)];
    let reversed = || prop_oneof![3 => Just(None), 1 => paid().prop_map(Some), 2 => Just(Some(Amount::Part))];
    let payment = || {
        prop_oneof![4 => Just(Target::Whole), 1 => Just(Target::Member)]
            .prop_map(|target| Payment { target, ..own_payment() })
    };
    prop_oneof![
        4 => Just(Step::Receive { of, whole: true, flaw }),
        5 => paid().prop_map(|amount| Step::Complete { payment: own_payment(), amount, grants: None }),
        1 => Just(Step::Fail(own_payment())),
        3 => (payment(), reversed(), refund())
            .prop_map(|(payment, amount, refund)| Step::Reverse { payment, amount, refund }),
        2 => (payment(), refund()).prop_map(|(payment, refund)| Step::Reinstate { payment, refund }),
        4 => (0..2_usize).prop_map(move |terminal| Step::RequestLicense { of, terminal, flaw }),
        4 => Just(Step::ConfirmLicense { of, flaw }),
        2 => (0..Privilege::ALL.len(), any::<bool>()).prop_map(move |(number, deleted)| {
            Step::Return { of, as_user: None, choice: Choice::Offered(number), deleted, flaw }
        }),
        2 => Just(Step::ConfirmDeletion { of, known: true }),
        1 => payout_of_newest(),
        2 => prop_oneof![Just(None), Just(Some(0))].prop_map(move |granted| Step::Reissue { of, known: true, granted }),
        1 => wait().prop_map(Step::Wait),
        1 => sweep(),
        1 => pick().prop_map(|of| Step::SendAgain { of, same_id: false }),
    ]
}

/// A purchase with its acknowledgement and its payment in either order, or with only one of them.
fn bought() -> impl Strategy<Value = Vec<Step>> {
    let messages = vec![
        Step::Receive { of: Pick::NEWEST, whole: true, flaw: Flaw::None },
        Step::Complete { payment: own_payment(), amount: Amount::Due, grants: None },
    ];
    let sent = prop_oneof![1 => Just(1_usize), 4 => Just(2)];
    (buy(), Just(messages).prop_shuffle(), sent).prop_map(|(buy, mut messages, sent)| {
        messages.truncate(sent);
        [vec![buy], messages].concat()
    })
}

fn own_payment() -> Payment {
    Payment { of: Pick::NEWEST, target: Target::Whole, id_of: None, attempt: 0, provider: 0 }
}

fn with_license(mut steps: Vec<Step>, terminal: usize) -> Vec<Step> {
    steps.push(Step::RequestLicense { of: Pick::NEWEST, terminal, flaw: Flaw::None });
    steps.push(Step::ConfirmLicense { of: Pick::NEWEST, flaw: Flaw::None });
    steps
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => wait().prop_map(Step::Wait),
        1 => (0..6_usize, 0..3_usize).prop_map(|(content, variant)| Step::PutContent { content, variant }),
        4 => buy(),
        1 => (pick(), any::<bool>(), flaw()).prop_map(|(of, whole, flaw)| Step::Check { of, whole, flaw }),
        4 => (pick(), any::<bool>(), flaw()).prop_map(|(of, whole, flaw)| Step::Receive { of, whole, flaw }),
        5 => settlement(),
        6 => (pick(), 0..3_usize, flaw()).prop_map(|(of, terminal, flaw)| Step::RequestLicense { of, terminal, flaw }),
        6 => (pick(), flaw()).prop_map(|(of, flaw)| Step::ConfirmLicense { of, flaw }),
        6 => return_or_payout(),
        3 => reissue(),
        2 => sweep(),
        2 => query(),
        3 => (pick(), any::<bool>()).prop_map(|(of, same_id)| Step::SendAgain { of, same_id }),
    ]
}

fn sweep() -> impl Strategy<Value = Step> {
    let before = prop_oneof![2 => Just(Wait::Seconds(0)), 1 => wait()];
    (0..SweepKind::ALL.len(), before).prop_map(|(kind, before)| Step::Sweep { kind: SweepKind::ALL[kind], before })
}

fn buy() -> impl Strategy<Value = Step> {
    let one = || (prop_oneof![24 => 0..6_usize, 1 => Just(6)], any::<bool>());
    let usd = || (prop_oneof![Just(0_usize), Just(1), Just(4), Just(5)], any::<bool>());
    let items = prop_oneof![
        4 => one().prop_map(|item| vec![item]),
        3 => proptest::collection::vec(usd(), 2..4),
        1 => proptest::collection::vec(one(), 2..4),
    ];
    let points = prop_oneof![
        12 => Just(Points::None),
        2 => (1..60_i64).prop_map(Points::Few),
        8 => Just(Points::All),
        1 => Just(Points::TooMany),
    ];
    let user = prop_oneof![3 => Just(0_usize), 2 => Just(1), 1 => Just(2)];
    (user, items, points, 0..4_usize).prop_map(|(user, items, points, reference)| Step::Buy {
        user,
        items,
        points,
        reference,
    })
}

fn settlement() -> impl Strategy<Value = Step> {
    let grants = prop_oneof![4 => Just(None), 1 => (1..4_i64).prop_map(Some)];
    prop_oneof![
        5 => (payment(), amount(), grants)
            .prop_map(|(payment, amount, grants)| Step::Complete { payment, amount, grants }),
        2 => payment().prop_map(Step::Fail),
        3 => (payment(), prop_oneof![2 => Just(None), 1 => amount().prop_map(Some)], refund())
            .prop_map(|(payment, amount, refund)| Step::Reverse { payment, amount, refund }),
        2 => (payment(), refund()).prop_map(|(payment, refund)| Step::Reinstate { payment, refund }),
        1 => (pick(), pick(), prop_oneof![Just(None), amount().prop_map(Some)])
            .prop_map(|(payment, to, amount)| Step::Assign { payment, to, amount }),
    ]
}

/// The number of a refund.
fn refund() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![2 => Just(None), 3 => (0..4_usize).prop_map(Some)]
}

fn payment() -> impl Strategy<Value = Payment> {
    let target = prop_oneof![
        16 => Just(Target::Whole),
        1 => Just(Target::Member),
        1 => Just(Target::OtherKind),
        1 => Just(Target::Unknown),
    ];
    let attempt = prop_oneof![4 => Just(0_usize), 1 => Just(1)];
    let id_of = prop_oneof![8 => Just(None), 1 => pick().prop_map(Some)];
    (pick(), target, id_of, attempt, provider()).prop_map(|(of, target, id_of, attempt, provider)| Payment {
        of,
        target,
        id_of,
        attempt,
        provider,
    })
}

/// The bank, another provider, or a provider that uses the name reserved for Licet.
fn provider() -> impl Strategy<Value = usize> {
    prop_oneof![24 => Just(0_usize), 2 => Just(1), 1 => Just(2)]
}

fn amount() -> impl Strategy<Value = Amount> {
    prop_oneof![
        12 => Just(Amount::Due),
        1 => Just(Amount::Price),
        1 => Just(Amount::OneMore),
        2 => Just(Amount::Part),
        1 => Just(Amount::OtherCurrency),
    ]
}

fn return_or_payout() -> impl Strategy<Value = Step> {
    let id_of = prop_oneof![4 => Just(None), 1 => pick().prop_map(Some)].boxed();
    prop_oneof![
        6 => return_license(),
        4 => (pick(), known_payment()).prop_map(|(of, known)| Step::ConfirmDeletion { of, known }),
        4 => (pick(), known_payment(), id_of.clone(), 0..2_usize, amount(), provider()).prop_map(
            |(of, known, id_of, attempt, amount, provider)| {
                Step::PayOut { of, known, id_of, attempt, amount, provider }
            }
        ),
        2 => (pick(), known_payment(), id_of, 0..2_usize, provider()).prop_map(
            |(of, known, id_of, attempt, provider)| Step::FailPayout { of, known, id_of, attempt, provider }
        ),
    ]
}

fn return_license() -> impl Strategy<Value = Step> {
    let as_user = prop_oneof![16 => Just(None), 1 => (0..3_usize).prop_map(Some)];
    let choice = prop_oneof![
        5 => (0..Privilege::ALL.len()).prop_map(Choice::Offered),
        1 => (0..Privilege::ALL.len()).prop_map(|number| Choice::Any(Privilege::ALL[number])),
    ];
    (pick(), as_user, choice, any::<bool>(), flaw()).prop_map(|(of, as_user, choice, deleted, flaw)| Step::Return {
        of,
        as_user,
        choice,
        deleted,
        flaw,
    })
}

fn reissue() -> impl Strategy<Value = Step> {
    let granted = prop_oneof![3 => Just(None), 2 => (0..4_i64).prop_map(Some)];
    (pick(), known_payment(), granted).prop_map(|(of, known, granted)| Step::Reissue { of, known, granted })
}

fn query() -> impl Strategy<Value = Step> {
    let after = prop_oneof![2 => Just(None), 1 => pick().prop_map(Some)];
    let limit = prop_oneof![2 => Just(None), 2 => (1..4_i64).prop_map(Some), 1 => Just(Some(0))];
    let by = prop_oneof![
        pick().prop_map(StatusBy::Certificate),
        pick().prop_map(StatusBy::Container),
        pick().prop_map(StatusBy::License),
        pick().prop_map(StatusBy::Return),
        (0..4_usize).prop_map(StatusBy::Reference),
        pick().prop_map(StatusBy::Settlement),
        (0..6_usize).prop_map(StatusBy::Unknown),
    ];
    prop_oneof![
        (0..4_usize, after, limit).prop_map(|(user, after, limit)| Step::Holdings { user, after, limit }),
        by.prop_map(Step::Status),
    ]
}

fn wait() -> impl Strategy<Value = Wait> {
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    let seconds = prop_oneof![Just(1), Just(HOUR / 2), Just(3 * HOUR), Just(DAY), Just(4 * DAY), Just(70 * DAY)];
    prop_oneof![
        4 => seconds.prop_map(Wait::Seconds),
        1 => Just(Wait::Seconds(-HOUR)),
        5 => (pick(), -1..3_i64).prop_map(|(of, past_ms)| Wait::Deadline(of, past_ms)),
    ]
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![4 => Just(0_usize), 4 => 0..4_usize, 2 => 0..64_usize].prop_map(Pick)
}

fn known_payment() -> impl Strategy<Value = bool> {
    proptest::bool::weighted(0.95)
}

fn flaw() -> impl Strategy<Value = Flaw> {
    prop_oneof![
        32 => Just(Flaw::None),
        3 => Just(Flaw::Old),
        1 => Just(Flaw::Altered),
        1 => Just(Flaw::Foreign),
        1 => Just(Flaw::Untrusted),
        1 => Just(Flaw::OtherKind),
        1 => Just(Flaw::Garbage),
    ]
}
