//! What the window promises, from outside. The golden values come from the original design.

use super::*;

/// The wait for `text` with default rules and nothing else known, as the turn's first message.
fn plain(channel: &str, text: &str) -> u64 {
    asked(channel, text, None, None, 1).ms
}

/// A wait with default rules. Whatever is asked, the parts add up to the whole.
fn asked(channel: &str, text: &str, pace: Option<Pace>, hint: Option<&Hint>, number: u32) -> Quiet {
    let quiet = quiet(&WindowRules::default(), channel, text, pace, hint, number);
    assert_eq!(quiet.why.iter().map(|part| part.change_ms).sum::<i64>(), quiet.ms.cast_signed(), "{quiet:?}");
    quiet
}

fn awaiting() -> Hint {
    Hint { awaiting_required_field: true, ..Hint::default() }
}

#[test]
fn a_greeting_on_the_web_waits_1100() {
    assert_eq!(plain("web", "Hello"), 1_100);
}

#[test]
fn a_greeting_on_whatsapp_waits_1700() {
    assert_eq!(plain("whatsapp", "Hello"), 1_700);
}

#[test]
fn an_ordinary_request_waits_the_channels_600() {
    assert_eq!(plain("web", "Cancel my order #12345"), 600);
}

#[test]
fn a_complete_sentence_waits_300() {
    assert_eq!(plain("web", "I need help with my order."), 300);
}

#[test]
fn an_order_without_its_number_waits_1400_by_sms() {
    assert_eq!(plain("sms", "Order #"), 1_400);
}

#[test]
fn the_third_message_waits_384() {
    assert_eq!(asked("web", "How are you", None, None, 3).ms, 384);
}

#[test]
fn a_slow_person_is_waited_for_1160() {
    let pace = Pace { p50_ms: 1_000, p95_ms: 3_000, samples: 10 };
    assert_eq!(asked("web", "Cancel my order #12345", Some(pace), None, 1).ms, 1_160);
}

#[test]
fn a_required_field_is_waited_for_2700_and_as_second_message_2160() {
    assert_eq!(asked("whatsapp", "hi", None, Some(&awaiting()), 1).ms, 2_700);
    assert_eq!(asked("whatsapp", "hi", None, Some(&awaiting()), 2).ms, 2_160);
}

#[test]
fn an_ellipsis_is_a_fragment_that_ends_with_a_mark() {
    assert_eq!(plain("web", "I was thinking that..."), 700);
    assert_eq!(plain("web", "I was thinking that…"), 700);
}

#[test]
fn each_channel_has_its_base() {
    let bases = [
        ("whatsapp", 1_200),
        ("telegram", 1_000),
        ("sms", 800),
        ("slack", 800),
        ("teams", 800),
        ("web", 600),
        ("webchat", 600),
        ("WhatsApp", 1_200),
        ("pigeon", 800),
        ("email", 0),
        ("voice", 0),
        ("api", 0),
    ];
    for (channel, base) in bases {
        assert_eq!(base_ms(channel), base, "{channel}");
        assert_eq!(plain(channel, "Cancel my order #12345"), base, "{channel}");
    }
}

#[test]
fn nothing_is_added_to_a_base_of_zero_or_to_a_window_that_is_off() {
    let slow = Pace { p50_ms: 9_000, p95_ms: 9_000, samples: 32 };
    let quiet_for = |rules: &WindowRules, channel| quiet(rules, channel, "Hello", Some(slow), Some(&awaiting()), 1);
    for channel in ["email", "voice", "api"] {
        assert_eq!(quiet_for(&WindowRules::default(), channel).ms, 0, "{channel}");
        assert_eq!(quiet_for(&WindowRules { mode: WindowMode::Fixed, ..Default::default() }, channel).ms, 0);
    }
    assert_eq!(quiet_for(&WindowRules { base_ms: Some(0), ..Default::default() }, "web").ms, 0);
    assert_eq!(quiet_for(&WindowRules { mode: WindowMode::Off, ..Default::default() }, "web").ms, 0);
}

#[test]
fn a_fixed_window_is_the_same_after_each_message() {
    let rules = WindowRules { mode: WindowMode::Fixed, base_ms: Some(5_000), ..Default::default() };
    for number in [1, 2, 40] {
        assert_eq!(quiet(&rules, "web", "Hello", None, Some(&awaiting()), number).ms, 5_000);
    }
    let by_channel = WindowRules { base_ms: None, ..rules };
    assert_eq!(quiet(&by_channel, "sms", "Hello", None, None, 1).ms, 800);
}

#[test]
fn the_wait_stays_between_its_bounds() {
    let slow = Pace { p50_ms: 20_000, p95_ms: 40_000, samples: 5 };
    assert_eq!(asked("web", "Hello", Some(slow), None, 1).ms, 3_000);
    assert_eq!(asked("web", "How are you", None, None, 50).ms, 200);
    assert_eq!(asked("web", "How are you", None, None, u32::MAX).ms, 200);
    // A mark takes 300, but never more than is there above the shortest wait.
    let rules = WindowRules { base_ms: Some(250), ..Default::default() };
    assert_eq!(quiet(&rules, "web", "That is it.", None, None, 1).ms, 200);
}

#[test]
fn the_first_shape_that_fits_counts() {
    // Greeting before short, fragment before dangling, dangling before short, marks before short.
    assert_eq!(plain("web", "good morning"), 1_100);
    assert_eq!(plain("web", "my order:"), 1_000);
    assert_eq!(plain("web", "order"), 1_200);
    assert_eq!(plain("web", "yes"), 800);
    assert_eq!(plain("web", "two words"), 800);
    assert_eq!(plain("web", "yes."), 300);
    assert_eq!(plain("web", "now I wait"), 600);
    assert_eq!(plain("web", ""), 800);
}

#[test]
fn a_word_counts_only_as_a_whole() {
    assert_eq!(plain("web", "this is what I paid"), 600);
    assert_eq!(plain("web", "what is in the showcase"), 600);
    assert_eq!(plain("web", "this is my id"), 1_200);
    assert_eq!(plain("web", "my pre-order"), 1_200);
    assert_eq!(plain("web", "hello there you"), 600);
}

#[test]
fn english_is_understood() {
    for text in ["hi", "Hello", "HEY", "hiya", "Good evening", "afternoon", " hello  ", "good  morning"] {
        assert_eq!(plain("web", text), 1_100, "{text}");
    }
    for text in ["where is it please", "cancel it, thanks", "that was all, Thank you"] {
        assert_eq!(plain("web", text), 300, "{text}");
    }
    for text in ["about my ticket", "it is case #", "Order#"] {
        assert_eq!(plain("web", text), 1_200, "{text}");
    }
}

/// What each of the other languages is tried with: greetings, courtesies at the end, numbers still missing.
fn understood(greetings: &[&str], complete: &[&str], dangling: &[&str]) {
    for text in greetings {
        assert_eq!(plain("web", text), 1_100, "a greeting: {text}");
    }
    for text in complete {
        assert_eq!(plain("web", text), 300, "complete: {text}");
    }
    for text in dangling {
        assert_eq!(plain("web", text), 1_200, "dangling: {text}");
    }
}

#[test]
fn german_is_understood() {
    understood(
        &["Hallo", "Guten Morgen", "Grüß Gott", "GRÜEZI", "Gruezi", "moin"],
        &["Storniert das bitte", "Danke schön", "alles klar, vielen Dank", "ok danke", "Dankeschoen"],
        &["Es geht um meine Bestellung", "Auftrag Nr.", "Ticket #", "meine Kundennummer", "Bestellung Nummer"],
    );
}

#[test]
fn french_is_understood() {
    understood(
        &["Bonjour", "bonsoir", "Salut", "coucou", "Allo", "Allô"],
        &["Annulez-la s’il vous plaît", "annulez s'il vous plait", "une réponse svp", "Merci d'avance", "Merci"],
        &["C'est ma commande", "Commande n°", "mon dossier", "billet numéro", "BILLET NUMERO"],
    );
}

#[test]
fn spanish_is_understood() {
    understood(
        &["Hola", "Buenos días", "buenos dias", "Buenas tardes", "qué tal"],
        &["cancelarlo por favor", "muchas gracias", "Gracias", "¿dónde está?"],
        &["es sobre mi pedido", "Pedido nº", "pedido número", "mi caso", "la orden #"],
    );
}

#[test]
fn italian_is_understood() {
    understood(
        &["Ciao", "Buongiorno", "buona sera", "salve"],
        &["annullate tutto per favore", "Grazie mille", "va bene grazie", "per cortesia"],
        &["riguarda il mio ordine", "l'ordine n.", "ordine numero", "la pratica"],
    );
}

#[test]
fn portuguese_is_understood() {
    understood(
        &["Oi", "Olá", "ola", "Bom dia", "boa tarde", "e aí"],
        &["cancela tudo por favor", "Obrigada", "muito obrigado", "se faz favor"],
        &["é sobre o meu pedido", "a encomenda nº", "protocolo número", "o chamado"],
    );
}

#[test]
fn dutch_is_understood() {
    understood(
        &["Hoi", "Goedemorgen", "goede middag", "Dag", "hallo"],
        &["annuleer het alsjeblieft", "graag een antwoord aub", "Dank u wel", "alvast bedankt", "dankjewel"],
        &["het gaat om mijn bestelling", "Bestelling nr", "mijn zaak", "ordernummer"],
    );
}

#[test]
fn an_exclamation_is_still_a_greeting_and_ends_a_sentence() {
    for text in ["Hello!", "¡Hola!", "Bonjour !", "Hallo!!"] {
        assert_eq!(plain("web", text), 800, "{text}");
    }
}

#[test]
fn marks_of_other_scripts_count() {
    for text in ["我想取消订单。", "我的订单在哪里？", "太好了！", "أين طلبي؟", "میرا آرڈر کہاں ہے۔", "ありがとう。"]
    {
        assert_eq!(plain("web", text), 300, "{text}");
    }
    for text in ["我想取消订单，", "أريد إلغاء الطلب،", "one moment —"] {
        assert_eq!(plain("web", text), 1_000, "{text}");
    }
    // Six characters of Chinese are a sentence, two are a word.
    assert_eq!(plain("web", "我想取消订单"), 600);
    assert_eq!(plain("web", "订单"), 800);
}

#[test]
fn accents_may_be_characters_of_their_own() {
    assert_eq!(plain("web", "buenos di\u{301}as"), 1_100);
}

#[test]
fn a_hint_counts_by_its_strongest_word() {
    let with = |hint: Hint| asked("web", "How are you", None, Some(&hint), 1).ms;
    let sure = |confidence| Hint { input_complete_confidence: Some(confidence), ..Hint::default() };
    assert_eq!(with(Hint::default()), 600);
    assert_eq!(with(Hint { expects_followup: true, ..awaiting() }), 1_600);
    assert_eq!(with(Hint { expects_followup: true, ..sure(0.9) }), 1_100);
    assert_eq!(with(sure(0.9)), 400);
    assert_eq!(with(sure(0.8)), 600);
    assert_eq!(with(sure(f64::NAN)), 600);
}

#[test]
fn a_hint_may_leave_out_what_it_does_not_know() {
    assert_eq!(serde_json::from_str::<Hint>("{}").expect("a hint"), Hint::default());
    let hint = r#"{"awaiting_required_field":true,"expected_input_type":"order_number"}"#;
    let hint: Hint = serde_json::from_str(hint).expect("a hint");
    assert!(hint.awaiting_required_field && !hint.expects_followup);
}

#[test]
fn fewer_than_five_gaps_are_not_heard() {
    let pace = Pace { p50_ms: 3_000, p95_ms: 3_000, samples: 4 };
    assert_eq!(asked("web", "How are you", Some(pace), None, 1).ms, 600);
}

#[test]
fn a_cadence_is_its_latest_32_gaps_below_a_minute() {
    let mut cadence = Cadence::default();
    assert_eq!(cadence.pace(), Pace { p50_ms: 0, p95_ms: 0, samples: 0 });
    for gap in 1..=20 {
        cadence.add(gap * 100);
    }
    cadence.add(60_001);
    assert_eq!(cadence.pace(), Pace { p50_ms: 1_000, p95_ms: 1_900, samples: 20 });
    for _ in 0..40 {
        cadence.add(60_000);
    }
    assert_eq!(cadence.pace(), Pace { p50_ms: 60_000, p95_ms: 60_000, samples: 32 });
    let kept = serde_json::to_string(&cadence).expect("a cadence is JSON");
    assert_eq!(serde_json::from_str::<Cadence>(&kept).expect("and comes back"), cadence);
}

#[test]
fn a_wait_explains_itself() {
    let pace = Pace { p50_ms: 1_000, p95_ms: 3_000, samples: 10 };
    let cases = [
        (asked("web", "Hello", None, None, 1), "waits 1100 ms: web 600, a greeting +500"),
        (asked("web", "How are you", None, None, 3), "waits 384 ms: web 600, message 3 of the turn -216"),
        (
            asked("web", "about my order", Some(pace), Some(&awaiting()), 1),
            "waits 2520 ms: web 600, a number is missing +600, this person's usual pause of 2000 ms +320, \
             the agent asked for something +1000",
        ),
        (asked("email", "Hello", None, None, 1), "does not wait: email 0"),
        (
            quiet(&WindowRules { mode: WindowMode::Off, ..Default::default() }, "web", "Hello", None, None, 1),
            "does not wait: the window is off",
        ),
        (
            quiet(&WindowRules { base_ms: Some(2_900), ..Default::default() }, "web", "Hello", None, None, 1),
            "waits 3000 ms: configured 2900, a greeting +500, the longest wait -400",
        ),
    ];
    for (quiet, sentence) in cases {
        assert_eq!(quiet.explain(), sentence);
    }
}

#[test]
fn a_record_of_a_wait_comes_back_as_it_went() {
    let pace = Pace { p50_ms: 1_000, p95_ms: 3_000, samples: 10 };
    let quiet = asked("web", "Hello", Some(pace), Some(&awaiting()), 2);
    let kept = serde_json::to_string(&quiet).expect("JSON");
    assert_eq!(serde_json::from_str::<Quiet>(&kept).expect("comes back"), quiet);
    // Journals are read by later versions, so the words they hold are pinned.
    let first = asked("web", "Hello", None, None, 1);
    assert_eq!(
        serde_json::to_string(&first).expect("JSON"),
        r#"{"ms":1100,"why":[{"reason":{"channel":"web"},"change_ms":600},{"reason":"greeting","change_ms":500}]}"#
    );
}

#[test]
fn rules_say_only_what_differs() {
    let rules: WindowRules = serde_json::from_str(r#"{"mode":"fixed","base_ms":900}"#).expect("rules");
    assert_eq!(rules, WindowRules { mode: WindowMode::Fixed, base_ms: Some(900), ..Default::default() });
    serde_json::from_str::<WindowRules>(r#"{"quite_max_ms":900}"#).expect_err("a misspelt name is refused");
}

#[test]
fn rules_that_contradict_themselves_are_refused_and_survived() {
    let rules = WindowRules { quiet_min_ms: 500, quiet_max_ms: 400, ..Default::default() };
    assert_eq!(rules.check(), Err(BadWindowRules::MinAboveMax { min: 500, max: 400 }));
    assert_eq!(quiet(&rules, "web", "How are you", None, None, 1).ms, 400);
    let rules = WindowRules { base_ms: Some(5_000), ..Default::default() };
    assert_eq!(rules.check(), Err(BadWindowRules::BaseAboveMax { base: 5_000, max: 3_000 }));
    assert_eq!(WindowRules { mode: WindowMode::Fixed, ..rules }.check(), Ok(()));
    let rules = WindowRules { messages_max: 0, ..Default::default() };
    assert_eq!(rules.check(), Err(BadWindowRules::NoMessages));
    assert_eq!(WindowRules::default().check(), Ok(()));
    let huge = WindowRules { base_ms: Some(u64::MAX), ..Default::default() };
    let pace = Pace { p50_ms: u64::MAX, p95_ms: u64::MAX, samples: 5 };
    assert_eq!(quiet(&huge, "web", "Hello", Some(pace), Some(&awaiting()), 50).ms, 200);
}
