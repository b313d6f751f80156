//! Days of the log that are long past, made in a moment.

use super::Stack;
use crate::ids::EventId;

impl Stack {
    /// Makes the partitions of the day `days_ago`, as maintenance did then.
    pub async fn make_day(&self, days_ago: i32) {
        let tables: Vec<String> = sqlx::query_scalar(
            "select format('create table if not exists %I partition of %I for values from (%L) to (%L)',
                 t || '_' || to_char(d.day, 'YYYYMMDD'), t, day_floor(d.day), day_floor(d.day + 1))
             from (select (now() at time zone 'utc')::date - $1 as day) d,
                  unnest(array['event', 'delivery', 'attempt']) t",
        )
        .bind(days_ago)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        for table in tables {
            sqlx::raw_sql(sqlx::AssertSqlSafe(table)).execute(&self.pool).await.unwrap();
        }
    }

    /// Appends events of a day in the past, at noon, each under an idempotency key of its own: the log goes on
    /// from them, so they must come before all that is newer.
    pub async fn append_past(&self, days_ago: i32, event_type: &str, count: i64) -> Vec<EventId> {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query("select lock_log()").execute(&mut *transaction).await.unwrap();
        let ids = sqlx::query_scalar(
            "with noon as (
                 select (extract(epoch from (now() at time zone 'utc')::date - $1 + interval '12 hours') * 1000000)::bigint
                        + coalesce((select count(*) from event), 0) as tick,
                     draw_positions($3) as position
             ), made as (
                 insert into event (id, position, event_type, source, payload, created_at)
                 select make_event_id(n.tick + i), n.position + i, $2, 'past', convert_to(i::text, 'UTF8'),
                     tick_to_timestamp(n.tick + i)
                 from noon n, generate_series(0, $3 - 1) i
                 returning id, position, created_at
             ), keyed as (
                 insert into idempotency_key (source, key, event_id, fingerprint, created_at)
                 select 'past', 'key-' || position, id, '', created_at from made
             )
             select id from made order by position",
        )
        .bind(days_ago)
        .bind(event_type)
        .bind(count)
        .fetch_all(&mut *transaction)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        ids
    }
}
