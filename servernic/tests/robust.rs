//! Whatever comes, the engine does not panic, keeps its bounds and ends empty.

#[path = "../../common/core/tests/packets/noise.rs"]
mod noise;
#[path = "../../common/core/tests/packets/mod.rs"]
mod packets;

use packets::{gateway, keys};
use proptest::prelude::*;
use servernic::engine::ServerNic;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packets_at_any_time(steps in noise::steps()) {
        let limits = noise::small_limits();
        let mut nic = ServerNic::new(gateway(), keys(), limits);
        noise::feed(&mut nic, &steps, |nic: &ServerNic| {
            assert!(nic.flows() <= limits.flows);
            assert!(nic.pending() <= limits.pending);
            assert!(nic.held() <= limits.held_total);
        });
        assert_eq!((nic.flows(), nic.pending(), nic.held()), (0, 0, 0));
        assert_eq!(rtt0_core::engine::Engine::awaited(&nic), 0);
    }
}
