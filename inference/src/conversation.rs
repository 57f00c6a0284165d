//! What a chat template is given: the turns of a conversation, tools, and variables of its own.

use std::fmt;

use minijinja::Value as TemplateValue;

use crate::json::Json;
use crate::request::ChatMessage;

/// A conversation, and what else a chat template may ask for. It holds content: `Debug` shows none.
#[derive(Clone, Default, PartialEq)]
pub struct Conversation {
    /// The turns so far.
    pub messages: Vec<Turn>,
    /// Definitions of tools, as OpenAI's API has them. If there are none, `tools` is `none`.
    pub tools: Vec<Json>,
    /// Variables of the template's own: `enable_thinking`, `reasoning_effort` and their like.
    pub variables: Vec<(String, Json)>,
    /// What `strftime_now` tells a template that calls it without asking whether there is one.
    pub today: Option<Day>,
}

/// One turn, with all that its template may look for: `role`, `content`, and where they are there
/// `name`, `tool_calls` (arguments as objects, not as text), `tool_call_id`, `reasoning_content`.
#[derive(Clone, Default, PartialEq)]
pub struct Turn(Vec<(String, Json)>);

impl Turn {
    /// The same with one more member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    /// The text that a member is, if it is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        let member = self.0.iter().find(|(member, _)| member == name);
        match member {
            Some((_, Json::String(text))) => Some(text),
            _ => None,
        }
    }

    /// As templates see it: what was thought stands there by both of the names that they know.
    pub(crate) fn value(&self) -> TemplateValue {
        let thought = self.0.iter().find(|(name, _)| name == "reasoning_content");
        let thought = thought.map(|(_, thought)| ("thinking", TemplateValue::from(thought)));
        let members = self.0.iter();
        let members = members.map(|(name, value)| (name.as_str(), TemplateValue::from(value)));
        TemplateValue::from_pairs(thought.into_iter().chain(members))
    }
}

impl From<&ChatMessage> for Turn {
    fn from(message: &ChatMessage) -> Self {
        Self::default()
            .with("role", message.role.as_str())
            .with("content", message.content.as_str())
    }
}

impl From<Vec<(String, Json)>> for Turn {
    fn from(members: Vec<(String, Json)>) -> Self {
        Self(members)
    }
}

impl From<&[ChatMessage]> for Conversation {
    fn from(messages: &[ChatMessage]) -> Self {
        Self {
            messages: messages.iter().map(Turn::from).collect(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation")
            .field("messages", &self.messages.len())
            .field("tools", &self.tools.len())
            .field("variables", &self.variables.len())
            .field("today", &self.today)
            .finish()
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// 1970 to 9999.
    year: u32,
    /// 1 to 12.
    month: u32,
    /// From 1 on.
    day: u32,
    /// Since 1970-01-01, a Thursday.
    since_1970: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

impl Day {
    /// A day from 1970 on, if the calendar has it.
    pub fn new(year: u32, month: u32, day: u32) -> Option<Self> {
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        if day == 0 || day > days_of(year, month) {
            return None;
        }
        let years: u32 = (1970..year).map(days_of_year).sum();
        let months: u32 = (1..month).map(|month| days_of(year, month)).sum();
        Some(Self {
            year,
            month,
            day,
            since_1970: years + months + day - 1,
        })
    }

    /// The day of so many seconds since 1970, in UTC.
    pub fn of_unix_time(seconds: u64) -> Option<Self> {
        let mut rest = u32::try_from(seconds / 86_400).ok()?;
        let mut year = 1970;
        while year <= 9999 && rest >= days_of_year(year) {
            rest -= days_of_year(year);
            year += 1;
        }
        let mut month = 1;
        while month < 12 && rest >= days_of(year, month) {
            rest -= days_of(year, month);
            month += 1;
        }
        Self::new(year, month, rest + 1)
    }

    /// `YYYY-MM-DD`.
    pub fn parse(text: &str) -> Option<Self> {
        let shape = |(at, byte): (usize, u8)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        if text.len() != 10 || !text.bytes().enumerate().all(shape) {
            return None;
        }
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse().ok();
        Self::new(number(0..4)?, number(5..7)?, number(8..10)?)
    }

    /// Python's `strftime` at midnight; `None` for what is not known here.
    pub(crate) fn strftime(self, format: &str) -> Option<String> {
        let Self {
            year, month, day, ..
        } = self;
        let month_name = MONTHS.get(month as usize - 1)?;
        let weekday = WEEKDAYS.get(self.since_1970 as usize % 7)?;
        let of_year: u32 = (1..month).map(|month| days_of(year, month)).sum::<u32>() + day;
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            let field = match characters.next()? {
                'Y' => format!("{year:04}"),
                'y' => format!("{:02}", year % 100),
                'm' => format!("{month:02}"),
                'd' => format!("{day:02}"),
                'e' => format!("{day:2}"),
                'j' => format!("{of_year:03}"),
                'B' => (*month_name).to_owned(),
                'b' => month_name.get(..3)?.to_owned(),
                'A' => (*weekday).to_owned(),
                'a' => weekday.get(..3)?.to_owned(),
                'F' => format!("{year:04}-{month:02}-{day:02}"),
                'H' | 'M' | 'S' => "00".to_owned(),
                '%' => "%".to_owned(),
                '-' => match characters.next()? {
                    'd' => day.to_string(),
                    'm' => month.to_string(),
                    _ => return None,
                },
                _ => return None,
            };
            out.push_str(&field);
        }
        Some(out)
    }
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_of_year(year: u32) -> u32 {
    365 + u32::from(is_leap(year))
}

fn days_of(year: u32, month: u32) -> u32 {
    match month {
        2 => 28 + u32::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text, told) in [
            (0, "1970-01-01", "Thu 01 January 70, 001"),
            (951_782_400, "2000-02-29", "Tue 29 February 00, 060"),
            (1_798_761_599, "2026-12-31", "Thu 31 December 26, 365"),
        ] {
            let day = Day::of_unix_time(seconds).expect("a day");
            assert_eq!(Day::parse(text), Some(day));
            assert_eq!(day.strftime("%a %d %B %y, %j").as_deref(), Some(told));
            assert_eq!(day.strftime("%Y-%m-%d").as_deref(), Some(text));
        }
        for wrong in [
            "2026-02-29",
            "2026-13-01",
            "1969-12-31",
            "2026-00-10",
            "2026-1-10",
            "26-01-10",
            "2026-01-32",
            "",
            "٢٠٢٦-01",
        ] {
            assert_eq!(Day::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Day::of_unix_time(u64::MAX), None);
        assert_eq!(Day::of_unix_time(400_000_000_000), None);
    }

    #[test]
    fn no_content_is_shown() {
        let turn = Turn::default().with("content", "secret");
        let conversation = Conversation {
            messages: vec![turn.clone()],
            variables: vec![("a".to_owned(), "secret".into())],
            ..Conversation::default()
        };
        assert!(!format!("{turn:?} {conversation:?}").contains("secret"));
    }
}
