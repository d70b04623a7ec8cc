//! Why the API server did not answer as asked.

use crate::cause;

/// The message and code of a refusal; for any other error, what caused it.
pub(super) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => cause::told(other),
    }
}
