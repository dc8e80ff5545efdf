//! Requests as platforms send them, and as others would like to.

use super::*;
use crate::sign;

const NOW_S: u64 = 1_700_000_000;

fn integration(platform: Platform, secret: &str) -> Integration {
    Integration {
        platform,
        secret: Secret(secret.to_owned()),
        verify_token: Some(Secret("open sesame".to_owned())),
        url: "https://example.com/myapp.php?foo=1&bar=2".to_owned(),
        accounts: Vec::new(),
    }
}

fn read(integration: &Integration, headers: &[(&str, &str)], body: &[u8]) -> Result<Brought, NotTaken> {
    let header = |name: &str| headers.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned());
    integration.read(Arrived { header: &header, body, now_s: NOW_S })
}

fn hub_signature(secret: &str, body: &[u8]) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// The payload of a text message as Meta documents it.
const META_TEXT: &str = r#"{"object":"whatsapp_business_account","entry":[{"id":"8856996819413533","changes":[{"value":{
  "messaging_product":"whatsapp","metadata":{"display_phone_number":"16505553333","phone_number_id":"27681414235104944"},
  "contacts":[{"profile":{"name":"Kerry Fisher"},"wa_id":"16315551234"}],
  "messages":[{"from":"16315551234","id":"wamid.ABGGFlCGg0cvAgo-sJQh43L5Pe4W","timestamp":"1603059201",
    "text":{"body":"Hello this is an answer"},"type":"text"}]},"field":"messages"}]}]}"#;

/// Of a picture, a reply by button, a place, and receipts.
const META_OTHERS: &str = r#"{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"value":{
  "metadata":{"phone_number_id":"5"},"messages":[
   {"from":"1","id":"wamid.1","timestamp":"1603059201","type":"image","image":{"caption":"look","mime_type":"image/jpeg","sha256":"x","id":"77"}},
   {"from":"1","id":"wamid.2","timestamp":"1603059201","type":"interactive","context":{"from":"2","id":"wamid.0"},
    "interactive":{"type":"button_reply","button_reply":{"id":"yes","title":"Yes please"}}},
   {"from":"1","id":"wamid.3","timestamp":"1603059201","type":"location","location":{"latitude":52.5,"longitude":13.4}}]},"field":"messages"}]},
  {"id":"1","changes":[{"value":{"metadata":{"phone_number_id":"5"},"statuses":[
   {"id":"wamid.9","status":"delivered","timestamp":"1603059202","recipient_id":"1"},
   {"id":"wamid.8","status":"failed","timestamp":"1603059202","recipient_id":"1","errors":[{"code":131014,"title":"Message failed"}]}]},"field":"messages"}]}]}"#;

#[test]
fn meta_is_read_as_it_documents_itself() {
    let meta = integration(Platform::Meta, "app secret");
    let signature = hub_signature("app secret", META_TEXT.as_bytes());
    let brought = read(&meta, &[("x-hub-signature-256", &signature)], META_TEXT.as_bytes()).unwrap();
    let expected = Envelope {
        sender: "16315551234".to_owned(),
        sender_name: Some("Kerry Fisher".to_owned()),
        account: Some("27681414235104944".to_owned()),
        text: "Hello this is an answer".to_owned(),
        message_id: "wamid.ABGGFlCGg0cvAgo-sJQh43L5Pe4W".to_owned(),
        sent_at: Some(1_603_059_201_000),
        ..Envelope::default()
    };
    assert_eq!(brought, Brought { messages: vec![expected], receipts: vec![] });

    let signature = hub_signature("app secret", META_OTHERS.as_bytes());
    let brought = read(&meta, &[("x-hub-signature-256", &signature)], META_OTHERS.as_bytes()).unwrap();
    let texts: Vec<&str> = brought.messages.iter().map(|one| one.text.as_str()).collect();
    assert_eq!(texts, ["look", "Yes please", ""]);
    assert_eq!(brought.messages[0].attachments[0].id.as_deref(), Some("77"));
    assert_eq!(brought.messages[1].reply_to.as_deref(), Some("wamid.0"));
    assert_eq!(brought.messages[2].structured.as_ref().unwrap()["location"]["latitude"], 52.5);
    let receipts: Vec<_> = brought.receipts.iter().map(|one| (one.message_id.as_str(), one.status)).collect();
    assert_eq!(receipts, [("wamid.9", DeliveryStatus::Delivered), ("wamid.8", DeliveryStatus::Failed)]);
    assert_eq!(brought.receipts[1].error.as_deref(), Some("Message failed"));
}

#[test]
fn a_signature_is_of_the_bytes_as_they_came() {
    let meta = integration(Platform::Meta, "app secret");
    let signature = hub_signature("app secret", META_TEXT.as_bytes());
    let other = META_TEXT.replace("Hello", "HELLO");
    // The same JSON, written otherwise.
    let compact = serde_json::from_str::<Value>(META_TEXT).unwrap().to_string();
    for (headers, body) in [
        (vec![("x-hub-signature-256", signature.as_str())], other.as_str()),
        (vec![("x-hub-signature-256", signature.as_str())], &compact),
        (vec![("x-hub-signature-256", "sha256=")], META_TEXT),
        (vec![("x-hub-signature-256", "sha256=zz")], META_TEXT),
        (vec![("x-hub-signature-256", "ü")], META_TEXT),
        (vec![("x-hub-signature-256", &signature[7..])], META_TEXT),
        (vec![], META_TEXT),
    ] {
        assert_eq!(read(&meta, &headers, body.as_bytes()), Err(NotTaken::Unsigned), "{headers:?}");
    }
    // Signed, and no such thing.
    let signature = hub_signature("app secret", b"{}");
    assert!(matches!(read(&meta, &[("x-hub-signature-256", &signature)], b"{}"), Err(NotTaken::Malformed(_))));
}

#[test]
fn metas_question_is_answered_for_who_knows_the_token() {
    let meta = integration(Platform::Meta, "app secret");
    assert_eq!(meta.challenge("subscribe", "open sesame", "1158201444").as_deref(), Some("1158201444"));
    assert_eq!(meta.challenge("subscribe", "open sesam", "1158201444"), None);
    assert_eq!(meta.challenge("unsubscribe", "open sesame", "1158201444"), None);
    let without = Integration { verify_token: None, ..meta };
    assert_eq!(without.challenge("subscribe", "", "1"), None);
}

/// The example of Twilio's own documentation and libraries.
#[test]
fn twilios_published_signature_is_right() {
    let url = "https://mycompany.com/myapp.php?foo=1&bar=2".to_owned();
    let twilio = Integration { url, ..integration(Platform::Twilio, "12345") };
    let body = b"CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212";
    let refused = read(&twilio, &[("x-twilio-signature", "RSOYDt4T1cUTdK1PDd93/VVr8B8=")], body);
    assert_eq!(
        refused,
        Err(NotTaken::Malformed("the field MessageSid is missing".to_owned())),
        "a call, but a signed one"
    );
    let refused =
        read(&twilio, &[("x-twilio-signature", "RSOYDt4T1cUTdK1PDd93/VVr8B8=")], b"CallSid=CA1234567890ABCDE");
    assert_eq!(refused, Err(NotTaken::Unsigned));
}

fn twilio_signature(token: &str, url: &str, body: &str) -> String {
    use base64::Engine as _;
    use hmac::{Hmac, KeyInit, Mac};
    let mut fields: Vec<(String, String)> =
        reqwest::Url::parse(&format!("http://x/?{body}")).unwrap().query_pairs().into_owned().collect();
    fields.sort();
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(token.as_bytes()).unwrap();
    mac.update(url.as_bytes());
    fields.iter().for_each(|(name, value)| mac.update(format!("{name}{value}").as_bytes()));
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

#[test]
fn twilio_is_read_as_it_sends() {
    let twilio = integration(Platform::Twilio, "12345");
    let sms = "ToCountry=US&SmsMessageSid=SM1&NumMedia=1&SmsSid=SM1&SmsStatus=received&Body=Where+is+my+order%3F&To=%2B15005550006\
               &NumSegments=1&MessageSid=SM1&AccountSid=AC1&From=whatsapp%3A%2B14158675309&MediaContentType0=image%2Fjpeg\
               &MediaUrl0=https%3A%2F%2Fapi.twilio.com%2Fx&ProfileName=Ann&ApiVersion=2010-04-01";
    let signature = twilio_signature("12345", &twilio.url, sms);
    let brought = read(&twilio, &[("x-twilio-signature", &signature)], sms.as_bytes()).unwrap();
    let one = &brought.messages[0];
    assert_eq!(
        (one.sender.as_str(), one.text.as_str(), one.message_id.as_str()),
        ("+14158675309", "Where is my order?", "SM1")
    );
    assert_eq!((one.attachments[0].kind.as_str(), one.account.as_deref()), ("image", Some("+15005550006")));
    let status = "SmsSid=SM2&MessageStatus=undelivered&MessageSid=SM2&ErrorCode=30003&To=%2B1&From=%2B2";
    let signature = twilio_signature("12345", &twilio.url, status);
    let brought = read(&twilio, &[("x-twilio-signature", &signature)], status.as_bytes()).unwrap();
    assert_eq!(brought.receipts[0].status, DeliveryStatus::Failed);
    assert!(brought.receipts[0].error.as_ref().unwrap().contains("30003"));
}

#[test]
fn the_generic_shape_is_signed_and_fresh() {
    let generic = integration(Platform::Generic, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let body = br#"{"messages":[{"sender":"ann","text":"hi"},{"sender":"bob","text":"ho","message_id":"m2"}]}"#;
    let at = |when: u64| {
        let signature = sign::signature(&generic.secret, "req_1", when, body);
        let when = when.to_string();
        let headers =
            [("webhook-id", "req_1"), ("webhook-timestamp", when.as_str()), ("webhook-signature", &signature)];
        read(&generic, &headers, body)
    };
    let ids: Vec<String> = at(NOW_S).unwrap().messages.into_iter().map(|one| one.message_id).collect();
    assert_eq!(ids, ["req_1:0", "m2"]);
    assert_eq!(at(NOW_S - 301), Err(NotTaken::Stale));
    assert_eq!(at(NOW_S + 301), Err(NotTaken::Stale));
    assert!(at(NOW_S - 299).is_ok());
    let forged = [("webhook-id", "req_1"), ("webhook-timestamp", "1700000000"), ("webhook-signature", "v1,AAAA")];
    assert_eq!(read(&generic, &forged, body), Err(NotTaken::Unsigned));
}

#[test]
fn only_messages_to_the_integrations_own_accounts_are_taken() {
    let mut meta = integration(Platform::Meta, "app secret");
    let signature = hub_signature("app secret", META_TEXT.as_bytes());
    let headers = [("x-hub-signature-256", signature.as_str())];
    meta.accounts = vec!["27681414235104944".to_owned()];
    assert_eq!(read(&meta, &headers, META_TEXT.as_bytes()).unwrap().messages.len(), 1);
    meta.accounts = vec!["another".to_owned()];
    assert!(read(&meta, &headers, META_TEXT.as_bytes()).unwrap().messages.is_empty());
}
