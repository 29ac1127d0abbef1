//! From path, query and body to a typed request that the model's constraints hold for.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::api_error::ApiError;
use crate::constraint;
use crate::model::{Location, Member, Operation, Shape};
use crate::route::{Route, query_pairs};
use crate::shape::connector::{
    CreateNetworkConnectorRequest, DeleteNetworkConnectorRequest, GetNetworkConnectorRequest,
    ListNetworkConnectorVersionsRequest, ListNetworkConnectorsRequest,
    UpdateNetworkConnectorRequest,
};
use crate::shape::image::{
    CreateMicrovmImageRequest, DeleteMicrovmImageRequest, DeleteMicrovmImageVersionRequest,
    GetMicrovmImageBuildRequest, GetMicrovmImageRequest, GetMicrovmImageVersionRequest,
    ListManagedMicrovmImageVersionsRequest, ListManagedMicrovmImagesRequest,
    ListMicrovmImageBuildsRequest, ListMicrovmImageVersionsRequest, ListMicrovmImagesRequest,
    UpdateMicrovmImageRequest, UpdateMicrovmImageVersionRequest,
};
use crate::shape::microvm::{
    CreateMicrovmAuthTokenRequest, CreateMicrovmShellAuthTokenRequest, GetMicrovmRequest,
    ListMicrovmsRequest, ResumeMicrovmRequest, RunMicrovmRequest, SuspendMicrovmRequest,
    TerminateMicrovmRequest,
};
use crate::shape::tag::{ListTagsRequest, TagResourceRequest, UntagResourceRequest};

macro_rules! requests {
    ($($operation:ident($request:ident)),* $(,)?) => {
        /// A request that its model's constraints hold for.
        #[derive(Debug, Clone)]
        pub enum Request {
            $(
                #[doc = concat!("`", stringify!($operation), "`")]
                $operation($request),
            )*
        }

        impl Request {
            /// Which operation it asks for.
            #[must_use]
            pub fn operation(&self) -> Operation {
                match self {
                    $(Self::$operation(_) => Operation::$operation,)*
                }
            }

            fn typed(operation: Operation, input: Value) -> Result<Self, ApiError> {
                match operation {
                    $(Operation::$operation => read(operation, input).map(Self::$operation),)*
                }
            }
        }
    };
}

requests! {
    CreateMicrovmAuthToken(CreateMicrovmAuthTokenRequest),
    CreateMicrovmImage(CreateMicrovmImageRequest),
    CreateMicrovmShellAuthToken(CreateMicrovmShellAuthTokenRequest),
    DeleteMicrovmImage(DeleteMicrovmImageRequest),
    DeleteMicrovmImageVersion(DeleteMicrovmImageVersionRequest),
    GetMicrovm(GetMicrovmRequest),
    GetMicrovmImage(GetMicrovmImageRequest),
    GetMicrovmImageBuild(GetMicrovmImageBuildRequest),
    GetMicrovmImageVersion(GetMicrovmImageVersionRequest),
    ListManagedMicrovmImageVersions(ListManagedMicrovmImageVersionsRequest),
    ListManagedMicrovmImages(ListManagedMicrovmImagesRequest),
    ListMicrovmImageBuilds(ListMicrovmImageBuildsRequest),
    ListMicrovmImageVersions(ListMicrovmImageVersionsRequest),
    ListMicrovmImages(ListMicrovmImagesRequest),
    ListMicrovms(ListMicrovmsRequest),
    ListTags(ListTagsRequest),
    ResumeMicrovm(ResumeMicrovmRequest),
    RunMicrovm(RunMicrovmRequest),
    SuspendMicrovm(SuspendMicrovmRequest),
    TagResource(TagResourceRequest),
    TerminateMicrovm(TerminateMicrovmRequest),
    UntagResource(UntagResourceRequest),
    UpdateMicrovmImage(UpdateMicrovmImageRequest),
    UpdateMicrovmImageVersion(UpdateMicrovmImageVersionRequest),
    CreateNetworkConnector(CreateNetworkConnectorRequest),
    DeleteNetworkConnector(DeleteNetworkConnectorRequest),
    GetNetworkConnector(GetNetworkConnectorRequest),
    ListNetworkConnectorVersions(ListNetworkConnectorVersionsRequest),
    ListNetworkConnectors(ListNetworkConnectorsRequest),
    UpdateNetworkConnector(UpdateNetworkConnectorRequest),
}

impl Request {
    /// Reads the request of a route. `query` is as it came, still encoded; the caller bounds the
    /// body's size. A body of an operation that has none is ignored.
    ///
    /// # Errors
    /// [`ApiError::Validation`] when the request cannot be read or breaks a constraint of the model.
    pub fn parse(route: Route, query: Option<&str>, body: &[u8]) -> Result<Self, ApiError> {
        let operation = route.operation;
        let shape = operation.model().input;
        let input = gather(shape.members(), route, query.unwrap_or_default(), body)?;
        Self::typed(operation, constraint::conform(shape, Value::Object(input))?)
    }
}

pub(crate) fn gather(
    members: &[Member],
    route: Route,
    query: &str,
    body: &[u8],
) -> Result<Map<String, Value>, ApiError> {
    let mut input = Map::new();
    if members
        .iter()
        .any(|member| member.location == Location::Body)
    {
        let mut body = body_members(body)?;
        for member in members
            .iter()
            .filter(|member| member.location == Location::Body)
        {
            input.extend(body.remove_entry(member.name));
        }
    }
    let pairs = query_pairs(query);
    for member in members {
        if let Location::Query(key) = member.location {
            let given: Vec<&str> = pairs
                .iter()
                .filter(|(name, _)| name == key)
                .map(|(_, value)| value.as_str())
                .collect();
            input
                .extend(query_member(member, &given)?.map(|value| (member.name.to_owned(), value)));
        }
    }
    input.extend(
        route
            .labels
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::String(value))),
    );
    Ok(input)
}

fn body_members(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let unread = |reason: String| {
        ApiError::validation(format!("The request body could not be read: {reason}"))
    };
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(unread("it must be a JSON object".to_owned())),
        // The parser's own words name a line and column and never quote the body.
        Err(error) => Err(unread(format!("it is not JSON ({error})"))),
    }
}

/// The first value counts where a key may come once only.
fn query_member(member: &Member, given: &[&str]) -> Result<Option<Value>, ApiError> {
    if let Shape::List { .. } = member.shape {
        let values: Vec<Value> = given
            .iter()
            .map(|value| Value::String((*value).to_owned()))
            .collect();
        return Ok((!values.is_empty()).then_some(Value::Array(values)));
    }
    let Some(first) = given.first() else {
        return Ok(None);
    };
    if let Shape::Integer { .. } = member.shape {
        let number: i64 = first.parse().map_err(|_| {
            ApiError::validation(format!(
                "The request could not be read: '{}' must be a 32-bit integer",
                member.name
            ))
        })?;
        return Ok(Some(Value::from(number)));
    }
    Ok(Some(Value::String((*first).to_owned())))
}

fn read<T: DeserializeOwned>(operation: Operation, input: Value) -> Result<T, ApiError> {
    // What conforms to the tables is readable; a test proves it for every operation.
    serde_json::from_value(input).map_err(|error| {
        ApiError::validation(format!(
            "The {} request could not be read: {error}",
            operation.name()
        ))
    })
}
