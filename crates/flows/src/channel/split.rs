//! Cutting a text into pieces a channel takes, where a reader would pause.

/// Marks after which a sentence ends if a space follows, or in scripts that put no space there, in any case.
const SENTENCE_ENDS: [char; 5] = ['.', '?', '!', '…', '؟'];
const SENTENCE_ENDS_UNSPACED: [char; 4] = ['。', '｡', '？', '！'];
const ZERO_WIDTH_JOINER: char = '\u{200D}';

/// Cuts a text into at most `pieces_max` pieces of at most `chars_max` characters; what would follow is left out, so
/// the caller asks for one more than it takes.
///
/// A cut goes between paragraphs, else lines, else sentences if one of them ends in the second half of what fits; else
/// between words; else, in a word that is longer than a piece, anywhere but inside what is seen as one character.
pub(super) fn split(text: &str, chars_max: usize, pieces_max: usize) -> Vec<String> {
    let text = text.replace("\r\n", "\n");
    let mut rest = text.trim();
    let mut pieces = Vec::new();
    while !rest.is_empty() && pieces.len() < pieces_max {
        let at = cut(rest, chars_max.max(1));
        let (piece, after) = rest.split_at(at);
        pieces.push(piece.trim_end().to_owned());
        rest = after.trim_start();
    }
    pieces
}

/// Where to cut a text that begins with something other than whitespace: a place in it, or its end if it fits.
fn cut(text: &str, chars_max: usize) -> usize {
    let (mut paragraph, mut line, mut sentence, mut word, mut hard) = (None, None, None, None, None);
    let mut before: Option<char> = None;
    let mut line_start = 0;
    // Flags are pairs of letters: an odd number of them before this place means it is inside of one.
    let mut flag_letters = 0;
    for (passed, (at, c)) in text.char_indices().enumerate() {
        if let Some(before) = before {
            let late = passed * 2 > chars_max;
            if late && text[at..].starts_with("\n\n") {
                paragraph = Some(at);
            }
            if late && c == '\n' {
                line = Some(at);
            }
            let ends =
                SENTENCE_ENDS_UNSPACED.contains(&before) || (SENTENCE_ENDS.contains(&before) && c.is_whitespace());
            // "1." at the beginning of a line is the number of what follows, not a sentence.
            if late && ends && !text[line_start..at].trim_matches(['.', ' ']).bytes().all(|b| b.is_ascii_digit()) {
                sentence = Some(at);
            }
            if c.is_whitespace() {
                word = Some(at);
            }
            let halves_flag = is_flag_letter(c) && flag_letters % 2 == 1;
            if !joined(before, c) && !halves_flag {
                hard = Some(at);
            }
        }
        if passed == chars_max {
            return paragraph.or(line).or(sentence).or(word).or(hard).unwrap_or(at);
        }
        flag_letters = if is_flag_letter(c) { flag_letters + 1 } else { 0 };
        if c == '\n' {
            line_start = at + 1;
        }
        before = Some(c);
    }
    text.len()
}

/// Whether two characters are seen as one. It knows accents, skin tones and joined emoji, not every script's rules.
fn joined(before: char, c: char) -> bool {
    let extends = matches!(c,
        '\u{300}'..='\u{36F}' | '\u{20D0}'..='\u{20FF}' | '\u{FE00}'..='\u{FE0F}'
        | '\u{1F3FB}'..='\u{1F3FF}' | '\u{E0020}'..='\u{E007F}');
    extends || c == ZERO_WIDTH_JOINER || before == ZERO_WIDTH_JOINER
}

fn is_flag_letter(c: char) -> bool {
    matches!(c, '\u{1F1E6}'..='\u{1F1FF}')
}
