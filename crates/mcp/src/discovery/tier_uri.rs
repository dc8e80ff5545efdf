//! The tiers' addresses as resources: `mainspring://tools/...`, with `?after=` for the next page.

use reqwest::Url;

use crate::catalogue::Tier;

const ROOT: &str = "mainspring://tools";

/// The addresses that have an agent in them, as templates (RFC 6570).
pub(super) const ENABLED_TEMPLATE: &str = "mainspring://tools/agent/{agent}/enabled{?after}";
/// See [`ENABLED_TEMPLATE`].
pub(super) const UNAVAILABLE_TEMPLATE: &str = "mainspring://tools/agent/{agent}/unavailable{?after}";

/// The address of a tier, from behind a name on.
pub(super) fn write(tier: &Tier, after: Option<&str>) -> String {
    let segments: &[&str] = match tier {
        Tier::Catalogue => &["catalogue"],
        Tier::Available => &["available"],
        Tier::Enabled { agent } => &["agent", agent, "enabled"],
        Tier::Unavailable { agent } => &["agent", agent, "unavailable"],
    };
    let Ok(mut url) = Url::parse(ROOT) else { return ROOT.to_owned() };
    if let Ok(mut path) = url.path_segments_mut() {
        path.extend(segments);
    }
    if let Some(after) = after {
        url.query_pairs_mut().append_pair("after", after);
    }
    url.into()
}

/// The tier at an address, and the name its page begins behind. `None` if it is not an address of a tier.
pub(super) fn read(uri: &str) -> Option<(Tier, Option<String>)> {
    let url = Url::parse(uri).ok()?;
    if url.scheme() != "mainspring" || url.host_str() != Some("tools") || url.fragment().is_some() {
        return None;
    }
    let segments: Vec<String> = url.path_segments()?.map(decoded).collect::<Option<_>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let tier = match segments.as_slice() {
        ["catalogue"] => Tier::Catalogue,
        ["available"] => Tier::Available,
        ["agent", agent, "enabled"] if !agent.is_empty() => Tier::Enabled { agent: (*agent).to_owned() },
        ["agent", agent, "unavailable"] if !agent.is_empty() => Tier::Unavailable { agent: (*agent).to_owned() },
        _ => return None,
    };
    let mut after = None;
    for (name, value) in url.query_pairs() {
        if name != "after" || after.is_some() {
            return None;
        }
        after = Some(value.into_owned());
    }
    Some((tier, after))
}

/// A path segment without its percent signs.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for agent in ["trips", "träger/1 %41?x#y", "..a"] {
            let agent = agent.to_owned();
            for tier in [
                Tier::Catalogue,
                Tier::Available,
                Tier::Enabled { agent: agent.clone() },
                Tier::Unavailable { agent: agent.clone() },
            ] {
                for after in [None, Some("mail.send&x=1 ä")] {
                    let uri = write(&tier, after);
                    assert_eq!(read(&uri), Some((tier.clone(), after.map(str::to_owned))), "{uri}");
                }
            }
        }
    }

    #[test]
    fn the_plain_ones_are_as_documented() {
        assert_eq!(write(&Tier::Catalogue, None), "mainspring://tools/catalogue");
        assert_eq!(write(&Tier::Available, Some("a.b")), "mainspring://tools/available?after=a.b");
        let tier = Tier::Unavailable { agent: "trips".to_owned() };
        assert_eq!(write(&tier, None), "mainspring://tools/agent/trips/unavailable");
    }

    #[test]
    fn nothing_else_is_an_address() {
        for uri in [
            "",
            "mainspring://tools",
            "mainspring://tools/agent//enabled",
            "mainspring://tools/agent/x",
            "mainspring://tools/agent/x/enabled/more",
            "mainspring://tools/agent/%zz/enabled",
            "mainspring://tools/catalogue?before=a",
            "mainspring://tools/catalogue?after=a&after=b",
            "mainspring://tools/catalogue#a",
            "mainspring://runs/catalogue",
            "https://tools/catalogue",
        ] {
            assert_eq!(read(uri), None, "{uri}");
        }
    }
}
