//! Before any handler: unknown services and methods, and the header that keeps a tricked web client out.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::{Either, Ready, ready};
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, Request, Response},
};
use tower::Service;

/// The header every call of the Workload API must carry (SPIFFE Workload Endpoint section 3).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// A service, its methods, and whether its calls need the security header.
#[derive(Debug)]
pub struct Known {
    /// Full name of the service.
    pub service: &'static str,
    /// Its methods.
    pub methods: &'static [&'static str],
    /// Whether the header `workload.spiffe.io: true` is demanded.
    pub guarded: bool,
}

/// Services of the Workload API socket.
pub(super) const PUBLIC: &[Known] = &[
    Known {
        service: "SpiffeWorkloadAPI",
        methods: &[
            "FetchX509SVID",
            "FetchX509Bundles",
            "FetchJWTSVID",
            "FetchJWTBundles",
            "ValidateJWTSVID",
            "FetchWITSVID",
            "FetchWITBundles",
        ],
        guarded: true,
    },
    Known { service: "grpc.health.v1.Health", methods: &["Check", "List", "Watch"], guarded: false },
    Known { service: "grpc.reflection.v1.ServerReflection", methods: &["ServerReflectionInfo"], guarded: false },
    Known { service: "grpc.reflection.v1alpha.ServerReflection", methods: &["ServerReflectionInfo"], guarded: false },
];

/// Services of the administration socket.
pub(super) const ADMIN: &[Known] = &[
    Known { service: "spire.agent.debug.v1.Debug", methods: &["GetInfo"], guarded: false },
    Known {
        service: "spire.api.agent.logger.v1.Logger",
        methods: &["GetLogger", "SetLogLevel", "ResetLogLevel"],
        guarded: false,
    },
];

/// Lets only known methods, and only calls with their header, through to the services behind it.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    inner: S,
    known: &'static [Known],
}

impl<S> Gate<S> {
    pub(super) fn new(inner: S, known: &'static [Known]) -> Self {
        Self { inner, known }
    }
}

fn check(path: &str, headers: &HeaderMap, known: &[Known]) -> Result<(), Status> {
    let Some((service, method)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
        return Err(Status::unimplemented(format!("malformed method name: {path:?}")));
    };
    let Some(found) = known.iter().find(|known| known.service == service) else {
        return Err(Status::unimplemented(format!("unknown service {service}")));
    };
    if !found.methods.contains(&method) {
        return Err(Status::unimplemented(format!("unknown method {method} for service {service}")));
    }
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    let has_header = values.next().is_some_and(|value| value == "true") && values.next().is_none();
    if found.guarded && !has_header {
        return Err(Status::invalid_argument("security header missing from request"));
    }
    Ok(())
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match check(request.uri().path(), request.headers(), self.known) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use federation_specs::proto;
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use tonic::{Code, codegen::http::HeaderValue};

    use super::*;

    fn verdict(path: &str, header: &[&str]) -> Result<(), (Code, String)> {
        let mut headers = HeaderMap::new();
        for value in header {
            headers.append(SECURITY_HEADER, HeaderValue::from_str(value).unwrap());
        }
        check(path, &headers, PUBLIC).map_err(|status| (status.code(), status.message().to_string()))
    }

    #[test]
    fn the_header_is_needed_exactly_once_and_exactly_true() {
        assert_eq!(verdict("/SpiffeWorkloadAPI/FetchX509SVID", &["true"]), Ok(()));
        for header in [&[][..], &["false"], &["True"], &["true", "true"], &["true, true"]] {
            assert_eq!(
                verdict("/SpiffeWorkloadAPI/FetchX509SVID", header),
                Err((Code::InvalidArgument, "security header missing from request".into()))
            );
        }
        assert_eq!(verdict("/grpc.health.v1.Health/Check", &[]), Ok(()));
    }

    #[test]
    fn unknown_names_are_told_before_the_header() {
        let unimplemented = |text: &str| Err((Code::Unimplemented, text.to_string()));
        assert_eq!(
            verdict("/SpiffeWorkloadAPI/NoSuch", &[]),
            unimplemented("unknown method NoSuch for service SpiffeWorkloadAPI")
        );
        assert_eq!(verdict("/no.such.Service/X", &["true"]), unimplemented("unknown service no.such.Service"));
        assert_eq!(verdict("/x", &["true"]), unimplemented("malformed method name: \"/x\""));
    }

    #[test]
    fn the_lists_are_those_of_the_protocol() {
        let descriptors = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        for known in PUBLIC.iter().chain(ADMIN).filter(|known| !known.service.starts_with("grpc.reflection")) {
            let (package, name) = known.service.rsplit_once('.').unwrap_or(("", known.service));
            let service = descriptors
                .file
                .iter()
                .filter(|file| file.package() == package)
                .flat_map(|file| &file.service)
                .find(|service| service.name() == name)
                .unwrap();
            let methods: Vec<&str> = service.method.iter().map(|method| method.name()).collect();
            assert_eq!(methods, known.methods, "{}", known.service);
        }
    }
}
