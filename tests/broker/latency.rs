//! From publishing to the inbox of a shard on another gateway: `cargo test --release --test broker latencies -- --ignored
//! --nocapture`.

use std::time::{Duration, Instant};

use crate::node::{Got, World, event};

#[test]
#[ignore = "measures"]
fn latencies() {
    World::each(|broker, mut world| {
        for node in &mut world.nodes {
            node.join("*");
        }
        let receiver = world.nodes.len() - 1;
        for per_second in [1u32, 100, 1000] {
            let count = (per_second * 5).min(2000);
            let (mut taken, mut got) = (Vec::new(), Vec::<Got>::new());
            for number in 0..count {
                let began = Instant::now();
                world.nodes[0].publish_one(event("kept.a", number));
                let before = got.len();
                while got.len() == before {
                    world.nodes[receiver].take(&mut got);
                    std::hint::spin_loop();
                }
                taken.push(began.elapsed());
                std::thread::sleep((Duration::from_secs(1) / per_second).saturating_sub(began.elapsed()));
            }
            taken.sort_unstable();
            let at = |percent: usize| taken[(taken.len() - 1) * percent / 100];
            println!("{broker}: {per_second} events/s: p50 {:?}, p99 {:?}", at(50), at(99));
        }
    });
}
