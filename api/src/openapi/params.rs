//! Parameters in paths. Handlers take them as text, for a malformed one is simply not found.
#![expect(dead_code, reason = "read by the derive alone")]

use utoipa::IntoParams;

use super::schema;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct EventPath {
    /// The event.
    #[param(value_type = schema::EventId)]
    id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct GroupPath {
    /// The group's name.
    #[param(value_type = schema::GroupName)]
    group: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct EndpointPath {
    /// The group's name.
    #[param(value_type = schema::GroupName)]
    group: String,
    /// The endpoint.
    #[param(value_type = schema::EndpointId)]
    id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct KeyPath {
    /// The key's id, not the key.
    #[param(value_type = schema::KeyId)]
    id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ReplayPath {
    /// The replay or redrive.
    #[param(value_type = schema::ReplayId)]
    id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct DeliveryPath {
    #[param(value_type = schema::EventId)]
    event_id: String,
    #[param(value_type = schema::EndpointId)]
    endpoint_id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct FilePath {
    /// The file's name.
    #[param(example = "swagger-ui.css")]
    file: String,
}
