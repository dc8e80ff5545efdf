//! What the end of a message gives away: a greeting, a fragment, a thing whose number is still missing, a courtesy.
//!
//! The lists of all languages are tried together. To guess a language from two words is less certain than to know all
//! greetings, and people greet in one language and ask in another. So a word enters a list only if it is not an
//! everyday end of a sentence in one of the other languages.
//!
//! What this module does not know: what any of it is worth in milliseconds.

use std::sync::LazyLock;

use serde::Deserialize;

/// The lists, one file for each language.
const FILES: [&str; 7] = [
    include_str!("../../words/en.toml"),
    include_str!("../../words/de.toml"),
    include_str!("../../words/fr.toml"),
    include_str!("../../words/es.toml"),
    include_str!("../../words/it.toml"),
    include_str!("../../words/pt.toml"),
    include_str!("../../words/nl.toml"),
];

/// Marks that end a sentence: Latin, then fullwidth and CJK, Arabic, Urdu, and Devanagari.
const COMPLETE: [char; 10] = ['.', '?', '!', '。', '｡', '？', '！', '؟', '۔', '।'];
/// Marks after which something follows: Latin, then fullwidth and CJK, and Arabic.
const OPEN: [char; 9] = [',', '-', ':', '–', '—', '，', '、', '：', '،'];
/// Fewer words than this may be only a beginning.
const WORDS_FEW: usize = 3;

/// The words of all languages, folded.
static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let mut all = Words::default();
    for file in FILES {
        let words: Words = toml::from_str(file).expect("the word lists are part of the program");
        all.greetings.extend(words.greetings.iter().map(|word| fold(word)));
        all.completions.extend(words.completions.iter().map(|word| fold(word)));
        all.entities.extend(words.entities.iter().map(|word| fold(word)));
        all.signs.extend(words.signs.iter().map(|word| fold(word)));
    }
    all
});

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// Said alone, they announce a request.
    greetings: Vec<String>,
    /// Courtesies that end one.
    completions: Vec<String>,
    /// Things that have a number.
    entities: Vec<String>,
    /// What stands between such a thing and its number.
    signs: Vec<String>,
}

/// What a message looks like, as far as a wait depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Greeting,
    Fragment,
    Dangling,
    Short,
    Other,
}

/// Reads a message: its shape, and whether it ends like something complete. The first shape that fits is it.
pub(super) fn read(text: &str) -> (Shape, bool) {
    let text = fold(text);
    let dangling = dangles(&text);
    // The dot of "Bestellung Nr." belongs to the abbreviation; nothing else that dangles could end with a mark.
    let complete = !dangling
        && (text.ends_with(COMPLETE) || WORDS.completions.iter().any(|word| before_word(&text, word).is_some()));
    let shape = if greets(&text) {
        Shape::Greeting
    } else if text.ends_with("...") || text.ends_with(OPEN) {
        Shape::Fragment
    } else if dangling {
        Shape::Dangling
    } else if !complete && words(&text) < WORDS_FEW {
        Shape::Short
    } else {
        Shape::Other
    };
    (shape, complete)
}

/// The whole text is a greeting. Exclamation marks are how many people write one, in Spanish on both sides.
fn greets(text: &str) -> bool {
    let said = text.trim_matches(['!', '¡', '！', ' ']);
    WORDS.greetings.iter().any(|word| word == said)
}

/// Ends in a thing whose number is missing, perhaps with the sign that announces the number.
fn dangles(text: &str) -> bool {
    let ends_in_entity = |text: &str| WORDS.entities.iter().any(|word| before_word(text, word).is_some());
    ends_in_entity(text)
        || WORDS
            .signs
            .iter()
            .any(|sign| before_word(text, sign).is_some_and(|before| ends_in_entity(before.trim_end())))
}

/// What stands before `word`, if the text ends with it as a whole word: "I paid" does not end in "id".
fn before_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let before = text.strip_suffix(word)?;
    let joined = word.starts_with(char::is_alphanumeric) && before.ends_with(char::is_alphanumeric);
    (!joined).then_some(before)
}

/// How many words a text has. Chinese and Japanese put no spaces between theirs, which have two characters on average.
fn words(text: &str) -> usize {
    let unspaced = text.chars().filter(|c| matches!(c, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}')).count();
    text.split_whitespace().count() + unspaced / 2
}

/// The form in which texts and words are compared: lower case, no accents, one kind of apostrophe and of ellipsis,
/// single spaces. Phones correct some of these and leave others, so people send any mixture.
fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' => folded.push('a'),
            'ç' => folded.push('c'),
            'è' | 'é' | 'ê' | 'ë' => folded.push('e'),
            'ì' | 'í' | 'î' | 'ï' => folded.push('i'),
            'ñ' => folded.push('n'),
            'ò' | 'ó' | 'ô' | 'õ' | 'ö' => folded.push('o'),
            'ù' | 'ú' | 'û' | 'ü' => folded.push('u'),
            'ý' | 'ÿ' => folded.push('y'),
            'œ' => folded.push_str("oe"),
            'æ' => folded.push_str("ae"),
            'ß' => folded.push_str("ss"),
            // Accents sent as characters of their own, and marks that only choose a drawing or a direction.
            '\u{300}'..='\u{36F}' | '\u{FE0F}' | '\u{200E}' | '\u{200F}' => {}
            '’' | '‘' | '´' | '`' => folded.push('\''),
            '…' => folded.push_str("..."),
            c if c.is_whitespace() => {
                if !folded.ends_with(' ') {
                    folded.push(' ');
                }
            }
            c => folded.push(c),
        }
    }
    folded.trim().to_owned()
}
