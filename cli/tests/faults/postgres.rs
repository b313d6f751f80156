//! PostgreSQL restarts, is away, or comes back as it was some time ago.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eventrail_core::servers::Durability;
use eventrail_core::testing::{Answer, CuttingProxy, StackOptions, eventually_within};

use crate::traffic::{Traffic, post_all, try_post};
use crate::world::{DEFAULT, LONG, ORDERS, USERS, World, until_says};

async fn durable_world() -> World {
    World::start_with(StackOptions { durability: Durability::Full, ..StackOptions::default() }).await
}

#[tokio::test]
async fn a_postgres_stopped_and_killed_under_traffic_loses_nothing_that_was_accepted() {
    let mut world = durable_world().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[]).await;
    let traffic = Traffic::start(&api.client());
    for kill in [false, true, true] {
        traffic.more(60).await;
        if kill {
            world.stack.postgres.kill().await;
        }
        world.stack.postgres.restart().await.unwrap();
        traffic.more(20).await;
        let what = if kill { "kill -9 of PostgreSQL" } else { "a fast stop of PostgreSQL" };
        world.heals(what, &traffic.so_far()).await;
    }
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    // The dispatcher kept in memory what it could not record. (Where the answer to a commit was lost it records
    // again, so that an attempt may be counted twice; it is not made twice.)
    assert_eq!(figures.duplicates, 0);
}

#[tokio::test]
async fn while_postgres_is_away_the_api_answers_503_and_outcomes_wait_to_be_recorded() {
    let mut world = durable_world().await;
    let api = world.api(&[]).await;
    let dispatcher = world.dispatcher(&[]).await;
    world.hold_all();
    let mut events = post_all(&api.client(), 0..20).await;
    world.receiver.wait_for(World::owed(&events)).await;
    world.stack.postgres.stop().await;
    world.answer_all();
    world.receiver.release();
    until_says(&dispatcher, "outcomes not recorded yet").await;
    for number in 20..25 {
        let (status, accepted) = try_post(&api.client(), number).await.unwrap();
        assert_eq!((status, accepted.is_some()), (503, false));
    }
    assert_eq!(api.client().get("/readyz").await.status, 503);

    world.stack.postgres.restart().await.unwrap();
    events.extend(post_all(&api.client(), 20..30).await);
    world.heals("some seconds without PostgreSQL", &events).await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "what was sent before is recorded after, not sent again");
}

#[tokio::test]
async fn with_both_away_for_a_while_everything_goes_on_when_they_are_back() {
    let mut world = durable_world().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[]).await;
    let traffic = Traffic::start(&api.client());
    for postgres_first in [true, false] {
        traffic.more(60).await;
        world.stack.postgres.kill().await;
        world.stack.redis.kill().await;
        eventually_within(LONG, async || match try_post(&api.client(), 0).await {
            Some((503, None)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        if postgres_first {
            world.stack.postgres.restart().await.unwrap();
            traffic.more(20).await;
            world.stack.redis.restart().await.unwrap();
        } else {
            world.stack.redis.restart().await.unwrap();
            world.stack.postgres.restart().await.unwrap();
            traffic.more(20).await;
        }
        world.heals("both away", &traffic.so_far()).await;
    }
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0, "the one dispatcher knew what it had sent");
}

#[tokio::test]
async fn a_dispatcher_that_loses_sight_of_postgres_leaves_its_work_to_the_other() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let (postgres, url) = CuttingProxy::for_url(&world.stack.postgres.url()).await;
    let _first = world.dispatcher(&[("DATABASE_URL", &url)]).await;
    let traffic = Traffic::start(&api.client());
    traffic.more(60).await;
    let _second = world.dispatcher(&[]).await;
    postgres.stall();
    traffic.more(60).await;
    eventually_within(LONG, async || {
        let events = traffic.so_far();
        let ids: Vec<_> = events[events.len() - 20..].iter().map(|event| event.event_id()).collect();
        match world.invariants.delivered(&ids).await {
            Ok(1..) => Ok(()),
            Ok(_) => Err("nothing goes on".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    postgres.mend();
    world.heals("a stalled link to PostgreSQL", &traffic.so_far()).await;
    postgres.cut();
    traffic.more(60).await;
    postgres.mend();
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    // The first one is alive, as Redis sees it, and keeps what it has read; nobody sends that again.
    assert_eq!(figures.duplicates, 0);
}

#[tokio::test]
async fn a_dispatcher_that_cannot_record_soon_sends_nothing_more_and_is_killed_with_few_outcomes_unrecorded()
{
    let world = World::start().await;
    let api = world.api(&[]).await;
    let (postgres, url) = CuttingProxy::for_url(&world.stack.postgres.url()).await;
    let first = world.dispatcher(&[("DATABASE_URL", &url), ("MAX_IN_FLIGHT", "8")]).await;
    world.hold_all();
    let events = post_all(&api.client(), 0..100).await;
    world.has_read(&events).await;
    world.receiver.wait_for(3).await;
    postgres.stall();
    for path in [DEFAULT, ORDERS, USERS] {
        world.receiver.always(path, Answer::status(200).after(Duration::from_millis(200)));
    }
    world.receiver.release();
    until_says(&first, "outcomes not recorded yet").await;
    first.kill9().await;

    let _second = world.dispatcher(&[]).await;
    let figures = world.settles(&events, 0).await;
    // What was held, and what eight permits let through in the half second in which a commit may be under way, at 200 ms
    // each.
    assert!((1..=8 + 8 * 3).contains(&figures.duplicates), "{figures:?}");
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// A backup of PostgreSQL's data directory, which is stopped for it.
async fn back_up(world: &mut World) -> PathBuf {
    world.stack.postgres.stop().await;
    let backup = world.stack.directory().join("backup");
    copy(world.stack.postgres.directory(), &backup);
    world.stack.postgres.restart().await.unwrap();
    backup
}

async fn restore(world: &mut World, backup: &Path) {
    world.stack.postgres.stop().await;
    std::fs::remove_dir_all(world.stack.postgres.directory()).unwrap();
    copy(backup, world.stack.postgres.directory());
    world.stack.postgres.restart().await.unwrap();
}

async fn has_new_epochs(world: &World) {
    for (_, stream) in world.invariants.live_streams().await.unwrap() {
        assert!(stream.ends_with(".events.1"), "{stream}");
    }
}

#[tokio::test]
async fn a_backup_restored_under_a_running_dispatcher_begins_new_epochs() {
    let mut world = durable_world().await;
    let api = world.api(&[]).await;
    let _dispatcher = world.dispatcher(&[]).await;
    let kept = post_all(&api.client(), 0..20).await;
    world.settles(&kept, 0).await;
    let backup = back_up(&mut world).await;
    let lost = post_all(&api.client(), 20..60).await;
    world.heals("a backup", &lost).await;
    let before = world.receiver.requests();

    restore(&mut world, &backup).await;
    world.begin_anew();
    // Fewer than were lost: the streams' tails are at positions that the log does not have yet.
    let mut fresh = post_all(&api.client(), 100..105).await;
    world.heals("a restored backup", &fresh).await;
    fresh.extend(post_all(&api.client(), 105..205).await);
    let requests = before.iter().filter(|request| kept.iter().any(|event| event.id == request.webhook_id()));
    assert_eq!(requests.count(), World::owed(&kept));
    let figures = world.settles_after(&kept, &fresh).await;
    assert_eq!(figures.duplicates, 0, "what the log had before is recorded in it");
    has_new_epochs(&world).await;
}

#[tokio::test]
async fn positions_given_again_while_no_dispatcher_ran_are_delivered_as_what_they_are_now() {
    let mut world = durable_world().await;
    let api = world.api(&[]).await;
    let first = world.dispatcher(&[]).await;
    let kept = post_all(&api.client(), 0..20).await;
    world.settles(&kept, 0).await;
    let backup = back_up(&mut world).await;
    let lost = post_all(&api.client(), 20..40).await;
    world.heals("a backup", &lost).await;
    first.kill9().await;

    restore(&mut world, &backup).await;
    world.begin_anew();
    // More than were lost: where the streams' tails are, the log has other events now.
    let fresh = post_all(&api.client(), 100..180).await;
    let _second = world.dispatcher(&[]).await;
    let figures = world.settles_after(&kept, &fresh).await;
    assert_eq!(figures.duplicates, 0);
    has_new_epochs(&world).await;
}

#[tokio::test]
async fn a_postgres_that_vanishes_without_a_word_and_is_replaced_is_found_again() {
    let world = World::start().await;
    let api = world.api(&[]).await;
    let (postgres, url) = CuttingProxy::for_url(&world.stack.postgres.url()).await;
    let _dispatcher = world.dispatcher(&[("DATABASE_URL", &url)]).await;
    let traffic = Traffic::start(&api.client());
    traffic.more(60).await;
    postgres.abandon();
    traffic.more(60).await;
    let events = traffic.stop().await;
    let figures = world.settles(&events, 0).await;
    assert_eq!(figures.duplicates, 0);
}
