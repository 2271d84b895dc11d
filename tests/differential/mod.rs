//! The same requests through Moongate, stock Pingora and nginx, each before an upstream of its own.
//!
//! What the client sees and what reached the upstream is compared, case by case. Where we differ on
//! purpose, [`INTENDED`] says so and why; a difference that is not in that table fails, and so does
//! a line of the table that is no longer true. What never depends on the case (`Date`, our request id,
//! who forwarded) is left out by [`observe`].

mod cases;
mod observe;
mod peers;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cases::Case;
use observe::Observation;
use peers::Peer;

/// Case (or `*` at an end for all that begin so), peer, aspect, and why we differ.
type Difference = (&'static str, &'static str, &'static str, &'static str);

/// Every difference that we mean.
const INTENDED: &[Difference] = include!("intended.in");

#[test]
fn requests_and_answers_pass_as_through_pingora_and_nginx() {
    let cases = cases::all();
    assert!(cases.len() >= 40);
    let names: BTreeSet<_> = cases.iter().map(|it| it.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");

    let ours = Peer::moongate();
    let others = [Peer::pingora(), Peer::nginx()];
    let mut unexpected = String::new();
    let mut used = vec![false; INTENDED.len()];
    for case in &cases {
        let mine = observe::run(&ours, case);
        for other in &others {
            compare(case, other.name, &mine, &observe::run(other, case), &mut used, &mut unexpected);
        }
    }
    for ((case, peer, aspect, _), used) in INTENDED.iter().zip(used) {
        if !used {
            let _ = writeln!(unexpected, "{case} / {peer} / {aspect}: listed as intended, but there is no difference");
        }
    }
    assert!(unexpected.is_empty(), "\n{unexpected}");
}

fn compare(
    case: &Case,
    peer: &str,
    mine: &Observation,
    other: &Observation,
    used: &mut [bool],
    unexpected: &mut String,
) {
    for ((aspect, mine), (_, other)) in mine.aspects().iter().zip(other.aspects()) {
        if *mine == other {
            continue;
        }
        let listed = INTENDED.iter().position(|it| covers(it.0, case.name) && it.1 == peer && it.2 == *aspect);
        match listed {
            Some(at) => used[at] = true,
            None => {
                let name = case.name;
                let _ = writeln!(unexpected, "{name} / {peer} / {aspect}:\n    moongate: {mine}\n    {peer}: {other}");
            }
        }
    }
}

fn covers(pattern: &str, case: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == case, |start| case.starts_with(start))
}
