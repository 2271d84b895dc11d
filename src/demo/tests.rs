//! What the demo back end decides without a socket; its answers are asked for over the wire by
//! the black-box tests.

use std::time::{Duration, UNIX_EPOCH};

use super::startup::timestamp;

#[track_caller]
fn check_timestamp(seconds: u64, millis: u64, expected: &str) {
    let since = Duration::from_secs(seconds) + Duration::from_millis(millis);
    assert_eq!(timestamp(UNIX_EPOCH + since), expected);
}

#[test]
fn timestamps_are_rfc_3339_on_both_sides_of_a_leap_day() {
    check_timestamp(0, 0, "1970-01-01T00:00:00.000Z");
    check_timestamp(951_782_399, 7, "2000-02-28T23:59:59.007Z");
    check_timestamp(951_782_400, 0, "2000-02-29T00:00:00.000Z");
    check_timestamp(951_868_800, 0, "2000-03-01T00:00:00.000Z");
    check_timestamp(4_107_542_400, 999, "2100-03-01T00:00:00.999Z");
}
