//! The method of a call, by its name.

use http::uri::PathAndQuery;
use prost_reflect::MethodDescriptor;

use super::{nearest::did_you_mean, schema::Schema, symbol::Symbol};
use crate::failure::Failure;

/// Cuts `pkg.Svc/Method`, `/pkg.Svc/Method` or `pkg.Svc.Method`.
pub(crate) fn parts(name: &str) -> Result<(&str, &str), Failure> {
    let name = name.trim().trim_start_matches('/');
    let parts = name.split_once('/').or_else(|| name.rsplit_once('.'));
    match parts {
        Some((service, method))
            if !service.is_empty() && !method.is_empty() && !method.contains('/') =>
        {
            Ok((service, method))
        }
        _ => Err(Failure::usage(format!(
            "`{name}` is not a method's name; write `pkg.Service/Method` or `pkg.Service.Method`"
        ))),
    }
}

/// Finds the method, or says which was meant.
pub(crate) async fn find(schema: &mut Schema, name: &str) -> Result<MethodDescriptor, Failure> {
    let (service_name, method_name) = parts(name)?;
    let service = match schema.find(service_name).await? {
        Some(Symbol::Service(service)) => service,
        Some(other) => {
            return Err(Failure::failed(format!(
                "`{service_name}` is {}, and not a service",
                other.kind()
            )));
        }
        None => {
            let services = schema.services().await?;
            return Err(Failure::failed(format!(
                "the peer has no service `{service_name}`{}",
                did_you_mean(service_name, services)
            )));
        }
    };
    let found = service.methods().find(|it| it.name() == method_name);
    found.ok_or_else(|| {
        let methods = service.methods().map(|it| it.name().to_owned());
        Failure::failed(format!(
            "the service {service_name} has no method `{method_name}`{}",
            did_you_mean(method_name, methods)
        ))
    })
}

/// The path of the method's calls in HTTP/2.
pub(crate) fn path(method: &MethodDescriptor) -> Result<PathAndQuery, Failure> {
    let service = method.parent_service();
    let path = format!("/{}/{}", service.full_name(), method.name());
    path.parse()
        .map_err(|error| Failure::failed(format!("`{path}` cannot be called: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_three_spellings() {
        for name in ["a.S/M", "/a.S/M", "a.S.M", " a.S/M "] {
            assert_eq!(parts(name).expect(name), ("a.S", "M"));
        }
        for name in ["", "S", "/", "a.S/", "/M", "a/b/c"] {
            assert!(parts(name).is_err(), "{name}");
        }
    }
}
