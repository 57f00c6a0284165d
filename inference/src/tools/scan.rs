//! JSON, character by character: whether it can still become one object, and how deep it is.

/// Nesting that is followed.
const MAX_DEPTH: usize = 128;

/// A character that no JSON has there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotJson;

/// One object under way.
#[derive(Default)]
pub(super) struct Scan {
    /// Of each open bracket, whether it is an object's.
    open: Vec<bool>,
    at: At,
    /// What is left of `true`, `false` or `null`.
    word: &'static str,
}

/// What comes next.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// The object.
    #[default]
    Begin,
    Value,
    /// A value, or the end of an array.
    FirstItem,
    Key,
    /// A key, or the end of an object.
    FirstKey,
    Colon,
    /// A comma, or an end.
    After,
    Text {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    Hex {
        is_key: bool,
        left: u8,
    },
    Word,
    Number(Number),
    End,
}

/// Within a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Scan {
    /// Open brackets.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether the object is whole.
    pub(super) fn is_complete(&self) -> bool {
        self.at == At::End
    }

    /// Takes one character.
    pub(super) fn push(&mut self, c: char) -> Result<(), NotJson> {
        if let At::Number(number) = self.at {
            match number.next(c) {
                Some(next) => {
                    self.at = At::Number(next);
                    return Ok(());
                }
                None if number.may_end() => self.at = At::After,
                None => return Err(NotJson),
            }
        }
        let is_space = matches!(c, ' ' | '\n' | '\r' | '\t');
        match self.at {
            At::Text { is_key } => return self.text(c, is_key),
            At::Escape { is_key } => return self.escape(c, is_key),
            At::Hex { is_key, left } => return self.hex(c, is_key, left),
            At::Word => return self.word(c),
            _ if is_space => return Ok(()),
            _ => {}
        }
        match (self.at, c) {
            (At::Begin, '{') => self.enter(true),
            (At::FirstKey | At::Key, '"') => {
                self.at = At::Text { is_key: true };
                Ok(())
            }
            (At::FirstKey, '}') => self.leave(true),
            (At::Colon, ':') => {
                self.at = At::Value;
                Ok(())
            }
            (At::FirstItem, ']') => self.leave(false),
            (At::Value | At::FirstItem, c) => self.value(c),
            (At::After, ',') => {
                self.at = match self.open.last() {
                    Some(true) => At::Key,
                    _ => At::Value,
                };
                Ok(())
            }
            (At::After, '}') => self.leave(true),
            (At::After, ']') => self.leave(false),
            _ => Err(NotJson),
        }
    }

    fn enter(&mut self, is_object: bool) -> Result<(), NotJson> {
        if self.open.len() == MAX_DEPTH {
            return Err(NotJson);
        }
        self.open.push(is_object);
        self.at = match is_object {
            true => At::FirstKey,
            false => At::FirstItem,
        };
        Ok(())
    }

    fn leave(&mut self, is_object: bool) -> Result<(), NotJson> {
        if self.open.pop() != Some(is_object) {
            return Err(NotJson);
        }
        self.at = match self.open.is_empty() {
            true => At::End,
            false => At::After,
        };
        Ok(())
    }

    fn value(&mut self, c: char) -> Result<(), NotJson> {
        match c {
            '{' => return self.enter(true),
            '[' => return self.enter(false),
            '"' => self.at = At::Text { is_key: false },
            't' => (self.at, self.word) = (At::Word, "rue"),
            'f' => (self.at, self.word) = (At::Word, "alse"),
            'n' => (self.at, self.word) = (At::Word, "ull"),
            '-' => self.at = At::Number(Number::Minus),
            '0' => self.at = At::Number(Number::Zero),
            '1'..='9' => self.at = At::Number(Number::Whole),
            _ => return Err(NotJson),
        }
        Ok(())
    }

    fn text(&mut self, c: char, is_key: bool) -> Result<(), NotJson> {
        match c {
            '"' if is_key => self.at = At::Colon,
            '"' => self.at = At::After,
            '\\' => self.at = At::Escape { is_key },
            c if c < ' ' => return Err(NotJson),
            _ => {}
        }
        Ok(())
    }

    fn escape(&mut self, c: char, is_key: bool) -> Result<(), NotJson> {
        self.at = match c {
            '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => At::Text { is_key },
            'u' => At::Hex { is_key, left: 4 },
            _ => return Err(NotJson),
        };
        Ok(())
    }

    fn hex(&mut self, c: char, is_key: bool, left: u8) -> Result<(), NotJson> {
        if !c.is_ascii_hexdigit() {
            return Err(NotJson);
        }
        self.at = match left {
            1 => At::Text { is_key },
            left => At::Hex {
                is_key,
                left: left - 1,
            },
        };
        Ok(())
    }

    fn word(&mut self, c: char) -> Result<(), NotJson> {
        self.word = self.word.strip_prefix(c).ok_or(NotJson)?;
        if self.word.is_empty() {
            self.at = At::After;
        }
        Ok(())
    }
}

impl Number {
    /// Where a character leads that belongs to the number.
    fn next(self, c: char) -> Option<Self> {
        match (self, c) {
            (Self::Minus, '0') => Some(Self::Zero),
            (Self::Minus | Self::Whole, '1'..='9') | (Self::Whole, '0') => Some(Self::Whole),
            (Self::Zero | Self::Whole, '.') => Some(Self::Point),
            (Self::Point | Self::Fraction, '0'..='9') => Some(Self::Fraction),
            (Self::Zero | Self::Whole | Self::Fraction, 'e' | 'E') => Some(Self::E),
            (Self::E, '+' | '-') => Some(Self::Sign),
            (Self::E | Self::Sign | Self::Exponent, '0'..='9') => Some(Self::Exponent),
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Whole | Self::Fraction | Self::Exponent
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn accepts(text: &str) -> bool {
        let mut scan = Scan::default();
        text.chars().all(|c| scan.push(c).is_ok()) && scan.is_complete()
    }

    proptest! {
        /// The library says the same, but for lone surrogates and numbers out of range, which are
        /// JSON.
        #[test]
        fn objects_are_those_of_the_library(
            text in concat!(r#"\{("(a|b|\\n|\\u0041|é)":(1|-0|0\.5|1e9|true|null|"x"|"#,
                r#"\[\]|\{\}|\[1,2\]),?){0,3}[\}\]"]{0,2}"#),
        ) {
            let library = serde_json::from_str::<Map<String, Value>>(&text).is_ok();
            prop_assert_eq!(accepts(&text), library, "{}", text);
        }

        #[test]
        fn any_text_is_taken_or_refused(
            text in any::<String>(),
            json in r#"[\{\}\[\]",:0-9a-z\\ .-]{0,40}"#,
        ) {
            accepts(&text);
            let json = format!("{{{json}");
            let library = serde_json::from_str::<Map<String, Value>>(&json).is_ok();
            prop_assert_eq!(accepts(&json), library, "{}", json);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "{\"a\":".to_owned() + &"[".repeat(MAX_DEPTH);
        let mut scan = Scan::default();
        let refused = deep.chars().map(|c| scan.push(c)).find(Result::is_err);
        assert_eq!(refused, Some(Err(NotJson)));
        assert_eq!(scan.depth(), MAX_DEPTH);
    }
}
