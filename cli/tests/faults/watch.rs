//! The watch itself: a test that can't fail proves nothing.

use crate::traffic::post_all;
use crate::world::World;

#[tokio::test]
async fn the_watch_sees_holes_and_what_is_settled_without_an_outcome() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let dispatcher = world.dispatcher(&[]).await;
    world.hold_all();
    let events = post_all(&api.client(), 0..6).await;
    world.receiver.wait_for(World::owed(&events)).await;
    dispatcher.kill9().await;
    assert_eq!(world.invariants.holes().await.unwrap(), [""; 0]);
    assert_eq!(world.invariants.settled_without_outcome().await.unwrap(), [""; 0]);

    let mut redis = world.stack.redis_connection().await;
    for (_, stream) in world.invariants.live_streams().await.unwrap() {
        // All but the last entry, by whatever means.
        redis::cmd("XTRIM").arg(&stream).arg("MAXLEN").arg(1).exec_async(&mut redis).await.unwrap();
    }
    assert!(!world.invariants.holes().await.unwrap().is_empty());
    world.invariants.settle_all().await.unwrap();
    assert!(!world.invariants.settled_without_outcome().await.unwrap().is_empty());
}
