//! What a reply becomes on each kind of channel, from outside.

use super::*;

/// The texts of a reply's segments.
fn texts(capability: &Capability, text: &str) -> Vec<String> {
    let segments = segments(capability, text, &[]).expect("not too long");
    segments.into_iter().map(|segment| segment.text.expect("a text")).collect()
}

/// A channel of short messages that takes text as it is.
fn short(chars_max: usize) -> Capability {
    Capability { chars_max: Some(chars_max), ..Capability::of("nowhere") }
}

/// What a markdown reply becomes without markdown.
fn plain(markdown: &str) -> String {
    texts(&Capability { markdown: false, ..Capability::of("nowhere") }, markdown).join("<cut>")
}

fn picture(caption: Option<&str>) -> Media {
    Media {
        kind: "image".to_owned(),
        url: "https://shop.example/a.png".to_owned(),
        mime_type: Some("image/png".to_owned()),
        caption: caption.map(str::to_owned),
    }
}

/// Numbers below a limit, the same for the same seed.
fn chance(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

fn without_whitespace(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[test]
fn each_channel_has_its_limits() {
    let told = |channel| {
        let capability = Capability::of(channel);
        (capability.chars_max, capability.markdown, capability.media, capability.natural_delay_ms)
    };
    assert_eq!(told("whatsapp"), (Some(4_096), true, true, 0));
    assert_eq!(told("telegram"), (Some(4_096), true, true, 0));
    assert_eq!(told("sms"), (Some(160), false, false, 0));
    assert_eq!(told("SMS"), (Some(160), false, false, 0));
    assert_eq!(told("email"), (None, true, true, 0));
    assert_eq!(told("webchat"), (Some(10_000), true, true, 500));
    assert_eq!(told("web"), told("webchat"));
    assert_eq!(told("voice"), (Some(500), false, false, 300));
    assert_eq!(told("pigeon"), (None, true, true, 0));
}

#[test]
fn a_configuration_changes_what_it_names_and_nothing_else() {
    let changes: CapabilityChanges = serde_json::from_str(r#"{"chars_max":320}"#).expect("changes");
    assert_eq!(
        Capability::of("sms").with(&changes),
        Capability { chars_max: Some(320), markdown: false, media: false, natural_delay_ms: 0 }
    );
    let changes: CapabilityChanges = serde_json::from_str(r#"{"chars_max":0,"media":true}"#).expect("changes");
    assert_eq!(
        Capability::of("sms").with(&changes),
        Capability { chars_max: None, markdown: false, media: true, natural_delay_ms: 0 }
    );
    assert_eq!(Capability::of("voice").with(&CapabilityChanges::default()), Capability::of("voice"));
    serde_json::from_str::<CapabilityChanges>(r#"{"char_max":320}"#).expect_err("a misspelt name is refused");
}

#[test]
fn a_short_reply_is_one_segment_as_it_was_written() {
    assert_eq!(texts(&Capability::of("whatsapp"), "Your order is *on its way*."), ["Your order is *on its way*."]);
    assert_eq!(texts(&short(5), "12345"), ["12345"]);
}

#[test]
fn an_empty_reply_gives_no_segment() {
    for text in ["", "  ", "\n\n\t"] {
        assert_eq!(segments(&Capability::of("sms"), text, &[]), Ok(vec![]));
        assert_eq!(segments(&Capability::of("web"), text, &[]), Ok(vec![]));
    }
    assert_eq!(segments(&Capability::of("web"), " ", &[picture(None)]).expect("one").len(), 1);
}

#[test]
fn media_follow_the_text_where_they_can_be_sent() {
    let sent = segments(&Capability::of("whatsapp"), "Here it is.", &[picture(Some("Your parcel"))]).expect("two");
    let expected = [
        Segment { text: Some("Here it is.".to_owned()), media: None },
        Segment { text: None, media: Some(picture(Some("Your parcel"))) },
    ];
    assert_eq!(sent, expected);
    assert_eq!(
        serde_json::to_string(&sent[1]).expect("JSON"),
        r#"{"media":{"type":"image","url":"https://shop.example/a.png","mime_type":"image/png","caption":"Your parcel"}}"#
    );
}

#[test]
fn media_become_their_addresses_elsewhere() {
    let media = [picture(Some("Your **parcel**")), picture(None), picture(Some(" "))];
    let sent = segments(&Capability::of("sms"), "Here it is.", &media).expect("four");
    let texts: Vec<&str> = sent.iter().filter_map(|segment| segment.text.as_deref()).collect();
    let url = "https://shop.example/a.png";
    assert_eq!(texts, ["Here it is.", "Your parcel: https://shop.example/a.png", url, url]);
}

#[test]
fn a_cut_goes_between_paragraphs_if_one_ends_in_the_second_half() {
    assert_eq!(
        texts(&short(30), "First. And this.\n\nSecond. And more of it."),
        ["First. And this.", "Second. And more of it."]
    );
    // A line is a weaker paragraph.
    assert_eq!(
        texts(&short(30), "First. And this.\nSecond. And more of it."),
        ["First. And this.", "Second. And more of it."]
    );
    // The break may come right behind what fits.
    assert_eq!(texts(&short(16), "First. And this.\n\nSecond one."), ["First. And this.", "Second one."]);
}

#[test]
fn else_after_a_sentence() {
    assert_eq!(texts(&short(20), "A.\n\nThis is said. Then comes more."), ["A.\n\nThis is said.", "Then comes more."]);
    assert_eq!(texts(&short(20), "Is this so? Then it is not that."), ["Is this so?", "Then it is not that."]);
    assert_eq!(texts(&short(6), "我要退货。谢谢你们！再见"), ["我要退货。", "谢谢你们！", "再见"]);
}

#[test]
fn else_between_words() {
    assert_eq!(
        texts(&short(20), "Oh. This goes on and on without an end"),
        ["Oh. This goes on and", "on without an end"]
    );
    // The number of an item does not end a sentence, and neither does the dot in one.
    assert_eq!(texts(&short(12), "Well\n1. of those"), ["Well\n1. of", "those"]);
    assert_eq!(texts(&short(12), "now for 1.50 euros"), ["now for 1.50", "euros"]);
}

#[test]
fn else_anywhere_but_inside_a_character() {
    assert_eq!(texts(&short(4), "abcdefghij"), ["abcd", "efgh", "ij"]);
    assert_eq!(texts(&short(3), "äöüßé"), ["äöü", "ßé"]);
    let family = "👨‍👩‍👧";
    assert_eq!(texts(&short(7), &format!("abcde{family}")), ["abcde", family]);
    assert_eq!(texts(&short(3), "ab👍🏽cd"), ["ab", "👍🏽c", "d"]);
    assert_eq!(texts(&short(3), "🇩🇪🇫🇷"), ["🇩🇪", "🇫🇷"]);
    assert_eq!(texts(&short(2), "ae\u{301}b"), ["a", "e\u{301}", "b"]);
    // What is longer than a message has to be cut all the same.
    assert_eq!(texts(&short(2), family).concat(), family);
}

#[test]
fn an_sms_has_160_characters_and_not_bytes() {
    let text = "ü".repeat(160);
    assert_eq!(texts(&Capability::of("sms"), &text).len(), 1);
    assert_eq!(texts(&Capability::of("sms"), &format!("{text}!")).len(), 2);
}

#[test]
fn markdown_becomes_plain_text_for_sms() {
    assert_eq!(plain("It is **on its way**, _really_, see `A-1`."), "It is on its way, really, see A-1.");
    assert_eq!(plain("# Order\nIt left.\n\nIt comes `soon`."), "Order\n\nIt left.\n\nIt comes soon.");
    assert_eq!(plain("one\ntwo\\\nthree<br>four"), "one\ntwo\nthree\nfour");
    assert_eq!(plain("> quoted\n\nand not\n\n---\n\nend"), "quoted\n\nand not\n\nend");
    assert_eq!(plain("Run:\n\n```sh\nls -l\n  cd\n```\n\nDone."), "Run:\n\nls -l\n  cd\n\nDone.");
}

#[test]
fn links_keep_their_addresses() {
    assert_eq!(plain("See [your order](https://shop.example/1)."), "See your order (https://shop.example/1).");
    assert_eq!(plain("[https://shop.example](https://shop.example)"), "https://shop.example");
    assert_eq!(plain("<https://shop.example/1>"), "https://shop.example/1");
    assert_eq!(plain("[**us**][1] or [a@b.example](mailto:a@b.example)\n\n[1]: https://x.example"), {
        "us (https://x.example) or a@b.example"
    });
    assert_eq!(plain("![a map](https://x.example/m.png) ![](https://x.example/n.png)"), {
        "a map (https://x.example/m.png) https://x.example/n.png"
    });
    assert_eq!(plain("https://shop.example/a_b_c?d=1&e=2"), "https://shop.example/a_b_c?d=1&e=2");
}

#[test]
fn lists_are_lines_with_marks() {
    assert_eq!(plain("Choose:\n* a\n* b **c**\n\nThen go."), "Choose:\n\n- a\n- b c\n\nThen go.");
    assert_eq!(plain("3. c\n4. d"), "3. c\n4. d");
    assert_eq!(plain("- a\n\n  more\n\n- b\n"), "- a\n  more\n- b");
    assert_eq!(plain("- a\n  - b\n    c\n  - d\n- e"), "- a\n  - b\n    c\n  - d\n- e");
    assert_eq!(plain("1. a\n   - b\n2. c\n\nend"), "1. a\n   - b\n2. c\n\nend");
    assert_eq!(plain("- a\n\n  ```\n  x\n  y\n  ```\n- b"), "- a\n  x\n  y\n- b");
}

#[test]
fn tables_are_lines() {
    assert_eq!(
        plain("Prices:\n\n| what | euros |\n|---|--:|\n| tea | 2 |\n| a [b](https://c.example) | 3 |\n\nAll."),
        "Prices:\n\nwhat | euros\ntea | 2\na b (https://c.example) | 3\n\nAll."
    );
}

#[test]
fn what_only_looks_like_markdown_stays() {
    for text in
        ["5 * 3 * 2 = 30", "~~20~~ 15 euros", "order #12345", "snake_case_id", "write <your name> here", "a & b < c"]
    {
        assert_eq!(plain(text), text);
    }
}

#[test]
fn any_mixture_of_marks_is_read_and_deep_lists_stay_small() {
    const MARKS: [&str; 20] = [
        "- ", "1. ", "> ", "# ", "*", "**", "_", "`", "```\n", "[", "](", ")", "![", "|", "|-|\n", "<br>", "<a", "\n",
        "  ", "word",
    ];
    for seed in 1..=400 {
        let mut draw = chance(seed);
        let parts = draw(80);
        let markdown: String = (0..parts).map(|_| MARKS[draw(20) as usize]).collect();
        plain(&markdown);
    }
    let deep = format!("{}end", "- ".repeat(5_000));
    assert!(plain(&deep).len() < 40 * 5_000);
}

#[test]
fn a_hundred_segments_are_the_most() {
    let words = |number: usize| vec!["word"; number].join(" ");
    assert_eq!(texts(&short(4), &words(100)).len(), 100);
    let refused = segments(&short(4), &words(101), &[]).expect_err("too long");
    assert_eq!(refused, TooLong { chars: 504, media: 0, chars_max: Some(4) });
    assert_eq!(
        refused.to_string(),
        "a reply of 504 characters and 0 media would be more than 100 messages of at most 4 characters: shorten it, \
         send fewer media, or raise the channel's chars_max"
    );
    let media = vec![picture(None); 100];
    assert_eq!(segments(&Capability::of("web"), "", &media).expect("a hundred").len(), 100);
    assert_eq!(
        segments(&Capability::of("email"), "One more.", &media).expect_err("101"),
        TooLong { chars: 9, media: 100, chars_max: None }
    );
}

#[test]
fn whatever_is_said_no_segment_is_too_long_and_nothing_is_lost() {
    // Letters, marks, breaks, wide characters and what joins them, from a small generator with a seed.
    const ALPHABET: [&str; 16] =
        ["a", "bc", " ", " ", "\n", "\n\n", "\r\n", ". ", "? ", "。", "1.", "é", "e\u{301}", "👨‍👩‍👧", "🇩🇪", "longword"];
    for seed in 1..=400 {
        let mut draw = chance(seed);
        let parts = draw(120);
        let text: String = (0..parts).map(|_| ALPHABET[draw(16) as usize]).collect();
        let capability = short(8 + draw(60) as usize);
        let limit = capability.chars_max.expect("a limit");
        let pieces = match segments(&capability, &text, &[]) {
            Ok(_) => texts(&capability, &text),
            Err(refused) => panic!("seed {seed}: {refused}"),
        };
        for piece in &pieces {
            assert!(!piece.is_empty() && piece.trim() == piece, "seed {seed}: {piece:?}");
            assert!(piece.chars().count() <= limit, "seed {seed}: {piece:?} is longer than {limit}");
        }
        assert_eq!(without_whitespace(&pieces.concat()), without_whitespace(&text), "seed {seed}: {text:?}");
        assert_eq!(pieces, texts(&capability, &text), "seed {seed}: a second try cuts elsewhere");
        for piece in &pieces {
            assert!(!piece.starts_with(['\u{301}', '\u{200D}']), "seed {seed}: {piece:?} begins inside a character");
        }
    }
}
