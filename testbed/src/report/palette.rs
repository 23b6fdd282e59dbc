//! Colours of the modes: after Okabe and Ito, apart for every kind of colour vision and on light
//! and dark ground alike.

use crate::compare::choice::Mode;

/// Returns the colour of a mode as `#rrggbb`.
pub fn colour(mode: Mode) -> &'static str {
    match mode {
        Mode::Kernel => "#8a93a0",
        Mode::Solo => "#e0a020",
        Mode::Paired => "#1f7ae0",
        Mode::Tfo => "#12a078",
        Mode::HaproxyTcp => "#d8602a",
        Mode::HaproxyHttp => "#c065a8",
    }
}

/// Returns the same colour as red, green and blue.
pub fn rgb(mode: Mode) -> (u8, u8, u8) {
    let channel = |at: usize| colour(mode).get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    (channel(1).unwrap_or(0), channel(3).unwrap_or(0), channel(5).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_agree_and_no_two_modes_look_alike() {
        for (index, mode) in Mode::ALL.into_iter().enumerate() {
            let (r, g, b) = rgb(mode);
            assert_eq!(format!("#{r:02x}{g:02x}{b:02x}"), colour(mode));
            assert!(Mode::ALL[..index].iter().all(|other| colour(*other) != colour(mode)));
        }
    }
}
