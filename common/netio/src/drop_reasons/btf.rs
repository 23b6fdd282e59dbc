//! The names of an enumeration's values, from the kernel's own description of its types (BTF).

use std::collections::HashMap;

/// Where the kernel describes its types, if it was built so.
pub(super) const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const FIXED_HEADER: usize = 24;
const FIXED_TYPE: usize = 12;

/// Kinds of types (linux/btf.h) that something follows.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
    /// The last one that is known; the length of others isn't.
    pub(super) const LAST: u32 = ENUM64;
}

/// Returns the names of the values of `enum name`, or none if there is no such type or `btf` is no BTF.
pub(super) fn enum_names(btf: &[u8], name: &str) -> Option<HashMap<u32, String>> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let size_at = |at: usize| usize::try_from(u32_at(at)?).ok();
    if u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?) != MAGIC || btf.len() < FIXED_HEADER {
        return None;
    }
    let header = size_at(4)?;
    let section = |offset: usize, length: usize| {
        let begin = header.checked_add(size_at(offset)?)?;
        btf.get(begin..begin.checked_add(size_at(length)?)?)
    };
    let (types, strings) = (section(8, 12)?, section(16, 20)?);
    let members = find_enum(types, strings, name)?;
    let value = |member: &[u8]| {
        let value = u32::from_ne_bytes(member[4..8].try_into().ok()?);
        Some((value, string(strings, u32::from_ne_bytes(member[..4].try_into().ok()?))?.to_owned()))
    };
    members.chunks_exact(8).map(value).collect()
}

/// Returns the values of the enumeration `name`: for each the offset of its name, and itself.
fn find_enum<'b>(types: &'b [u8], strings: &[u8], name: &str) -> Option<&'b [u8]> {
    let mut rest = types;
    while let Some((fixed, behind)) = rest.split_at_checked(FIXED_TYPE) {
        let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (kind, count) = (word(4) >> 24 & 0x1f, (word(4) & 0xffff) as usize);
        let length = match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
            kind::ENUM | kind::FUNC_PROTO => 8 * count,
            0..=kind::LAST => 0,
            _ => return None,
        };
        let (members, next) = behind.split_at_checked(length)?;
        if kind == kind::ENUM && string(strings, word(0)) == Some(name) {
            return Some(members);
        }
        rest = next;
    }
    None
}

fn string(strings: &[u8], offset: u32) -> Option<&str> {
    let text = strings.get(usize::try_from(offset).ok()?..)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&text[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `int`, a structure with a member, and `enum colour { RED = 1, BLUE = 7 }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0pair\0colour\0RED\0BLUE\0";
        let at = |name: &[u8]| strings.windows(name.len()).position(|window| window == name).unwrap() as u32;
        let types: &[u32] = &[
            at(b"int\0"),
            1 << 24,
            4,
            32,
            at(b"pair\0"),
            4 << 24 | 1,
            4,
            at(b"int\0"),
            1,
            0,
            at(b"colour\0"),
            6 << 24 | 2,
            4,
            at(b"RED\0"),
            1,
            at(b"BLUE\0"),
            7,
        ];
        let length = 4 * types.len() as u32;
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, length, length, strings.len() as u32].iter().chain(types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn values_have_their_names() {
        let names = enum_names(&sample(), "colour").unwrap();
        assert_eq!(names, HashMap::from([(1, "RED".to_owned()), (7, "BLUE".to_owned())]));
        assert_eq!(enum_names(&sample(), "int"), None);
        assert_eq!(enum_names(&sample(), "shape"), None);
    }

    #[test]
    fn the_kernel_has_drop_reasons() {
        let Ok(bytes) = std::fs::read(KERNEL) else {
            println!("SKIPPED: the kernel has no BTF");
            return;
        };
        match enum_names(&bytes, "skb_drop_reason") {
            Some(names) => {
                assert!(names.values().any(|name| name == "SKB_DROP_REASON_NO_SOCKET"), "{names:?}")
            }
            None => println!("SKIPPED: a kernel before 5.17"),
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = enum_names(&bytes, "colour");
        }

        #[test]
        fn nothing_that_is_damaged_panics(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sample();
            for (at, byte) in damage {
                *at.get_mut(&mut bytes) = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = enum_names(&bytes, "colour");
        }
    }
}
