//! Finds quotation marks that are never closed. Such a mark makes all following rows one field,
//! which the CSV reader accepts; reading through [`Quotes`] fails instead.

use std::io::{self, ErrorKind, Read};

/// The text of a CSV file. Reading fails if a quoted field is longer than a row or never ends.
pub(super) struct Quotes<R> {
    inner: R,
    delimiter: u8,
    /// Delimiters in a row.
    of_row: usize,
    state: State,
    /// The current line, and the one in which the quoted field began, from 1.
    line: u64,
    began: u64,
    /// Delimiters in the quoted field so far.
    within: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a field.
    Start,
    /// In an unquoted field, or behind the closing mark of a quoted one.
    Bare,
    /// In a quoted field.
    Quoted,
    /// Behind a mark in a quoted field: it closes the field unless another mark follows.
    Mark,
}

impl<R> Quotes<R> {
    pub(super) fn new(inner: R, delimiter: u8, of_row: usize) -> Self {
        Self {
            inner,
            delimiter,
            of_row,
            state: State::Start,
            line: 1,
            began: 0,
            within: 0,
        }
    }

    fn take(&mut self, byte: u8) -> io::Result<()> {
        let is_quoted = self.state == State::Quoted;
        self.state = match (self.state, byte) {
            (State::Start, b'"') => {
                (self.began, self.within) = (self.line, 0);
                State::Quoted
            }
            (State::Quoted, b'"') => State::Mark,
            (State::Mark, b'"') | (State::Quoted, _) => State::Quoted,
            (_, b'\n' | b'\r') => State::Start,
            (_, byte) if byte == self.delimiter => State::Start,
            (State::Start | State::Bare | State::Mark, _) => State::Bare,
        };
        self.line += u64::from(byte == b'\n');
        self.within += usize::from(is_quoted && byte == self.delimiter);
        if is_quoted && self.line > self.began && self.of_row > 0 && self.within >= self.of_row {
            return Err(self.open("holds a row and more"));
        }
        Ok(())
    }

    fn open(&self, problem: &str) -> io::Error {
        let problem = format!(
            "the field that a quotation mark opens in line {} {problem}: is a mark missing?",
            self.began
        );
        io::Error::new(ErrorKind::InvalidData, problem)
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(to)?;
        if count == 0 && !to.is_empty() && self.state == State::Quoted {
            return Err(self.open("never ends"));
        }
        to[..count].iter().try_for_each(|byte| self.take(*byte))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_is_missing_is_missed() {
        for (text, problem) in [
            ("a,b,c\n1,2,3\n", None),
            ("a,b,c\n1,\"two, and\nmore\",3\n", None),
            ("a,b,c\n1,\"5\"\" lamp\",3\n1,5\" lamp,3\n", None),
            ("a,b,c\n1,\"x,y,z,w\",3\n", None),
            ("a,b,c\n1,2,\"3\"", None),
            (
                "a,b,c\n1,2,\"3\n1,2,3\n1,2,3\n",
                Some("line 2 holds a row and more"),
            ),
            (
                "a,b,c\n1,\"2,3\n1,2\",3\n",
                Some("line 2 holds a row and more"),
            ),
            ("a,b,c\n1,2,3\n1,2,\"Fra", Some("line 3 never ends")),
            (
                "a,b,c\r\n1,2,\"3\r\n1,2,3\r\n",
                Some("line 2 holds a row and more"),
            ),
        ] {
            let read = io::read_to_string(Quotes::new(text.as_bytes(), b',', 2));
            match problem {
                None => assert_eq!(read.unwrap(), text),
                Some(problem) => assert!(read.unwrap_err().to_string().contains(problem), "{text}"),
            }
        }
    }
}
