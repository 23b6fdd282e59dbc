//! Whatever comes, the engine does not panic, keeps its bounds and ends empty.

#[path = "../../common/core/tests/packets/noise.rs"]
mod noise;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use clientnic::engine::{ClientNic, Mode, Settings};
use packets::{gateway, keys};
use proptest::prelude::*;
use rtt0_core::profile::{ProfileLimits, Profiles};
use std::sync::Arc;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packets_at_any_time(
        steps in noise::steps(),
        mode in prop_oneof![Just(Mode::Auto), Just(Mode::Solo), Just(Mode::Paired), Just(Mode::Off)],
    ) {
        let limits = noise::small_limits();
        let profiles = Arc::new(Profiles::new(ProfileLimits { destinations: 1, ..ProfileLimits::default() }));
        let settings = Settings { mode, mss_clamp: (1000, 1000), limits };
        let mut nic = ClientNic::new(gateway(), keys(), profiles, settings);
        noise::feed(&mut nic, &steps, |nic: &ClientNic| {
            assert!(nic.flows() <= limits.flows);
            assert!(nic.pending() <= limits.pending);
            assert!(nic.half_open() <= limits.half_open);
            assert!(nic.held() <= limits.held_total);
        });
        assert_eq!((nic.flows(), nic.pending(), nic.half_open(), nic.held()), (0, 0, 0, 0));
        assert_eq!(rtt0_core::engine::Engine::awaited(&nic), 0);
    }
}
