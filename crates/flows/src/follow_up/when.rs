//! When a follow-up is due: what is asked, the facts, and the decision. Nothing here reads a clock.
//!
//! Times are milliseconds since the Unix epoch. Only quiet hours are told by the clock on a person's wall, so only they
//! need a time zone. They are walked out of, from one change of the zone's clock to the next, rather than computed from a
//! local date: that also holds in an hour that is skipped, in one that comes twice, and on a day that a zone leaves out.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// Milliseconds of a minute.
const MINUTE_MS: u64 = 60_000;
/// Milliseconds of a day by the clock.
const DAY_MS: i64 = 24 * 60 * 60_000;
/// Changes of a zone's clock that quiet hours are followed over. Two have been seen within one night; the number only
/// keeps a zone file that makes no sense from being followed for ever.
const CHANGES_MAX: usize = 8;

/// A time of day, to the minute. Written `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    minute: u16,
}

/// A text that is not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time of day: write HH:MM, from 00:00 to 23:59")]
pub struct NotATimeOfDay(String);

impl FromStr for TimeOfDay {
    type Err = NotATimeOfDay;

    fn from_str(text: &str) -> Result<Self, NotATimeOfDay> {
        let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
        let minute = match text.split_once(':') {
            Some((hour, minute)) if hour.len() == 2 && minute.len() == 2 => {
                let (hour, minute): (Option<u16>, Option<u16>) = (number(hour), number(minute));
                hour.zip(minute).filter(|(hour, minute)| *hour < 24 && *minute < 60)
            }
            Some(_) | None => None,
        };
        let malformed = || NotATimeOfDay(text.chars().take(20).collect());
        minute.map(|(hour, minute)| TimeOfDay { minute: hour * 60 + minute }).ok_or_else(malformed)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minute / 60, self.minute % 60)
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = NotATimeOfDay;

    fn try_from(text: String) -> Result<Self, NotATimeOfDay> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> String {
        time.to_string()
    }
}

/// Hours in which a person is left alone. They may go over midnight. The first minute is quiet, the last is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    /// Their beginning.
    pub from: TimeOfDay,
    /// Their end.
    pub to: TimeOfDay,
}

impl QuietHours {
    fn contain(&self, ms_of_day: i64) -> bool {
        let (from, to) = (i64::from(self.from.minute), i64::from(self.to.minute));
        let minute = ms_of_day / MINUTE_MS as i64;
        if from <= to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }
}

/// What a follow-up waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Due {
    /// A time.
    At {
        /// Which.
        at_ms: u64,
    },
    /// Silence.
    AfterSilence {
        /// How long, counted from when it was scheduled.
        ms: u64,
    },
}

/// What a person's message does to a follow-up that waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMessage {
    /// Ends it.
    #[default]
    Cancel,
    /// The silence it waits for begins anew.
    Reschedule,
    /// Nothing.
    Keep,
}

/// By what it is decided: the checked part of what was asked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it waits for.
    pub due: Due,
    /// What a person's message does to it.
    pub on_message: OnMessage,
    /// After this time it is of no use.
    pub expires_at_ms: Option<u64>,
    /// Hours in which it does not fire, and whose clock tells them.
    pub quiet: Option<(QuietHours, TimeZone)>,
}

/// A person's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Its id.
    pub message_id: String,
    /// When it was accepted.
    pub at_ms: u64,
}

/// What is known when it is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Silence is counted from here: when it was scheduled, or the message it was rescheduled by.
    pub since_ms: u64,
    /// The present.
    pub now_ms: u64,
    /// The last message of a person after `since_ms`.
    pub heard: Option<Heard>,
}

/// What happens next with a follow-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "next", rename_all = "snake_case")]
pub enum Next {
    /// It waits.
    Wait {
        /// Until when, if nothing happens meanwhile.
        due_at_ms: u64,
        /// From when silence is counted now.
        since_ms: u64,
        /// The message that began the silence anew.
        restarted_by: Option<String>,
    },
    /// It is due.
    Fire {
        /// What it is sent on condition of: that no person has said anything after this.
        only_if_silent_since_ms: Option<u64>,
    },
    /// A person was faster.
    Cancel {
        /// By this message.
        message_id: String,
    },
    /// It would come after its time.
    Expire {
        /// It could have come then.
        due_at_ms: u64,
    },
}

/// Decides what happens next. The same facts always give the same, with the same time zone database.
pub fn next(plan: &Plan, facts: &Facts) -> Next {
    let heard = facts.heard.as_ref().filter(|heard| heard.at_ms > facts.since_ms);
    let (since_ms, restarted_by) = match (plan.on_message, heard) {
        (OnMessage::Cancel, Some(heard)) => return Next::Cancel { message_id: heard.message_id.clone() },
        (OnMessage::Reschedule, Some(heard)) => (heard.at_ms, Some(heard.message_id.clone())),
        (OnMessage::Keep, _) | (OnMessage::Cancel | OnMessage::Reschedule, None) => (facts.since_ms, None),
    };
    // What was due while nobody was at work is due now, unless now is in quiet hours.
    let due_at_ms = plan.out_of_quiet(plan.wanted_at(since_ms).max(facts.now_ms));
    if plan.expires_at_ms.is_some_and(|expires_at_ms| due_at_ms > expires_at_ms) {
        return Next::Expire { due_at_ms };
    }
    if due_at_ms > facts.now_ms {
        return Next::Wait { due_at_ms, since_ms, restarted_by };
    }
    let only_if_silent_since_ms = (plan.on_message != OnMessage::Keep).then_some(since_ms);
    Next::Fire { only_if_silent_since_ms }
}

impl Plan {
    /// When it is due, if silence is counted from `since_ms` and nothing happens meanwhile.
    pub fn due_at(&self, since_ms: u64) -> u64 {
        self.out_of_quiet(self.wanted_at(since_ms))
    }

    fn wanted_at(&self, since_ms: u64) -> u64 {
        match self.due {
            Due::At { at_ms } => at_ms,
            Due::AfterSilence { ms } => since_ms.saturating_add(ms),
        }
    }

    /// The earliest time from `at_ms` on that is not in quiet hours.
    fn out_of_quiet(&self, at_ms: u64) -> u64 {
        let Some((hours, zone)) = &self.quiet else { return at_ms };
        let mut at_ms = at_ms;
        for _ in 0..CHANGES_MAX {
            // A time beyond the calendar has no clock on any wall.
            let Some(at) = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) else { break };
            let offset_ms = i64::from(zone.to_offset(at).seconds()) * 1_000;
            let ms_of_day = (at_ms as i64 + offset_ms).rem_euclid(DAY_MS);
            if !hours.contain(ms_of_day) {
                break;
            }
            let end_ms_of_day = i64::from(hours.to.minute) * MINUTE_MS as i64;
            let end_ms = at_ms + (end_ms_of_day - ms_of_day).rem_euclid(DAY_MS) as u64;
            // The clock may be changed before that; what it shows from then on is looked at from there.
            let change =
                zone.following(at).next().and_then(|change| u64::try_from(change.timestamp().as_millisecond()).ok());
            at_ms = change.filter(|change| *change > at_ms).map_or(end_ms, |change| change.min(end_ms));
        }
        at_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of an RFC 3339 time.
    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a time").as_millisecond() as u64
    }

    fn shown(at_ms: u64) -> String {
        Timestamp::from_millisecond(at_ms as i64).expect("a time").to_string()
    }

    fn plan(due: Due, on_message: OnMessage) -> Plan {
        Plan { due, on_message, expires_at_ms: None, quiet: None }
    }

    fn fires(only_if_silent_since_ms: Option<u64>) -> Next {
        Next::Fire { only_if_silent_since_ms }
    }

    fn quiet(from: &str, to: &str, zone: &str) -> Plan {
        let hours = QuietHours { from: from.parse().expect("a time"), to: to.parse().expect("a time") };
        let zone = TimeZone::get(zone).expect("a zone");
        Plan { quiet: Some((hours, zone)), ..plan(Due::At { at_ms: 0 }, OnMessage::Cancel) }
    }

    /// `(from, to, zone)`, then what each time becomes.
    fn check((from, to, zone): (&str, &str, &str), times: &[(&str, &str)]) {
        let plan = quiet(from, to, zone);
        for (at, expected) in times {
            let got = shown(plan.out_of_quiet(ms(at)));
            assert_eq!(got, shown(ms(expected)), "{at} out of {from} to {to} in {zone}");
        }
    }

    #[test]
    fn quiet_hours_over_midnight_end_in_the_morning() {
        check(
            ("22:00", "08:00", "Europe/Berlin"),
            &[
                ("2026-01-10T21:59:59.999+01:00", "2026-01-10T21:59:59.999+01:00"),
                ("2026-01-10T22:00:00+01:00", "2026-01-11T08:00:00+01:00"),
                ("2026-01-11T00:00:00+01:00", "2026-01-11T08:00:00+01:00"),
                ("2026-01-11T07:59:59.999+01:00", "2026-01-11T08:00:00+01:00"),
                ("2026-01-11T08:00:00+01:00", "2026-01-11T08:00:00+01:00"),
                ("2026-01-11T12:00:00+01:00", "2026-01-11T12:00:00+01:00"),
            ],
        );
    }

    #[test]
    fn quiet_hours_within_a_day_are_those_of_the_zone_not_of_utc() {
        check(
            ("12:30", "14:00", "Asia/Kolkata"),
            &[
                ("2026-06-01T06:59:00Z", "2026-06-01T06:59:00Z"),
                ("2026-06-01T07:00:00Z", "2026-06-01T08:30:00Z"),
                ("2026-06-01T12:30:00Z", "2026-06-01T12:30:00Z"),
            ],
        );
    }

    #[test]
    fn a_night_in_which_the_clock_goes_forward_is_an_hour_shorter() {
        // Berlin: 2026-03-29, 02:00 becomes 03:00.
        check(("22:00", "08:00", "Europe/Berlin"), &[("2026-03-28T23:00:00+01:00", "2026-03-29T08:00:00+02:00")]);
    }

    #[test]
    fn a_night_in_which_the_clock_goes_back_is_an_hour_longer() {
        // Berlin: 2026-10-25, 03:00 becomes 02:00.
        check(("22:00", "08:00", "Europe/Berlin"), &[("2026-10-24T23:00:00+02:00", "2026-10-25T08:00:00+01:00")]);
    }

    #[test]
    fn quiet_hours_that_end_in_the_skipped_hour_end_when_it_is_skipped() {
        // New York: 2026-03-08, 02:00 becomes 03:00, so 02:30 is no time; at 03:00 it is past.
        check(
            ("22:00", "02:30", "America/New_York"),
            &[
                ("2026-03-08T01:15:00-05:00", "2026-03-08T03:00:00-04:00"),
                ("2026-03-08T03:00:00-04:00", "2026-03-08T03:00:00-04:00"),
            ],
        );
    }

    #[test]
    fn quiet_hours_within_the_skipped_hour_are_none() {
        check(
            ("02:10", "02:50", "America/New_York"),
            &[
                ("2026-03-08T01:59:59-05:00", "2026-03-08T01:59:59-05:00"),
                ("2026-03-08T03:20:00-04:00", "2026-03-08T03:20:00-04:00"),
                ("2026-03-09T02:20:00-04:00", "2026-03-09T02:50:00-04:00"),
            ],
        );
    }

    #[test]
    fn quiet_hours_that_end_in_the_hour_that_comes_twice_are_quiet_each_time() {
        // New York: 2026-11-01, 02:00 becomes 01:00. Until 01:30 it is quiet, then not, then 01:00 comes again.
        check(
            ("22:00", "01:30", "America/New_York"),
            &[
                ("2026-11-01T00:10:00-04:00", "2026-11-01T01:30:00-04:00"),
                ("2026-11-01T01:40:00-04:00", "2026-11-01T01:40:00-04:00"),
                ("2026-11-01T01:10:00-05:00", "2026-11-01T01:30:00-05:00"),
            ],
        );
    }

    #[test]
    fn quiet_hours_that_begin_in_the_hour_that_comes_twice_go_on_when_it_comes_again() {
        // From 01:30 on it is quiet; at 01:00 for the second time it is not.
        check(
            ("01:30", "06:00", "America/New_York"),
            &[
                ("2026-11-01T01:45:00-04:00", "2026-11-01T01:00:00-05:00"),
                ("2026-11-01T01:45:00-05:00", "2026-11-01T06:00:00-05:00"),
            ],
        );
    }

    #[test]
    fn a_zone_that_leaves_out_a_day_has_no_quiet_hours_on_it() {
        // Apia: after 2011-12-29 23:59:59-10:00 came 2011-12-31 00:00:00+14:00.
        check(("22:00", "08:00", "Pacific/Apia"), &[("2011-12-29T23:00:00-10:00", "2011-12-31T08:00:00+14:00")]);
    }

    #[test]
    fn a_zone_that_changes_by_half_an_hour_is_followed() {
        // Lord Howe: 2026-10-04, 02:00 becomes 02:30.
        check(("22:00", "02:15", "Australia/Lord_Howe"), &[("2026-10-04T01:00:00+10:30", "2026-10-04T02:30:00+11:00")]);
    }

    #[test]
    fn every_minute_around_a_change_of_the_clock_is_moved_to_the_first_that_is_not_quiet() {
        let nights = [
            ("America/New_York", "2026-03-08T00:00:00-05:00"),
            ("America/New_York", "2026-10-31T22:00:00-04:00"),
            ("Europe/Berlin", "2026-03-28T22:00:00+01:00"),
            ("Europe/Berlin", "2026-10-24T22:00:00+02:00"),
            ("Australia/Lord_Howe", "2026-10-03T22:00:00+10:30"),
        ];
        for (zone, begins) in nights {
            for (from, to) in [("22:00", "08:00"), ("22:00", "02:30"), ("01:30", "02:10"), ("02:20", "01:40")] {
                let plan = quiet(from, to, zone);
                let (hours, tz) = plan.quiet.clone().expect("quiet hours");
                let is_quiet = |at_ms: u64| {
                    let at = Timestamp::from_millisecond(at_ms as i64).expect("a time");
                    let local = tz.to_datetime(at);
                    hours.contain((i64::from(local.hour()) * 60 + i64::from(local.minute())) * MINUTE_MS as i64)
                };
                for minute in 0..12 * 60 {
                    let at_ms = ms(begins) + minute * MINUTE_MS;
                    let mut expected = at_ms;
                    while is_quiet(expected) {
                        expected += MINUTE_MS;
                    }
                    let got = plan.out_of_quiet(at_ms);
                    assert_eq!(shown(got), shown(expected), "{} out of {from} to {to} in {zone}", shown(at_ms));
                }
            }
        }
    }

    #[test]
    fn what_was_due_while_nobody_was_at_work_waits_for_the_end_of_quiet_hours() {
        let plan = Plan { due: Due::At { at_ms: ms("2026-01-10T20:00:00Z") }, ..quiet("22:00", "08:00", "UTC") };
        let facts = |now: &str| Facts { since_ms: 0, now_ms: ms(now), heard: None };
        let fired = |since_ms| fires(Some(since_ms));
        assert_eq!(next(&plan, &facts("2026-01-10T21:00:00Z")), fired(0));
        let morning = ms("2026-01-11T08:00:00Z");
        assert_eq!(
            next(&plan, &facts("2026-01-10T23:00:00Z")),
            Next::Wait { due_at_ms: morning, since_ms: 0, restarted_by: None }
        );
    }

    #[test]
    fn a_clock_that_was_set_back_makes_it_wait_again_and_one_set_forward_fires_it() {
        let plan = plan(Due::At { at_ms: 10_000 }, OnMessage::Cancel);
        let facts = |now_ms| Facts { since_ms: 1_000, now_ms, heard: None };
        assert_eq!(next(&plan, &facts(4_000)), Next::Wait { due_at_ms: 10_000, since_ms: 1_000, restarted_by: None });
        assert_eq!(next(&plan, &facts(7_210_000)), fires(Some(1_000)));
    }

    #[test]
    fn a_message_cancels_restarts_or_does_nothing() {
        let heard = |at_ms| Some(Heard { message_id: "m".to_owned(), at_ms });
        let silence = Due::AfterSilence { ms: 100 };
        let facts = |heard| Facts { since_ms: 1_000, now_ms: 1_100, heard };
        let decide = |on_message, heard| next(&plan(silence, on_message), &facts(heard));
        assert_eq!(decide(OnMessage::Cancel, heard(1_001)), Next::Cancel { message_id: "m".to_owned() });
        assert_eq!(
            decide(OnMessage::Reschedule, heard(1_050)),
            Next::Wait { due_at_ms: 1_150, since_ms: 1_050, restarted_by: Some("m".to_owned()) }
        );
        assert_eq!(decide(OnMessage::Keep, heard(1_050)), fires(None));
        // What was said before it was scheduled is what it follows up on.
        assert_eq!(decide(OnMessage::Cancel, heard(1_000)), fires(Some(1_000)));
        // So late that the silence it begins is over as well.
        let late = Facts { now_ms: 9_000, ..facts(heard(1_050)) };
        let fired = next(&plan(silence, OnMessage::Reschedule), &late);
        assert_eq!(fired, fires(Some(1_050)));
    }

    #[test]
    fn what_would_come_after_its_time_expires() {
        let until = |expires_at_ms| Plan {
            expires_at_ms: Some(expires_at_ms),
            ..plan(Due::AfterSilence { ms: 100 }, OnMessage::Reschedule)
        };
        let facts = Facts { since_ms: 0, now_ms: 50, heard: Some(Heard { message_id: "m".to_owned(), at_ms: 40 }) };
        assert_eq!(next(&until(139), &facts), Next::Expire { due_at_ms: 140 });
        assert!(matches!(next(&until(140), &facts), Next::Wait { due_at_ms: 140, .. }));
        let late = Facts { now_ms: 500, heard: None, ..facts };
        assert_eq!(next(&until(140), &late), Next::Expire { due_at_ms: 500 });
    }

    #[test]
    fn a_time_of_day_is_written_as_it_is_read() {
        for good in ["00:00", "08:05", "23:59"] {
            assert_eq!(good.parse::<TimeOfDay>().expect("a time").to_string(), good);
        }
        for bad in ["", "8:00", "24:00", "12:60", "12.30", "1200", "+1:00", "12:3x", "12:30:00", "é2:00"] {
            bad.parse::<TimeOfDay>().expect_err(bad);
        }
    }
}
