//! What the .proto files say about every method: read once, at start, from the descriptors. Adding
//! an rpc needs nothing here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use http::uri::PathAndQuery;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, Kind, MethodDescriptor, ServiceDescriptor,
};
use proto::policy::v1::{MethodPolicy, Priority, Scope};

/// The option beside an rpc.
const OPTION: &str = "shopkeeper.policy.v1.method";
/// The beginning of packages with an area: `shopkeeper.<area>.v1.<Name>Service`.
const PACKAGE: &str = "shopkeeper.";
/// The area of methods of no service: the gateway answers them, unless a field of the request names
/// a service.
pub const GATEWAY: &str = "gateway";
/// `google.protobuf.MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS`.
const NO_SIDE_EFFECTS: i32 = 1;
/// Timeout of methods that set none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// A method of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Its path, for example `/shopkeeper.churn.v1.ChurnService/GetChurnRisk`.
    pub path: PathAndQuery,
    /// Full name of its service, for example `shopkeeper.churn.v1.ChurnService`.
    pub service: Arc<str>,
    /// The service that answers, for example `churn`, or [`GATEWAY`]. `route_field` comes before
    /// it.
    pub area: Arc<str>,
    /// How long an answer may be served from the cache.
    pub cache_ttl: Option<Duration>,
    /// How long a NOT_FOUND may be served from the cache.
    pub negative_ttl: Option<Duration>,
    /// Deadline of a call without one, and the longest that a call can have.
    pub timeout: Duration,
    /// Whether a cached answer serves every caller or one.
    pub scope: Scope,
    /// Which calls go first when there are too many: those with the lesser priority value.
    pub priority: Priority,
    /// Permits that a call takes of those that its service has.
    pub cost: u32,
    /// Whether a call may be cached and retried.
    pub side_effect_free: bool,
    /// Whether the caller sends a stream.
    pub client_streaming: bool,
    /// Whether the answer is a stream.
    pub server_streaming: bool,
    /// The request's field that names the service.
    pub route_field: Option<RouteField>,
    /// Number of the request's string field `customer_id`, if it has one.
    pub customer_field: Option<u32>,
    /// Whether the answer is a page of a list, all pages of which are one version's.
    pub paged: bool,
}

/// A string field of a request that names a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteField {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: Arc<str>,
    /// The services that it can name; empty: all.
    pub to: BTreeSet<Arc<str>>,
}

impl Method {
    /// Whether there is one request and one answer.
    pub fn is_unary(&self) -> bool {
        !self.client_streaming && !self.server_streaming
    }

    /// Whether any answer may come from the cache.
    pub fn is_cacheable(&self) -> bool {
        self.side_effect_free
            && self.is_unary()
            && (self.cache_ttl.is_some() || self.negative_ttl.is_some())
    }

    /// Whether a call may be retried although it may have arrived.
    pub fn is_repeatable(&self) -> bool {
        self.side_effect_free && self.is_unary()
    }

    /// Its full name without the slash in front, as metrics call it.
    pub fn name(&self) -> &str {
        self.path.path().trim_start_matches('/')
    }
}

/// Every method of the API, by path.
#[derive(Debug, Clone, Default)]
pub struct Methods {
    by_path: HashMap<Box<str>, Arc<Method>>,
}

/// Why the options in the .proto files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MethodsError {
    /// The bytes are not a descriptor set.
    #[error("the descriptors cannot be read")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// The policy option is not among them.
    #[error("the descriptors do not define {OPTION}")]
    NoOption,
    /// The options of a method cannot be used.
    #[error("{method}: {problem}")]
    Method {
        /// Its full name.
        method: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Methods {
    /// Reads the options of every method of the services that have any.
    ///
    /// # Errors
    /// [`MethodsError`] names the method with options that cannot be used.
    pub fn read(descriptors: &[u8]) -> Result<Self, MethodsError> {
        let pool = DescriptorPool::decode(descriptors)?;
        let option = pool
            .get_extension_by_name(OPTION)
            .ok_or(MethodsError::NoOption)?;
        let has_any = |service: &ServiceDescriptor| {
            service
                .methods()
                .any(|m| m.options().has_extension(&option))
        };
        let services = pool.services().filter(has_any);
        let mut by_path = HashMap::new();
        for method in services.flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let method = read(&method, &option).map_err(|problem| MethodsError::Method {
                method: method.full_name().to_owned(),
                problem,
            })?;
            by_path.insert(method.path.path().into(), Arc::new(method));
        }
        Ok(Self { by_path })
    }

    /// The method at a path.
    pub fn get(&self, path: &str) -> Option<&Arc<Method>> {
        self.by_path.get(path)
    }

    /// Every method.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.by_path.values()
    }

    /// Full names of the services, each with the areas that answer its calls; none: all do.
    pub fn services(&self) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
        let mut services: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for method in self.by_path.values() {
            let areas = services.entry(method.service.clone()).or_default();
            match &method.route_field {
                Some(field) => areas.extend(field.to.iter().cloned()),
                None if &*method.area == GATEWAY => {}
                None => drop(areas.insert(method.area.clone())),
            }
        }
        services
    }
}

fn read(method: &MethodDescriptor, option: &ExtensionDescriptor) -> Result<Method, &'static str> {
    let service = method.parent_service();
    let path = PathAndQuery::try_from(format!("/{}/{}", service.full_name(), method.name()));
    let area = service
        .full_name()
        .strip_prefix(PACKAGE)
        .and_then(|rest| rest.split('.').next());
    let options = method.options();
    let policy = policy(&options, option)?;
    let side_effect_free = options
        .get_field_by_name("idempotency_level")
        .is_some_and(|level| level.as_enum_number() == Some(NO_SIDE_EFFECTS));
    let duration = |duration: Option<prost_reflect::prost_types::Duration>| {
        let duration = duration
            .map(Duration::try_from)
            .transpose()
            .map_err(|_| "a duration is negative")?;
        Ok::<_, &'static str>(duration.filter(|duration| !duration.is_zero()))
    };
    Ok(Method {
        path: path.map_err(|_| "its name is not a path")?,
        service: service.full_name().into(),
        area: area.unwrap_or(GATEWAY).into(),
        cache_ttl: duration(policy.cache_ttl)?,
        negative_ttl: duration(policy.negative_ttl)?,
        timeout: duration(policy.timeout)?.unwrap_or(DEFAULT_TIMEOUT),
        scope: policy.scope(),
        priority: Some(policy.priority())
            .filter(|p| *p != Priority::Unspecified)
            .unwrap_or(Priority::Normal),
        cost: policy.cost.max(1),
        side_effect_free,
        client_streaming: method.is_client_streaming(),
        server_streaming: method.is_server_streaming(),
        route_field: route_field(method, &policy)?,
        customer_field: method
            .input()
            .get_field_by_name("customer_id")
            .filter(|field| field.kind() == Kind::String && !field.is_list())
            .map(|field| field.number()),
        paged: method.input().get_field_by_name("page_token").is_some(),
    })
}

/// The field of the request that names the service, if the policy has one.
fn route_field(
    method: &MethodDescriptor,
    policy: &MethodPolicy,
) -> Result<Option<RouteField>, &'static str> {
    Ok(match policy.route_field {
        0 => None,
        _ if method.is_client_streaming() => {
            return Err("a stream of requests cannot name a service");
        }
        number => {
            let field = method
                .input()
                .get_field(number)
                .ok_or("route_field is not a field of the request")?;
            if field.kind() != Kind::String || field.is_list() {
                return Err("route_field is not a string");
            }
            let to = policy
                .route_to
                .iter()
                .map(|area| area.as_str().into())
                .collect();
            Some(RouteField {
                number,
                name: field.name().into(),
                to,
            })
        }
    })
}

fn policy(
    options: &DynamicMessage,
    option: &ExtensionDescriptor,
) -> Result<MethodPolicy, &'static str> {
    let policy = options.get_extension(option);
    let policy = policy.as_message().ok_or("its policy is not a message")?;
    policy
        .transcode_to()
        .map_err(|_| "its policy cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(path: &str) -> Arc<Method> {
        Methods::read(proto::DESCRIPTORS)
            .unwrap()
            .get(path)
            .unwrap()
            .clone()
    }

    #[test]
    fn a_method_is_as_its_proto_says() {
        let risk = method("/shopkeeper.churn.v1.ChurnService/GetChurnRisk");
        assert_eq!(
            (&*risk.area, &*risk.service),
            ("churn", "shopkeeper.churn.v1.ChurnService")
        );
        assert_eq!(risk.name(), "shopkeeper.churn.v1.ChurnService/GetChurnRisk");
        assert_eq!(
            (risk.cache_ttl, risk.negative_ttl, risk.timeout),
            (
                Some(Duration::from_secs(300)),
                Some(Duration::from_secs(10)),
                Duration::from_millis(250)
            )
        );
        assert!(risk.is_cacheable() && risk.is_repeatable() && risk.route_field.is_none());
        assert_eq!((risk.priority, risk.cost), (Priority::High, 1));
        let batch = method("/shopkeeper.churn.v1.ChurnService/BatchGetChurnRisks");
        assert_eq!((batch.priority, batch.cost), (Priority::Low, 10));

        let lines = method("/shopkeeper.anomaly.v1.AnomalyService/ScoreTransactions");
        assert!(
            lines.client_streaming
                && lines.server_streaming
                && !lines.is_cacheable()
                && !lines.is_repeatable()
        );
    }

    #[test]
    fn the_model_service_is_routed_by_the_model_named() {
        let watch = method("/shopkeeper.model.v1.ModelService/WatchModel");
        assert_eq!(
            watch.route_field,
            Some(RouteField {
                number: 1,
                name: "model".into(),
                to: BTreeSet::new()
            })
        );
        assert!(watch.server_streaming && !watch.client_streaming);

        let services = Methods::read(proto::DESCRIPTORS).unwrap().services();
        let areas = |service: &str| {
            services[service]
                .iter()
                .map(|area| &**area)
                .collect::<Vec<_>>()
        };
        assert_eq!(areas("shopkeeper.model.v1.ModelService"), [""; 0]);
        assert_eq!(areas("shopkeeper.churn.v1.ChurnService"), ["churn"]);
        assert_eq!(
            areas("inference.GRPCInferenceService"),
            ["anomaly", "churn", "segmentation"]
        );
    }

    #[test]
    fn questions_about_the_server_are_the_gateways_to_answer() {
        let live = method("/inference.GRPCInferenceService/ServerLive");
        assert_eq!((&*live.area, live.route_field.is_none()), (GATEWAY, true));
        let infer = method("/inference.GRPCInferenceService/ModelInfer")
            .route_field
            .clone()
            .unwrap();
        assert_eq!(
            (infer.number, &*infer.name, infer.to.contains("churn")),
            (1, "model_name", true)
        );
    }

    #[test]
    fn every_service_of_the_api_states_its_policies() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        let services = Methods::read(proto::DESCRIPTORS).unwrap().services();
        for service in pool.services() {
            assert!(
                services.contains_key(service.full_name()),
                "{}",
                service.full_name()
            );
        }
    }

    #[test]
    fn bytes_that_are_not_a_descriptor_set_are_refused() {
        assert!(matches!(
            Methods::read(b"\xff\xff"),
            Err(MethodsError::Descriptors(_))
        ));
        assert!(matches!(Methods::read(b""), Err(MethodsError::NoOption)));
    }
}
