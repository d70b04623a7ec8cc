//! Why the API server could not be talked to, in one line: an error's own text often leaves out what caused it.

use std::error::Error;
use std::io;

use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};

/// The error with its causes, and what to look at where it is about time.
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    let out_of_time = matches!(
        tls(error),
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ))
    );
    if out_of_time { format!("{text}; is this node's clock right?") } else { text }
}

/// What TLS has to say in it.
fn tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    // An I/O error leaves what is in it out of its causes.
    let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    within.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source()).and_then(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_are_told_once_and_the_clock_where_it_matters() {
        let expired = || rustls::Error::InvalidCertificate(NotValidYet);
        let told_of = |error: io::Error| told(&kube::Error::Service(Box::new(Outer(error))));
        assert_eq!(
            told_of(io::Error::other(expired())),
            format!("ServiceError: cannot connect: {}; is this node's clock right?", expired())
        );
        assert_eq!(told_of(io::Error::other("no route")), "ServiceError: cannot connect: no route");
    }
}
