//! Schemas of core's types, which know nothing of OpenAPI, and of problems.
#![expect(dead_code, reason = "read by the derives alone")]

use std::borrow::Cow;

use serde::Deserialize;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, Object, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

/// Declares a schema of text: its name, what it is, its pattern (ECMA-262), its greatest length, an example.
macro_rules! text {
    ($name:ident, $description:literal, $pattern:literal, $max_length:literal, $example:literal) => {
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = Object::with_type(Type::String);
                let text = ObjectBuilder::from(text).description(Some($description)).pattern(Some($pattern));
                text.max_length(Some($max_length)).examples([$example]).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    };
}

text!(EventId, "An event's id", "^evt_[0-7][0-9a-hjkmnp-tv-z]{25}$", 30, "evt_01h455vb4pex5vsknk084sn02q");
text!(
    EndpointId,
    "An endpoint's id",
    "^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$",
    29,
    "ep_01h455vb4pex5vsknk084sn02q"
);
text!(ReplayId, "A replay's id", "^rpl_[0-7][0-9a-hjkmnp-tv-z]{25}$", 30, "rpl_01h455vb4pex5vsknk084sn02q");
text!(KeyId, "A key's id", "^key_[0-7][0-9a-hjkmnp-tv-z]{25}$", 30, "key_01h455vb4pex5vsknk084sn02q");
text!(
    EventType,
    "Segments of `A-Z a-z 0-9 _ -`, separated by single dots",
    "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$",
    128,
    "invoice.paid"
);
text!(
    PostedType,
    "An event type that does not begin with `eventrail`: those events are EventRail's own",
    "^(?!eventrail(\\.|$))[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$",
    128,
    "invoice.paid"
);
text!(Source, "Who sent an event: visible ASCII", "^[!-~]+$", 128, "billing");
text!(IdempotencyKey, "Names what must happen once: visible ASCII", "^[!-~]+$", 255, "invoice-4711-paid");
text!(
    Pattern,
    "An event type, or `*`, or the first segments of a type and `.*` for one or more others",
    "^(\\*|[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*(\\.\\*)?)$",
    128,
    "invoice.*"
);
text!(GroupName, "The name of a consumer group", "^[a-z0-9][a-z0-9_-]*$", 64, "default");
text!(
    GroupOrAll,
    "The name of a consumer group, or `*` for all groups",
    "^(\\*|[a-z0-9][a-z0-9_-]*)$",
    64,
    "default"
);
text!(
    Fingerprint,
    "What dead letters are told apart by: the status code of the last answer, or the kind of error",
    "^[a-z0-9_]+$",
    64,
    "503"
);
text!(Description, "Text for people, without NUL", "^[^\\x00]*$", 1024, "Invoices for the ledger");
text!(
    Secret,
    "A signing secret of Standard Webhooks: 24 to 64 bytes in base64 after `whsec_`",
    "^whsec_([A-Za-z0-9+/]{4}){8,20}([A-Za-z0-9+/]{4}|([A-Za-z0-9+/]{4})?[A-Za-z0-9+/][AQgw](==)?|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=?)?$",
    94,
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
);

/// Where an endpoint listens.
pub(crate) struct EndpointUrl;

impl PartialSchema for EndpointUrl {
    fn schema() -> RefOr<Schema> {
        let description = "An absolute http or https URL without user name, password or fragment, whose host is \
                           outside private networks";
        ObjectBuilder::from(Object::with_type(Type::String))
            .description(Some(description))
            .format(Some(SchemaFormat::Custom("uri".to_owned())))
            .pattern(Some("^[Hh][Tt][Tt][Pp][Ss]?://"))
            .max_length(Some(2048))
            .examples(["https://example.com/hook"])
            .into()
    }
}

impl ToSchema for EndpointUrl {
    fn name() -> Cow<'static, str> {
        "EndpointUrl".into()
    }
}

/// Headers of an endpoint's own.
pub(crate) struct CustomHeaders;

impl PartialSchema for CustomHeaders {
    fn schema() -> RefOr<Schema> {
        let description = "Headers that each delivery gets: at most 20, of 4 KiB in all, and none that EventRail \
                           or HTTP itself sets";
        let value = ObjectBuilder::from(Object::with_type(Type::String)).max_length(Some(4096));
        ObjectBuilder::from(Object::with_type(Type::Object))
            .description(Some(description))
            .additional_properties(Some(AdditionalProperties::RefOr(value.into())))
            .max_properties(Some(20))
            .examples([serde_json::json!({"x-tenant": "acme"})])
            .into()
    }
}

impl ToSchema for CustomHeaders {
    fn name() -> Cow<'static, str> {
        "CustomHeaders".into()
    }
}

/// Headers of an endpoint's own, as a PATCH changes them (RFC 7396).
pub(crate) struct CustomHeadersPatch;

impl PartialSchema for CustomHeadersPatch {
    fn schema() -> RefOr<Schema> {
        let value = ObjectBuilder::from(Object::default()).max_length(Some(4096));
        let value = value.schema_type(SchemaType::from_iter([Type::String, Type::Null]));
        ObjectBuilder::from(Object::with_type(Type::Object))
            .description(Some("Headers to add or change; null takes one away"))
            .additional_properties(Some(AdditionalProperties::RefOr(value.into())))
            .examples([serde_json::json!({"x-tenant": "acme", "x-old": null})])
            .into()
    }
}

impl ToSchema for CustomHeadersPatch {
    fn name() -> Cow<'static, str> {
        "CustomHeadersPatch".into()
    }
}

/// How retries differ from what is inherited: delays that double, spread by a fifth both ways, or a schedule,
/// which stands alone.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryOverride {
    #[schema(maximum = 50)]
    max_retries: Option<u32>,
    /// Before the first retry; at most `max_backoff_ms`.
    #[schema(minimum = 1, maximum = 2_592_000_000_u64)]
    base_backoff_ms: Option<u64>,
    #[schema(minimum = 1, maximum = 2_592_000_000_u64)]
    max_backoff_ms: Option<u64>,
    /// One delay for each retry.
    #[schema(value_type = Option<Vec<RetryDelay>>, min_items = 1, max_items = 50)]
    schedule_seconds: Option<Vec<u64>>,
}

/// From where on an endpoint is sent events.
pub(crate) struct Start;

impl PartialSchema for Start {
    fn schema() -> RefOr<Schema> {
        let word =
            ObjectBuilder::from(Object::with_type(Type::String)).enum_values(Some(["latest", "earliest"]));
        let time = ObjectBuilder::from(Object::with_type(Type::String))
            .format(Some(SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)));
        let position = ObjectBuilder::from(Object::with_type(Type::Integer))
            .minimum(Some(0))
            .maximum(Some(9_223_372_036_854_775_807_u64));
        let description = "`latest`, `earliest`, a time (RFC 3339) or a position of the log";
        AnyOfBuilder::new().description(Some(description)).item(word).item(time).item(position).into()
    }
}

impl ToSchema for Start {
    fn name() -> Cow<'static, str> {
        "Start".into()
    }
}

/// Where a group's live feed is to begin.
pub(crate) struct StartId;

impl PartialSchema for StartId {
    fn schema() -> RefOr<Schema> {
        let sign = ObjectBuilder::from(Object::with_type(Type::String)).enum_values(Some(["0", "$"]));
        let time = ObjectBuilder::from(Object::with_type(Type::String))
            .format(Some(SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)));
        let position = ObjectBuilder::from(Object::with_type(Type::String)).pattern(Some("^[0-9]{1,18}$"));
        let number = ObjectBuilder::from(Object::with_type(Type::Integer))
            .minimum(Some(0))
            .maximum(Some(9_223_372_036_854_775_807_u64));
        let description = "`0` (all that is kept), `$` (only what comes), a position of the log (what comes after \
                           it), a time (RFC 3339), or the id of the first event";
        AnyOfBuilder::new()
            .description(Some(description))
            .item(sign)
            .item(time)
            .item(position)
            .item(number)
            .item(Ref::from_schema_name("EventId"))
            .into()
    }
}

impl ToSchema for StartId {
    fn name() -> Cow<'static, str> {
        "StartId".into()
    }
}

/// Seconds, up to 30 days.
pub(crate) struct RetryDelay;

impl PartialSchema for RetryDelay {
    fn schema() -> RefOr<Schema> {
        let seconds = ObjectBuilder::from(Object::with_type(Type::Integer));
        seconds.minimum(Some(1)).maximum(Some(2_592_000)).into()
    }
}

impl ToSchema for RetryDelay {
    fn name() -> Cow<'static, str> {
        "RetryDelay".into()
    }
}

/// `delivered` and `dead` are final.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum DeliveryStatus {
    Pending,
    Retrying,
    Delivered,
    Dead,
}

/// What a delivery waits for.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum DeliveryReason {
    Queued,
    Deferred,
    Retrying,
    GroupPaused,
    Parked,
}

/// Whether an endpoint is left alone for now because it keeps failing.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum BreakerState {
    Closed,
    Open,
}

/// Why nothing moves although something waits.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum StallReason {
    Paused,
    NoDispatcher,
    NoRelay,
    Redis,
    EndpointsUnavailable,
}

/// Why an attempt failed.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    Dns,
    EgressDenied,
    Connect,
    Tls,
    Timeout,
    Reset,
    Protocol,
    Status,
}

/// Of a window of the log, or of dead letters.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum ReplayKind {
    Replay,
    Redrive,
}

/// By what dead letters are counted.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum DeadGroupBy {
    Error,
}

/// `done`: all was sent, some may still be retried.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum ReplayStatus {
    Running,
    Cancelled,
    Done,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum EndpointStatus {
    Active,
    Disabled,
}

/// Why an endpoint is disabled.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum DisabledReason {
    Manual,
    Gone,
    Failing,
}

/// A refusal (RFC 9457).
#[derive(ToSchema)]
pub(crate) struct Problem {
    /// Names the kind.
    #[schema(pattern = "^/problems#[a-z-]+$", example = "/problems#invalid-fields")]
    r#type: String,
    title: String,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// For people; it may change.
    detail: String,
    /// Also the header `x-request-id`, and in the log.
    request_id: String,
    /// With `invalid-fields`: what can't be used.
    #[schema(value_type = Vec<FieldError>, required = false)]
    errors: Vec<FieldError>,
    /// With `url-taken`: the endpoint that has the URL.
    #[schema(value_type = EndpointId, required = false)]
    endpoint_id: String,
    /// With `idempotency-key-reused`: the event that has the key.
    #[schema(value_type = EventId, required = false)]
    event_id: String,
}

/// A field that can't be used.
#[derive(ToSchema)]
pub(crate) struct FieldError {
    /// A JSON pointer (RFC 6901) into the body.
    #[schema(example = "/url")]
    pointer: String,
    detail: String,
}
