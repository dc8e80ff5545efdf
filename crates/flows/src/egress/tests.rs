//! What may be called and what not, against servers and a DNS server that mean no good.

mod peers;

use std::time::Duration;

use bytes::Bytes;

use super::address::special;
use super::*;
use peers::{Dns, Peer, http_answer};

fn request(url: &str) -> Request {
    Request { method: "POST", url: url.to_owned(), headers: Vec::new(), body: Bytes::from_static(b"{}") }
}

const LIMITS: CallLimits = CallLimits { time: Duration::from_secs(5), body_bytes_max: 64 };

fn egress(policy: Policy, dns: Option<&Dns>) -> HttpEgress {
    let name_servers = dns.map(|dns| dns.address).into_iter().collect();
    HttpEgress::new(EgressOptions { policy, name_servers, extra_roots: Vec::new() }).unwrap()
}

/// Names lead where DNS says; http on any port, so that nothing but the address can be the reason of a refusal.
fn any_port() -> Policy {
    Policy { http: true, ports: Vec::new(), ..Policy::default() }
}

#[test]
fn addresses_that_are_not_public_are_known_in_every_form() {
    let special_ones = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "169.254.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "::10.1.2.3",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "100::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "2001::1",
        "2001:0:53aa:64c:0:0:0:1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "3fff::1",
        "4000::1",
        "5f00::1",
    ];
    for one in special_ones {
        assert!(special(one.parse().unwrap()).is_some(), "{one} is not public");
    }
    let public_ones = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "128.0.0.1",
        "168.63.129.17",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "192.167.255.255",
        "198.20.0.1",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2001:4860:4860::8888",
    ];
    for one in public_ones {
        assert_eq!(special(one.parse().unwrap()), None, "{one} is public");
    }
}

#[test]
fn urls_that_lead_astray_are_refused_as_they_are_written() {
    let policy = any_port();
    // Spellings of addresses that some readers take for names.
    let addresses = [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://0/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[0:0:0:0:0:ffff:a9fe:a9fe]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1]/",
        "http://①②⑦.⓪.⓪.①/",
        "https://192.168.1.1:8443/",
        "https://10.0.0.1/",
    ];
    for url in addresses {
        let refused = policy.check_url(url);
        assert!(matches!(refused, Err(Refused::Address { .. })), "{url}: {refused:?}");
    }
    let not_urls = [
        "",
        "hello",
        "//example.com/",
        "https://",
        "https://exa mple.com/",
        "https://example.com/\n",
        "https:\\\\example.com",
        "https://[fe80::1%25eth0]/",
        "https://example.com:99999/",
        " https://example.com/",
        "https://example.com/\ta",
    ];
    for url in not_urls {
        assert_eq!(policy.check_url(url), Err(Refused::NotAUrl), "{url:?}");
    }
    assert_eq!(policy.check_url(&format!("https://example.com/{}", "a".repeat(URL_MAX))), Err(Refused::NotAUrl));
    for url in ["ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)", "data:,a"] {
        assert!(matches!(policy.check_url(url), Err(Refused::Scheme(_))), "{url}");
    }
    for url in ["https://user@example.com/", "https://user:pass@example.com/", "https://:pass@example.com/"] {
        assert_eq!(policy.check_url(url), Err(Refused::UserInfo), "{url}");
    }
    assert!(policy.check_url("http://example.com:81/hooks?a=b").is_ok());
    // A name with an @ behind the host is a path, and no user.
    assert!(policy.check_url("https://example.com/@user").is_ok());
}

const URL_MAX: usize = policy::URL_BYTES_MAX;

#[test]
fn the_default_is_https_on_its_usual_ports() {
    let policy = Policy::default();
    assert!(policy.check_url("https://example.com/hooks").is_ok());
    assert!(policy.check_url("https://example.com:8443/hooks").is_ok());
    assert_eq!(policy.check_url("http://example.com/"), Err(Refused::Scheme("http".to_owned())));
    for port in [22, 25, 80, 6379, 8080] {
        let refused = policy.check_url(&format!("https://example.com:{port}/"));
        assert!(matches!(refused, Err(Refused::Port { .. })), "{port}: {refused:?}");
    }
}

#[test]
fn configuration_allows_networks_and_names_and_denies_more() {
    let policy = Policy {
        allow: vec!["10.1.0.0/16".parse().unwrap(), "fd12::/16".parse().unwrap()],
        allow_hosts: vec!["hooks.inner".to_owned(), ".svc.inner".to_owned()],
        deny: vec!["8.8.8.0/24".parse().unwrap(), "10.1.9.0/24".parse().unwrap()],
        ..Policy::default()
    };
    let check = |host: &str, address: &str| policy.check_address(host, address.parse().unwrap()).is_ok();
    assert!(check("a.example", "10.1.2.3") && check("a.example", "::ffff:10.1.2.3") && check("a.example", "fd12::1"));
    assert!(!check("a.example", "10.2.2.3") && !check("a.example", "fd13::1"));
    assert!(check("hooks.inner", "192.168.1.1") && check("HOOKS.inner.", "192.168.1.1"));
    assert!(check("a.svc.inner", "192.168.1.1") && check("b.a.svc.inner", "192.168.1.1"));
    assert!(
        !check("svc.inner", "192.168.1.1")
            && !check("asvc.inner", "192.168.1.1")
            && !check("x.hooks.inner", "10.0.0.1")
    );
    assert!(!check("a.example", "8.8.8.8") && !check("hooks.inner", "10.1.9.1"), "what is denied stays denied");
    assert!(check("a.example", "8.8.4.4"));
}

/// The name server answers a public address when the URL is checked, and an inner one when it matters (H-67).
#[tokio::test]
async fn a_name_that_changes_its_answer_reaches_nobody() {
    let peer = Peer::answering(http_answer(200, "", "secrets")).await;
    let inner = "127.0.0.1".parse().unwrap();
    for address in
        [inner, "::1".parse().unwrap(), "169.254.169.254".parse().unwrap(), "::ffff:127.0.0.1".parse().unwrap()]
    {
        let dns = Dns::answering(move |_, _| vec![address]).await;
        let egress = egress(any_port(), Some(&dns));
        let url = format!("http://rebind.example:{}/", peer.address.port());
        assert!(egress.check(&url).is_ok(), "nothing is wrong with how it is written");
        let fault = egress.call(request(&url), LIMITS).await.unwrap_err();
        assert!(
            matches!(&fault, Fault::Refused(Refused::Address { host, .. }) if host == "rebind.example"),
            "{fault:?}"
        );
        assert!(fault.never_left());
        assert!(!fault.to_string().contains(&address.to_string()), "what names stand for inside is not told: {fault}");
    }
    // One inner address among public ones: not tried in the hope that the other answers first.
    let dns = Dns::answering(move |_, _| vec!["8.8.8.8".parse().unwrap(), inner]).await;
    let fault = egress(any_port(), Some(&dns)).call(request("http://mixed.example/"), LIMITS).await.unwrap_err();
    assert!(matches!(fault, Fault::Refused(Refused::Address { .. })), "{fault:?}");
    assert_eq!(peer.requests(), 0);
}

/// The connection goes to the address that was judged: there is no second question whose answer could differ.
#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_called() {
    let peer = Peer::answering(http_answer(200, "", "hello")).await;
    // Allowed at first, and at each later question something else.
    let dns = Dns::answering(|_, nth| vec![if nth == 0 { "127.0.0.1" } else { "127.0.0.2" }.parse().unwrap()]).await;
    let policy = Policy { allow: vec!["127.0.0.1/32".parse().unwrap()], ..any_port() };
    let egress = egress(policy, Some(&dns));
    let url = format!("http://rebind.example:{}/", peer.address.port());
    let answer = egress.call(request(&url), LIMITS).await.unwrap();
    assert_eq!((answer.status, answer.remote), (200, Some(peer.address)));
    assert_eq!(dns.questions_of("A"), 1, "one question for one connection");
    // The answer allowed no caching; the next connection asks again, and what is not allowed is refused.
    peer.close_connections();
    let refused = egress.call(request(&url), LIMITS).await.unwrap_err();
    assert!(matches!(refused, Fault::Refused(Refused::Address { .. })), "{refused:?}");
}

#[tokio::test]
async fn names_without_an_answer_are_never_reached() {
    let dns = Dns::answering(|_, _| Vec::new()).await;
    let fault = egress(any_port(), Some(&dns)).call(request("http://nothing.example/"), LIMITS).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreached(_)), "{fault:?}");
    let silent = Dns::silent().await;
    let patient = CallLimits { time: Duration::from_secs(60), ..LIMITS };
    let fault = egress(any_port(), Some(&silent)).call(request("http://silent.example/"), patient).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreached(_)), "{fault:?}");
}

#[tokio::test]
async fn redirects_are_answers_and_not_followed() {
    let inner = Peer::answering(http_answer(200, "", "secrets")).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("location: http://127.0.0.1:{}/admin\r\n", inner.address.port());
        let peer = Peer::answering(http_answer(status, &location, "")).await;
        let answer = egress(Policy::default().with_loopback(), None).call(request(&peer.url()), LIMITS).await.unwrap();
        assert_eq!(answer.status, status);
        assert!(answer.header("location").is_some());
    }
    assert_eq!(inner.requests(), 0);
}

#[tokio::test]
async fn an_answers_body_is_read_as_far_as_allowed() {
    let egress = egress(Policy::default().with_loopback(), None);
    let whole = Peer::answering(http_answer(200, "x-one: 1\r\n", &"a".repeat(64))).await;
    let answer = egress.call(request(&whole.url()), LIMITS).await.unwrap();
    assert_eq!((answer.body.len(), answer.end, answer.header("x-one")), (64, BodyEnd::Whole, Some("1")));
    let huge = Peer::flooding().await;
    let answer = egress.call(request(&huge.url()), LIMITS).await.unwrap();
    assert_eq!((answer.status, answer.body.len(), answer.end), (200, 64, BodyEnd::Cut));
    let broken = Peer::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()).await;
    let answer = egress.call(request(&broken.url()), LIMITS).await.unwrap();
    assert_eq!((answer.status, &answer.body[..], answer.end), (200, &b"half"[..], BodyEnd::Broken));
    // The listener of a stream can end it.
    let mut heard = 0;
    let mut listener = |piece: &[u8]| {
        heard += piece.len();
        false
    };
    let limits = CallLimits { body_bytes_max: usize::MAX, ..LIMITS };
    let answer = egress.call_hearing(request(&huge.url()), limits, &mut listener).await.unwrap();
    assert_eq!((answer.end, answer.body.len()), (BodyEnd::Cut, heard));
}

/// Whether a request may have been carried out decides whether it may be repeated.
#[tokio::test]
async fn a_fault_says_whether_the_request_left() {
    let egress = egress(Policy::default().with_loopback(), None);
    let short = CallLimits { time: Duration::from_millis(300), ..LIMITS };
    let closed = Peer::closed().await;
    let fault = egress.call(request(&closed), LIMITS).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreached(_)), "nobody listens: {fault:?}");
    let plain = Peer::answering(http_answer(200, "", "")).await;
    let fault = egress.call(request(&plain.url().replace("http:", "https:")), LIMITS).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreached(_)), "no TLS there: {fault:?}");
    let hanging = Peer::hanging().await;
    let fault = egress.call(request(&hanging.url()), short).await.unwrap_err();
    assert!(matches!(fault, Fault::Unanswered(_)), "it took the request and said nothing: {fault:?}");
    let resetting = Peer::answering(Vec::new()).await;
    let fault = egress.call(request(&resetting.url()), LIMITS).await.unwrap_err();
    assert!(matches!(fault, Fault::Unanswered(_)), "it took the request and hung up: {fault:?}");
    let babbling = Peer::answering(http_answer(200, &"x-a: b\r\n".repeat(500), "")).await;
    let fault = egress.call(request(&babbling.url()), LIMITS).await.unwrap_err();
    assert!(matches!(fault, Fault::Unanswered(_)), "more headers than are read: {fault:?}");
    // It says how it went, and then dawdles: the status stands.
    let dawdling = Peer::dawdling(b"HTTP/1.1 204 OK\r\ncontent-type: a/b\r\n\r\n".to_vec()).await;
    assert_eq!(egress.call(request(&dawdling.url()), short).await.unwrap().status, 204);
    let dawdling = Peer::dawdling(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()).await;
    let answer = egress.call(request(&dawdling.url()), short).await.unwrap();
    assert_eq!((answer.status, answer.end), (200, BodyEnd::Broken));
}

#[tokio::test]
async fn headers_of_the_connection_are_not_the_callers() {
    let peer = Peer::answering(http_answer(200, "", "")).await;
    let egress = egress(Policy::default().with_loopback(), None);
    for name in ["Host", "content-length", "Transfer-Encoding", "Connection", "Proxy-Authorization", "a b", "a\nb"] {
        let mut request = request(&peer.url());
        request.headers.push((name.to_owned(), "1".to_owned()));
        let fault = egress.call(request, LIMITS).await.unwrap_err();
        assert_eq!(fault, Fault::Refused(Refused::Header(name.to_owned())));
    }
    let mut split = request(&peer.url());
    split.headers.push(("x-a".to_owned(), "1\r\nx-b: 2".to_owned()));
    assert!(egress.call(split, LIMITS).await.unwrap_err().never_left());
    let mut large = request(&peer.url());
    large.headers.push(("x-a".to_owned(), "a".repeat(REQUEST_HEADER_BYTES_MAX)));
    assert!(matches!(egress.call(large, LIMITS).await, Err(Fault::Refused(Refused::TooLarge { .. }))));
    let mut large = request(&peer.url());
    large.body = vec![0; REQUEST_BYTES_MAX + 1].into();
    assert!(matches!(egress.call(large, LIMITS).await, Err(Fault::Refused(Refused::TooLarge { .. }))));
    assert_eq!(peer.requests(), 0);
}

#[test]
fn how_long_to_wait_is_told_in_seconds_or_as_a_date() {
    let answer = |value: &str| Answer {
        status: 429,
        headers: vec![("retry-after".to_owned(), value.to_owned())],
        body: Bytes::new(),
        end: BodyEnd::Whole,
        answered_ms: 0,
        took_ms: 0,
        remote: None,
    };
    // Wed, 21 Oct 2015 07:28:00 GMT
    let at = 1_445_412_480_000;
    for (value, now_ms, wait_ms) in [
        ("120", 0, Some(120_000)),
        (" 0 ", 0, Some(0)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", at - 5_000, Some(5_000)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", at + 5_000, Some(0)),
        ("99999999999999999999", 0, None),
        ("-1", 0, None),
        ("soon", 0, None),
    ] {
        assert_eq!(answer(value).retry_after_ms(now_ms), wait_ms, "{value:?}");
    }
}
