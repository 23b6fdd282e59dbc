use super::*;
use proptest::prelude::*;

fn options() -> impl Strategy<Value = SynOptions> {
    let timestamps = any::<Option<(u32, u32)>>();
    (any::<Option<u16>>(), proptest::option::of(0..=MAX_WINDOW_SCALE), any::<bool>(), timestamps).prop_map(
        |(mss, window_scale, sack_permitted, timestamps)| SynOptions {
            mss,
            window_scale,
            sack_permitted,
            timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }),
        },
    )
}

fn translation() -> impl Strategy<Value = Translation> {
    let shift = || -14..=14i8;
    (any::<[u32; 2]>(), any::<Option<u32>>(), shift(), shift(), any::<u16>(), any::<[bool; 2]>()).prop_map(
        |(
            [promised, real],
            tsval_offset,
            client_window_shift,
            server_window_shift,
            mss_limit,
            [sack, echo],
        )| {
            Translation::from_parts(Parts {
                promised_isn: Seq::new(promised),
                real_isn: Seq::new(real),
                tsval_offset,
                client_window_shift,
                server_window_shift,
                mss_limit,
                erase_sack: sack,
                hide_echo: echo,
                syn_ack_tsval: 0,
            })
            .unwrap()
        },
    )
}

prop_compose! {
    fn record()(
        key in any::<[[u8; 12]; 3]>(),
        translation in translation(),
        isn in any::<u32>(),
        options in options(),
        window in any::<u16>(),
        ecn in any::<bool>(),
        stage in 0..16u8,
        client_window_scale in 0..=MAX_WINDOW_SCALE,
    ) -> Record {
        let key: Vec<u8> = key.concat();
        let syn_ack_tsval = options.timestamps.map_or(0, |timestamps| timestamps.value);
        let translation = Translation::from_parts(Parts { syn_ack_tsval, ..translation.parts() }).unwrap();
        Record {
            key: FlowKey::from_bytes(key.try_into().unwrap()),
            translation,
            client_isn: Seq::new(isn),
            client_window_scale,
            answer: SynAck { options, window, ecn },
            stage: Stage::from_bits(stage).unwrap(),
        }
    }
}

proptest! {
    #[test]
    fn reads_back_what_was_written(record in record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(Some(record)));
    }

    #[test]
    fn any_damage_is_found(record in record(), at in 0..LENGTH, change in 1..=255u8) {
        let mut bytes = record.encode();
        bytes[at] ^= change;
        prop_assert_eq!(Record::decode(&bytes), Err(NotARecord::Checksum));
    }

    #[test]
    fn a_record_written_in_part_is_refused(old in record(), new in record(), cut in 1..LENGTH) {
        let mut bytes = old.encode();
        bytes[..cut].copy_from_slice(&new.encode()[..cut]);
        prop_assume!(bytes != old.encode() && bytes != new.encode());
        prop_assert_eq!(Record::decode(&bytes), Err(NotARecord::Checksum));
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in any::<[[u8; 32]; 4]>()) {
        let bytes: [u8; LENGTH] = bytes.concat().try_into().unwrap();
        prop_assert!(!matches!(Record::decode(&bytes), Ok(Some(_))));
    }

    /// With the right checksum over nonsense: refused or a flow, never a panic.
    #[test]
    fn nonsense_with_a_right_checksum_does_no_harm(bytes in any::<[[u8; 32]; 4]>()) {
        let mut bytes: [u8; LENGTH] = bytes.concat().try_into().unwrap();
        bytes[0] = VERSION;
        let hash = hash(&bytes).to_le_bytes();
        bytes[HASH_AT..].copy_from_slice(&hash);
        let found = Record::decode(&bytes);
        prop_assert!(matches!(found, Ok(Some(_)) | Err(NotARecord::Impossible)));
        if let Ok(Some(record)) = found {
            let parts = record.translation.parts();
            prop_assert!(parts.client_window_shift.unsigned_abs() <= MAX_WINDOW_SCALE);
            prop_assert!(parts.server_window_shift.unsigned_abs() <= MAX_WINDOW_SCALE);
        }
    }
}

#[test]
fn nothing_and_other_versions_are_told_apart() {
    assert_eq!(Record::decode(&[0; LENGTH]), Ok(None));
    let mut bytes = [0; LENGTH];
    bytes[0] = VERSION + 1;
    let hash = hash(&bytes).to_le_bytes();
    bytes[HASH_AT..].copy_from_slice(&hash);
    assert_eq!(Record::decode(&bytes), Err(NotARecord::Version(VERSION + 1)));
}
