//! When a transaction was committed: µs since 2000-01-01 → `2026-11-23T05:50:04.123456+00:00`.

const DAY_US: i64 = 86_400_000_000;
/// Days from 0000-03-01, where the calendar's 400 years are counted from, to 2000-01-01.
const DAYS_TO_2000: i64 = 730_425;

/// Prints a moment in UTC. Years beyond 9999 and before 1 are printed as they are counted.
pub(super) fn moment(since_2000_us: i64) -> String {
    let (year, month, day) = civil(since_2000_us.div_euclid(DAY_US));
    let us = since_2000_us.rem_euclid(DAY_US);
    let (seconds, us) = (us / 1_000_000, us % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}+00:00")
}

/// Year, month and day of a day counted from 2000-01-01.
const fn civil(day: i64) -> (i64, i64, i64) {
    // Years begin in March, so that a leap day is the last of its year.
    let days = day + DAYS_TO_2000;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let is_next = month >= 10;
    let month = if is_next { month - 9 } else { month + 3 };
    (era * 400 + year + is_next as i64, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_by_the_calendar() {
        assert_eq!(moment(0), "2000-01-01T00:00:00.000000+00:00");
        assert_eq!(moment(-1), "1999-12-31T23:59:59.999999+00:00");
        assert_eq!(
            moment(848_728_204_123_456),
            "2026-11-23T05:50:04.123456+00:00"
        );
        assert_eq!(moment(59 * DAY_US), "2000-02-29T00:00:00.000000+00:00");
        assert_eq!(moment(60 * DAY_US), "2000-03-01T00:00:00.000000+00:00");
        assert_eq!(moment(36_584 * DAY_US), "2100-03-01T00:00:00.000000+00:00");
    }

    #[test]
    fn no_moment_is_too_far() {
        for since_2000_us in [i64::MIN, i64::MAX] {
            assert!(moment(since_2000_us).ends_with("+00:00"));
        }
    }
}
