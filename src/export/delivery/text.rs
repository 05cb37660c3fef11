//! Small encodings of the web: base64, percent signs, dates, the one string wanted of a JSON answer.

use std::time::{Duration, SystemTime};

/// RFC 4648's base64, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => out.push(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char),
                false => out.push('='),
            }
        }
    }
    out
}

/// Undoes `%41`; `None` when a percent sign stands for nothing or the result is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// How long `Retry-After` asks to wait: seconds, or a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(date(value)?.duration_since(now).unwrap_or_default())
}

fn date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|&m| m == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|&n| n <= 60));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if words.next()? != "GMT" {
        return None;
    }
    // Years begin in March here, so that the leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    let seconds = (days - DAYS_TO_1970) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// What a server's refusal says: the `message` of its JSON, or else its text; one line, not long.
pub(super) fn message(body: &[u8]) -> String {
    const MAX_CHARS: usize = 400;
    let text = String::from_utf8_lossy(body);
    let text = json_string(&text, "message").unwrap_or_else(|| text.into_owned());
    let text = text.replace(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER, " ");
    let text = text.trim();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The string under `key` in a flat JSON object.
fn json_string(text: &str, key: &str) -> Option<String> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let after = text.split_once(&format!("\"{key}\""))?.1;
    let mut chars = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'u' => {
                    let code = chars.by_ref().take(4).try_fold(0, |n, c| Some(n << 4 | c.to_digit(16)?))?;
                    out.push(char::from_u32(code).unwrap_or(' '));
                }
                'n' | 'r' | 't' | 'b' | 'f' => out.push(' '),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn percent_signs_stand_for_bytes() {
        assert_eq!(percent_decode("p%40s%2Fs").as_deref(), Some("p@s/s"));
        assert_eq!(percent_decode("%C3%A4").as_deref(), Some("ä"));
        assert_eq!(percent_decode("100%"), None);
        assert_eq!(percent_decode("%zz"), None);
        assert_eq!(percent_decode("%ff"), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(retry_after("7", at(0)), Some(Duration::from_secs(7)));
        // RFC 9110's own example, and a leap day.
        let example = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(example, at(784_111_777 - 5)), Some(Duration::from_secs(5)));
        assert_eq!(retry_after(example, at(784_111_777 + 5)), Some(Duration::ZERO));
        assert_eq!(date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(at(1_709_164_800)));
        for wrong in ["", "soon", "-1", "Sun, 06 Nov 1994", "Sun, 06 Now 1994 08:49:37 GMT", "1e9"] {
            assert_eq!(retry_after(wrong, at(0)), None, "{wrong}");
        }
    }

    #[test]
    fn a_refusal_says_why() {
        assert_eq!(
            message(br#"{"code":"invalid_argument","message":"no \"name\"\nat all"}"#),
            "no \"name\" at all"
        );
        assert_eq!(message(b"upstream is away\n"), "upstream is away");
        assert_eq!(message(br#"{"message":"cut of"#), r#"{"message":"cut of"#);
        assert_eq!(message(&[b'x'; 5000]).chars().count(), 401);
    }
}
