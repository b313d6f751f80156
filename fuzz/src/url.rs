//! URLs of endpoints and the egress policy: what is accepted is dialled as the URL that was judged, and no
//! address that is reached is one that a list of our own, written another way, calls special.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ::url::Host;
use eventrail_core::egress::EgressPolicy;
use eventrail_core::endpoint::EndpointUrl;
use ipnet::IpNet;

/// Blocks that are special, or carry others: where a mistake would be, it would be at their edges.
const BLOCKS: [&str; 32] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "100.100.100.200/32",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2000::/3",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// Lines: a URL, then networks that the operator allows. The first bytes stand for addresses too.
pub fn run(data: &[u8]) {
    let (text, rest) = super::line(data);
    let allowed: Vec<IpNet> = rest
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok())
        .collect();
    let policy = EgressPolicy::new(allowed.clone());
    for address in addresses(text) {
        judged(&policy, &allowed, address);
        judged(&EgressPolicy::default(), &[], address);
    }
    let Some(url) = std::str::from_utf8(text).ok().and_then(|text| text.parse::<EndpointUrl>().ok()) else {
        return;
    };
    is_sound(&url);
    let dialled = dialled(&url);
    match url.url().host() {
        Some(Host::Domain(name)) => {
            // A client that took the name for an address would never ask the guard of names.
            assert_eq!(dialled, None, "{name} is an address to the client");
            assert_eq!(policy.check_host(url.url()), Ok(()));
        }
        Some(Host::Ipv4(address)) => {
            assert_eq!(dialled, Some(address.into()), "{}", url.as_str());
            assert_eq!(policy.check_host(url.url()).is_ok(), judged(&policy, &allowed, address.into()));
        }
        Some(Host::Ipv6(address)) => {
            assert_eq!(dialled, Some(address.into()), "{}", url.as_str());
            assert_eq!(policy.check_host(url.url()).is_ok(), judged(&policy, &allowed, address.into()));
        }
        None => panic!("{} has no host", url.as_str()),
    }
}

fn is_sound(url: &EndpointUrl) {
    let text = url.as_str();
    assert!(text.len() <= 2048);
    assert!(text.starts_with("http://") || text.starts_with("https://"), "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    assert!(!text.contains('#'), "{text}");
    assert!(url.url().username().is_empty() && url.url().password().is_none(), "{text}");
    assert_eq!(text.parse::<EndpointUrl>().as_ref(), Ok(url), "{text} is not its own normal form");
    let written = serde_json::to_string(url).expect("a URL is JSON");
    assert_eq!(serde_json::from_str::<EndpointUrl>(&written).ok().as_ref(), Some(url));
}

/// The address that the HTTP client would dial without asking anybody; `None` for a name. It has a parser of URLs
/// of its own (the `http` crate's), and takes what is left within brackets, or whole, for an address if it can.
fn dialled(url: &EndpointUrl) -> Option<IpAddr> {
    let uri = url.as_str().parse::<http::Uri>();
    let uri = uri.unwrap_or_else(|error| panic!("the client can't use {}: {error}", url.as_str()));
    let authority = uri.authority().expect("an authority");
    assert!(!authority.as_str().contains('@'), "{authority}");
    assert_eq!(Some(authority.host()), url.url().host_str(), "another host is dialled");
    assert_eq!(authority.port_u16(), url.url().port(), "another port is dialled");
    let host = authority.host();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Addresses that the text may stand for: as it is written, as its bytes, and in and beside a block.
fn addresses(text: &[u8]) -> Vec<IpAddr> {
    let written = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let v4 = text.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
    let v6 = text.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
    [written, v4, v6].into_iter().flatten().chain(at_edges(text)).collect()
}

/// The first byte picks a block, the next ones an address in it.
fn at_edges(text: &[u8]) -> Vec<IpAddr> {
    let Some((pick, rest)) = text.split_first() else { return Vec::new() };
    let block = BLOCKS[usize::from(*pick) % BLOCKS.len()].parse::<IpNet>().expect("a block");
    let bits = rest.first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes));
    match block {
        IpNet::V4(block) => {
            let (first, last) = (block.network().to_bits(), block.broadcast().to_bits());
            let inside = first | (bits as u32 & block.hostmask().to_bits());
            let bits = [first.wrapping_sub(1), first, inside, last, last.wrapping_add(1)];
            let plain = bits.map(Ipv4Addr::from_bits);
            plain.iter().flat_map(|four| [(*four).into(), four.to_ipv6_mapped().into()]).collect()
        }
        IpNet::V6(block) => {
            let (first, last) = (block.network().to_bits(), block.broadcast().to_bits());
            let inside = first | (bits & block.hostmask().to_bits());
            let bits = [first.wrapping_sub(1), first, inside, last, last.wrapping_add(1)];
            bits.map(|bits| Ipv6Addr::from_bits(bits).into()).to_vec()
        }
    }
}

/// Asks the policy, and holds its answer against [`is_special`] and the networks that are allowed.
fn judged(policy: &EgressPolicy, allowed: &[IpNet], address: IpAddr) -> bool {
    let is_allowed = policy.allows(address).is_ok();
    let inner = carried(address);
    let is_listed = allowed.iter().any(|net| net.contains(&address) || net.contains(&inner));
    assert_eq!(is_allowed, is_listed || !is_special(inner), "{address} allowed: {is_allowed}");
    is_allowed
}

/// The IPv4 address that a form of IPv6 leads to.
fn carried(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let bytes = six.octets();
    let at = match bytes {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]
        | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, ..] => 12,
        [0x20, 0x02, ..] => 2,
        _ => return address,
    };
    IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]))
}

fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => is_special_v4(four),
        IpAddr::V6(six) => is_special_v6(six),
    }
}

/// The registry of IANA's special IPv4 addresses, byte by byte.
fn is_special_v4(address: Ipv4Addr) -> bool {
    if [[168, 63, 129, 16], [100, 100, 100, 200]].contains(&address.octets()) {
        return true;
    }
    match address.octets() {
        [0 | 10 | 127 | 224..=255, ..] => true,
        [100, second, ..] => (64..128).contains(&second),
        [169, 254, ..] | [192, 168, ..] | [198, 18 | 19, ..] => true,
        [172, second, ..] => (16..32).contains(&second),
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => false,
    }
}

/// Only 2000::/3 is public, but for what is reserved for protocols and documentation.
fn is_special_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    match (first, second) {
        (0x2001, 0..=0x01ff | 0x0db8) | (0x3fff, 0..=0x0fff) => true,
        (0x2000..=0x3fff, _) => false,
        _ => true,
    }
}
