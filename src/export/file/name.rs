//! The names of files: service, time, type, as in `checkout-20261129T185232.123Z-cpu.pb.gz`; a
//! number follows the type where that name was taken.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::profile::{Profile, ProfileKind};

const SUFFIX: &str = ".pb.gz";

/// Longer service names are cut: a file name has 255 bytes at most, and ours has 50 of its own.
const MAX_SERVICE_BYTES: usize = 120;

/// The files of one service and one profile type.
#[derive(Debug)]
pub(super) struct Series {
    service: String,
    kind: String,
}

/// A file's place among its series: its time, then its number.
pub(super) type Order = (String, u32);

impl Series {
    pub(super) fn of(profile: &Profile) -> Self {
        let kind = match profile.kind {
            ProfileKind::ProcessCpu => profile.weight_type.kind,
            ProfileKind::EverySpan => "span",
        };
        Self { service: plain(&profile.service_name), kind: plain(kind) }
    }

    /// The name for a window that began at `start`, when `clash` names before it were taken.
    pub(super) fn name(&self, start: SystemTime, clash: u32) -> String {
        let Self { service, kind } = self;
        let number = if clash == 0 { String::new() } else { format!("-{}", clash + 1) };
        format!("{service}-{}-{kind}{number}{SUFFIX}", stamp(start))
    }

    /// The place of the file called `name`; `None` when it is not of this series.
    pub(super) fn order(&self, name: &str) -> Option<Order> {
        const SHAPE: &str = "00000000T000000.000Z";
        let rest = name.strip_prefix(&*self.service)?.strip_prefix('-')?;
        let (stamp, rest) = rest.split_at_checked(SHAPE.len())?;
        let fits = |(a, b): (char, char)| if b == '0' { a.is_ascii_digit() } else { a == b };
        if !stamp.chars().zip(SHAPE.chars()).all(fits) {
            return None;
        }
        let number = rest.strip_prefix('-')?.strip_prefix(&*self.kind)?.strip_suffix(SUFFIX)?;
        let number = match number {
            "" => 1,
            number => number.strip_prefix('-')?.parse().ok()?,
        };
        Some((stamp.to_owned(), number))
    }
}

/// What the file that will be called `name` is called until it is complete. It is hidden, and has
/// another ending, so nobody who looks for profiles finds it.
pub(super) fn part(name: &str) -> String {
    format!(".{name}.part")
}

/// The name behind such a name.
pub(super) fn complete(part: &str) -> Option<&str> {
    part.strip_prefix('.')?.strip_suffix(".part")
}

/// `text` in the characters that mean nothing to any shell or file system.
fn plain(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let plain: String =
        text.chars().map(|c| if allowed(c) { c } else { '_' }).take(MAX_SERVICE_BYTES).collect();
    match plain.trim_start_matches(['.', '-']) {
        "" => "unknown".into(),
        visible => visible.into(),
    }
}

/// A time in UTC whose text sorts like the time.
fn stamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    // Years begin in March here, so that the leap day is the last of its year; 400 of them are an era.
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_OF_ERA: u64 = 146_097;
    let day = (days + DAYS_TO_1970) % DAYS_OF_ERA;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = (days + DAYS_TO_1970) / DAYS_OF_ERA * 400 + year + u64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    let millis = since.subsec_millis();
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn series(service: &str) -> Series {
        Series { service: plain(service), kind: "cpu".into() }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101T000000.000Z"),
            (951_782_399, "20000228T235959.000Z"),
            (951_782_400, "20000229T000000.000Z"),
            (1_709_164_800, "20240229T000000.000Z"),
            (1_709_251_200, "20240301T000000.000Z"),
            (1_735_689_599, "20241231T235959.000Z"),
            (1_735_689_600, "20250101T000000.000Z"),
            (4_107_542_400, "21000301T000000.000Z"),
        ] {
            assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        assert_eq!(stamp(UNIX_EPOCH + Duration::from_millis(1_999)), "19700101T000001.999Z");
    }

    #[test]
    fn service_names_become_file_names() {
        for (service, expected) in [
            ("checkout", "checkout"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("-rf", "rf"),
            ("Käse & Brot", "K_se___Brot"),
            ("..", "unknown"),
            ("", "unknown"),
        ] {
            assert_eq!(series(service).service, expected);
        }
        assert_eq!(series(&"x".repeat(1000)).service.len(), MAX_SERVICE_BYTES);
    }

    #[test]
    fn a_series_knows_its_own_names_only() {
        let series = series("shop");
        let at = UNIX_EPOCH + Duration::from_millis(1_234);
        for (clash, number) in [(0, 1), (1, 2), (11, 12)] {
            let name = series.name(at, clash);
            assert_eq!(series.order(&name), Some(("19700101T000001.234Z".into(), number)), "{name}");
            assert_eq!(complete(&part(&name)), Some(&*name));
        }
        for foreign in [
            "shop-19700101T000001.234Z-span.pb.gz",
            "shop-19700101T000001.234Z-cpu.pb.gz.bak",
            "shop-19700101T000001.234Z-cpu-x.pb.gz",
            "shop-19700101T000001.234Z-cpus.pb.gz",
            "shop-eu-19700101T000001.234Z-cpu.pb.gz",
            "shop-2026-cpu.pb.gz",
            "shop-äääääääääääää-cpu.pb.gz",
            "shop.pb.gz",
            "",
        ] {
            assert_eq!(series.order(foreign), None, "{foreign}");
        }
    }
}
