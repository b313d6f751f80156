//! The API dies, or can't ring.

use std::sync::{Arc, Mutex};

use eventrail_core::testing::{CuttingProxy, EventrailProcess};

use crate::traffic::{Traffic, post, post_all, try_post};
use crate::world::{BINARY, World};

#[tokio::test]
async fn an_api_killed_after_the_commit_and_before_its_answer_leaves_one_event_under_the_key() {
    let world = World::start().await;
    let _dispatcher = world.dispatcher(&[]).await;
    let (postgres, url) = CuttingProxy::for_url(&world.stack.postgres.url()).await;
    let api = world.api(&[("DATABASE_URL", &url)]).await;
    let first = post(&api.client(), 0).await;
    // From here on PostgreSQL commits, and the API does not hear of it.
    postgres.swallow_answers();
    let producer = tokio::spawn({
        let api = api.client();
        async move { try_post(&api, 1).await }
    });
    // The event is on its way to receivers before its producer has an answer.
    let requests = world.receiver.wait_until(|requests| {
        requests.iter().filter(|request| request.webhook_id() != first.id).count() >= 2
    });
    let id = requests
        .await
        .iter()
        .find(|request| request.webhook_id() != first.id)
        .unwrap()
        .webhook_id()
        .to_owned();
    api.kill9().await;
    assert!(producer.await.unwrap().is_none(), "nobody answered");

    let api = world.api(&[]).await;
    let (status, repeated) = try_post(&api.client(), 1).await.unwrap();
    let repeated = repeated.unwrap();
    assert_eq!((status, &repeated.id), (200, &id), "the first event, and said to be a repetition");
    let figures = world.settles(&[first, repeated], 0).await;
    assert_eq!(figures.duplicates, 0, "one event, so one delivery for each endpoint");
}

#[tokio::test]
async fn an_answer_lost_on_its_way_to_the_producer_is_given_again_to_the_same_key() {
    let world = World::start().await;
    let _dispatcher = world.dispatcher(&[]).await;
    let api = world.api(&[]).await;
    let (link, base) = CuttingProxy::for_url(api.client().base()).await;
    let far_api = eventrail_core::testing::Api::new(base.trim_end_matches('/'));
    link.swallow_answers();
    let producer = tokio::spawn(async move { try_post(&far_api, 0).await });
    let requests = world.receiver.wait_for(3).await;
    api.kill9().await;
    link.cut();
    assert!(producer.await.unwrap().is_none(), "nobody answered");
    let api = world.api(&[]).await;
    let event = post(&api.client(), 0).await;
    assert!(requests.iter().all(|request| request.webhook_id() == event.id));
    let figures = world.settles(&[event], 0).await;
    assert_eq!(figures.duplicates, 0);
}

#[tokio::test]
async fn apis_killed_one_after_the_other_under_traffic_accept_each_event_once() {
    let world = World::start().await;
    let _dispatcher = world.dispatcher(&[]).await;
    let mut api = world.api(&[]).await;
    let base = Arc::new(Mutex::new(api.client()));
    let traffic = Traffic::over(&base);
    for _ in 0..4 {
        traffic.more(60).await;
        let next: EventrailProcess = EventrailProcess::api(BINARY, &world.stack, &[]).await;
        std::mem::replace(&mut api, next).kill9().await;
        *base.lock().unwrap() = api.client();
    }
    traffic.more(60).await;
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "dispatchers noticed nothing");
}

#[tokio::test]
async fn without_a_doorbell_the_relays_poll_finds_the_events() {
    let world = World::start().await;
    let _dispatcher = world.dispatcher(&[]).await;
    let (redis, url) = CuttingProxy::for_url(&world.stack.redis.url()).await;
    let api = world.api(&[("REDIS_URL", &url)]).await;
    redis.cut();
    let mut events = post_all(&api.client(), 0..20).await;
    world.heals("a doorbell that is cut off", &events).await;
    redis.mend();
    redis.stall();
    events.extend(post_all(&api.client(), 20..40).await);
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0);
}
