//! In which line of a JSON text something stands, so that whoever wrote it finds what is wrong with it.

use std::collections::HashMap;

/// The lines, counted from 1, at which the values of these JSON pointers begin. The text is JSON; of one that is not,
/// whatever comes before the first mistake is found. One pass, whatever is asked.
pub(super) fn lines(text: &[u8], pointers: &[&str]) -> HashMap<String, u32> {
    let wanted = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
    let mut scan = Scan { text, at: 0, line: 1, path: String::new(), wanted, found: HashMap::new() };
    let _ = scan.value(0);
    scan.found
}

/// Deeper values are not looked for. As deep as serde_json reads.
const DEPTH_MAX: u32 = 128;

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
    /// The pointer of the value that is read.
    path: String,
    wanted: std::collections::HashSet<String>,
    found: HashMap<String, u32>,
}

impl Scan<'_> {
    fn blank(&mut self) {
        while let Some(byte) = self.text.get(self.at).filter(|byte| byte.is_ascii_whitespace()) {
            self.line += u32::from(*byte == b'\n');
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        self.blank();
        (*self.text.get(self.at)? == wanted).then(|| self.at += 1)
    }

    fn value(&mut self, depth: u32) -> Option<()> {
        self.blank();
        if self.wanted.contains(&self.path) {
            self.found.entry(self.path.clone()).or_insert(self.line);
        }
        if self.found.len() == self.wanted.len() || depth > DEPTH_MAX {
            return None;
        }
        match *self.text.get(self.at)? {
            b'{' => self.members(depth),
            b'[' => self.items(depth),
            b'"' => self.string().map(drop),
            _ => {
                let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
                let length = self.text[self.at..].iter().position(ends).unwrap_or(self.text.len() - self.at);
                self.at += length;
                (length > 0).then_some(())
            }
        }
    }

    fn members(&mut self, depth: u32) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            self.blank();
            let name = self.string()?;
            self.take(b':')?;
            let before = self.path.len();
            self.path.push('/');
            self.path.push_str(&name.replace('~', "~0").replace('/', "~1"));
            self.value(depth + 1)?;
            self.path.truncate(before);
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    fn items(&mut self, depth: u32) -> Option<()> {
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(());
        }
        for nth in 0_usize.. {
            let before = self.path.len();
            self.path.push_str(&format!("/{nth}"));
            self.value(depth + 1)?;
            self.path.truncate(before);
            if self.take(b',').is_none() {
                break;
            }
        }
        self.take(b']')
    }

    fn string(&mut self) -> Option<String> {
        let begin = self.at;
        if *self.text.get(self.at)? != b'"' {
            return None;
        }
        self.at += 1;
        loop {
            match *self.text.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        serde_json::from_slice(&self.text[begin..self.at]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_line() {
        let text = br#"[
  {"id": "a \"quoted\" [one]",
   "steps": [
     {"id": "x", "next": null},

     {"id": "y/z", "m~n": {"k": 1}}]},
  {"id": "b"}
]"#;
        let asked = ["", "/0/id", "/0/steps/0/next", "/0/steps/1/id", "/0/steps/1/m~0n/k", "/1", "/2", "/0/none"];
        let found = lines(text, &asked);
        let of = |pointer: &str| found.get(pointer).copied();
        assert_eq!(of(""), Some(1));
        assert_eq!(of("/0/id"), Some(2));
        assert_eq!(of("/0/steps/0/next"), Some(4));
        assert_eq!(of("/0/steps/1/id"), Some(6));
        assert_eq!(of("/0/steps/1/m~0n/k"), Some(6));
        assert_eq!(of("/1"), Some(7));
        assert_eq!((of("/2"), of("/0/none")), (None, None));
    }

    #[test]
    fn a_text_that_is_no_json_ends_the_search() {
        for bad in [&b"[1, "[..], b"{\"a\" 1}", b"\"", b"\"\\", b"", b"[[[["] {
            assert_eq!(lines(bad, &["/9"]), HashMap::new());
        }
    }
}
