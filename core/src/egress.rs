//! Where deliveries may go: to public addresses, and to networks that the operator has allowed.
//!
//! Asked when an endpoint is registered (for a clear refusal) and again, for each address that is about to be
//! connected to, found by a name or written in the URL (for safety: names change their addresses).
//!
//! IPv6 is allowed by its one public block, 2000::/3, less what is special in there; IPv4 by a list of what
//! is special (the registries of RFC 6890). Forms that carry an IPv4 address are judged by that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// An address that deliveries must not go to, and what it is: "10.0.0.1 is a private address".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {why}")]
pub struct Denied {
    pub address: IpAddr,
    pub why: &'static str,
}

#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    allow: Vec<IpNet>,
}

impl EgressPolicy {
    /// `allow`: networks that may be reached although they are not public.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// # Errors
    /// The address is special, and not allowed by the operator.
    pub fn allows(&self, address: IpAddr) -> Result<(), Denied> {
        let carried = carried_ipv4(address);
        let is_listed = |address: IpAddr| self.allow.iter().any(|net| net.contains(&address));
        if is_listed(address) || carried.is_some_and(|inner| is_listed(inner.into())) {
            return Ok(());
        }
        let special = match (carried, address) {
            (Some(inner), _) | (None, IpAddr::V4(inner)) => special_v4(inner),
            (None, IpAddr::V6(address)) => special_v6(address),
        };
        special.map_or(Ok(()), |why| Err(Denied { address, why }))
    }

    /// Judges a URL whose host is an address; a name passes, and is judged once it is resolved.
    ///
    /// # Errors
    /// As [`Self::allows`].
    pub fn check_host(&self, url: &Url) -> Result<(), Denied> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.allows(address.into()),
            Some(Host::Ipv6(address)) => self.allows(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// Judges all addresses of a name: one that is forbidden spoils them all, or a resolver could mix a
    /// private address in and wait until it is tried.
    ///
    /// # Errors
    /// The first that is refused.
    pub fn check_all(&self, addresses: &[IpAddr]) -> Result<(), Denied> {
        addresses.iter().try_for_each(|address| self.allows(*address))
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 0, 3);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);

/// The narrower block comes first where two overlap.
const SPECIAL_V4: &[(Ipv4Net, &str)] = &[
    (v4(169, 254, 169, 254, 32), "a cloud metadata address"),
    (v4(168, 63, 129, 16, 32), "a cloud metadata address"),
    (v4(100, 100, 100, 200, 32), "a cloud metadata address"),
    (v4(255, 255, 255, 255, 32), "the broadcast address"),
    (v4(0, 0, 0, 0, 8), "an unspecified address"),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a shared (carrier-grade NAT) address"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an address reserved for protocols"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 88, 99, 0, 24), "an address of 6to4 relays"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

/// Within 2000::/3 these are forbidden; outside of it all is, and these say what it is.
const SPECIAL_V6: &[(Ipv6Net, &str)] = &[
    (v6(0x2001, 0, 0, 32), "a Teredo address"),
    (v6(0x2001, 0xdb8, 0, 32), "a documentation address"),
    (v6(0x2001, 0, 0, 23), "an address reserved for protocols"),
    (v6(0x3fff, 0, 0, 20), "a documentation address"),
    (v6(0x64, 0xff9b, 1, 48), "an address of local NAT64"),
    (v6(0xfc00, 0, 0, 7), "a private (unique local) address"),
    (v6(0xfe80, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 10), "a private (site-local) address"),
    (v6(0xff00, 0, 0, 8), "a multicast address"),
];

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    SPECIAL_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("an unspecified address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    let special = SPECIAL_V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, why)| *why);
    special.or((!PUBLIC_V6.contains(&address)).then_some("a reserved address"))
}

/// The IPv4 address within an IPv4-mapped (RFC 4291), NAT64 (RFC 6052) or 6to4 (RFC 3056) one.
fn carried_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., a, b] = address.segments();
    let [_, c, d, ..] = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    if NAT64.contains(&address) {
        return Some(join(a, b));
    }
    if SIX_TO_FOUR.contains(&address) {
        return Some(join(c, d));
    }
    address.to_ipv4_mapped()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn denied(policy: &EgressPolicy, address: &str) -> Option<&'static str> {
        policy.allows(address.parse().unwrap()).err().map(|denied| denied.why)
    }

    fn allowing(nets: &[&str]) -> EgressPolicy {
        EgressPolicy::new(nets.iter().map(|net| net.parse().unwrap()).collect())
    }

    #[test]
    fn public_addresses_are_allowed() {
        for address in [
            "1.1.1.1",
            "93.184.215.14",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "192.0.1.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert_eq!(denied(&EgressPolicy::default(), address), None, "{address}");
        }
    }

    #[test]
    fn special_ipv4_addresses_are_refused_for_what_they_are() {
        for (address, why) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "a private"),
            ("100.64.0.1", "carrier-grade"),
            ("100.127.255.255", "carrier-grade"),
            ("100.100.100.200", "metadata"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "metadata"),
            ("169.254.169.254", "metadata"),
            ("169.254.0.1", "link-local"),
            ("172.16.0.1", "a private"),
            ("172.31.255.255", "a private"),
            ("192.0.0.192", "protocols"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4"),
            ("192.168.1.1", "a private"),
            ("198.18.0.1", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
        ] {
            let given = denied(&EgressPolicy::default(), address).unwrap_or("allowed");
            assert!(given.contains(why), "{address}: {given}");
        }
    }

    #[test]
    fn special_ipv6_addresses_are_refused_for_what_they_are() {
        for (address, why) in [
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::7f00:1", "reserved"),
            ("::ffff:0:7f00:1", "reserved"),
            ("100::1", "reserved"),
            ("5f00::1", "reserved"),
            ("4000::1", "reserved"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "unique local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("2001::1", "Teredo"),
            ("2001:2::1", "protocols"),
            ("2001:20::1", "protocols"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("64:ff9b:1::7f00:1", "local NAT64"),
        ] {
            let given = denied(&EgressPolicy::default(), address).unwrap_or("allowed");
            assert!(given.contains(why), "{address}: {given}");
        }
    }

    #[test]
    fn a_url_is_judged_by_the_address_that_its_host_means() {
        let check = |text: &str| EgressPolicy::default().check_host(&text.parse().unwrap());
        for text in [
            "http://169.254.169.254/",
            "http://[::ffff:10.0.0.1]/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://①②⑦.0.0.1/",
            "http://[::]/",
            "http://0/",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        for text in ["https://example.com/", "http://localhost/", "http://1.1.1.1/"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn the_refusal_reads_as_a_sentence() {
        let refusal = EgressPolicy::default().allows("10.0.0.1".parse().unwrap()).unwrap_err();
        assert_eq!(refusal.to_string(), "10.0.0.1 is a private address");
    }

    #[test]
    fn networks_of_the_operator_win_in_every_form() {
        let policy = allowing(&["127.0.0.0/8", "fd00::/8"]);
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "fd00::1"] {
            assert_eq!(denied(&policy, address), None, "{address}");
        }
        for address in ["10.0.0.1", "::1", "::ffff:10.0.0.1", "fc00::1"] {
            assert!(denied(&policy, address).is_some(), "{address}");
        }
    }

    #[test]
    fn one_forbidden_address_spoils_all() {
        let addresses = ["1.1.1.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        assert!(EgressPolicy::default().check_all(&addresses).is_err());
        assert_eq!(EgressPolicy::default().check_all(&addresses[..1]), Ok(()));
        assert_eq!(allowing(&["10.0.0.0/8"]).check_all(&addresses), Ok(()));
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_judged_alike_in_every_form(bits in any::<u32>(), low in any::<u64>()) {
            let plain = Ipv4Addr::from_bits(bits);
            let policy = EgressPolicy::default();
            let expected = policy.allows(plain.into()).is_ok();
            let nat64 = Ipv6Addr::from_bits((0x64_ff9b_u128 << 96) | u128::from(bits));
            let six_to_four = Ipv6Addr::from_bits((0x2002_u128 << 112) | (u128::from(bits) << 80) | u128::from(low));
            for form in [plain.to_ipv6_mapped(), nat64, six_to_four] {
                prop_assert_eq!(policy.allows(form.into()).is_ok(), expected, "{}", form);
            }
        }

        #[test]
        fn what_is_allowed_is_nothing_that_the_standard_library_calls_special(bits in any::<u32>()) {
            let address = Ipv4Addr::from_bits(bits);
            if EgressPolicy::default().allows(address.into()).is_ok() {
                prop_assert!(!(address.is_private() || address.is_loopback() || address.is_link_local()
                    || address.is_multicast() || address.is_broadcast() || address.is_documentation()
                    || address.is_unspecified()));
            }
        }

        #[test]
        fn no_ipv6_address_outside_the_public_block_is_allowed(bits in any::<u128>()) {
            let address = Ipv6Addr::from_bits(bits);
            if carried_ipv4(address.into()).is_none() && EgressPolicy::default().allows(address.into()).is_ok() {
                prop_assert_eq!(address.segments()[0] >> 13, 1);
            }
        }
    }
}
